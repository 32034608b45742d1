"""DAPG's pickled policies: read without running anything, and acting as their authors' code does."""

import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from dream_env.errors import ConfigError, SpaceError
from dream_env.experts.by_name import make_expert
from dream_env.experts.dapg_expert import DAPGExpert, read_policy

STATE, ACTION = 5, 3


class MuNet(torch.nn.Module):
    """As mjrl had it in 2018: named layers, plain tensors for the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0, self.fc1, self.fc2 = (torch.nn.Linear(n, m) for n, m in ((STATE, 8), (8, 8), (8, ACTION)))
        self.in_shift, self.in_scale = torch.randn(STATE), torch.rand(STATE) + 0.5
        self.out_shift, self.out_scale = torch.randn(ACTION), torch.rand(ACTION) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.in_shift) / (self.in_scale + 1e-8)
        x = torch.tanh(self.fc1(torch.tanh(self.fc0(x))))
        return self.fc2(x) * self.out_scale + self.out_shift


class Layers(MuNet):
    """As it is in later versions: a list of layers, and the nonlinearity among the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.nonlinearity = torch.tanh
        self.fc_layers = torch.nn.ModuleList([self.fc0, self.fc1, self.fc2])
        for name in ("fc0", "fc1", "fc2"):
            delattr(self, name)

    @property
    def fc0(self) -> Any:
        return self.fc_layers[0]

    @property
    def fc1(self) -> Any:
        return self.fc_layers[1]

    @property
    def fc2(self) -> Any:
        return self.fc_layers[2]


class MLP:
    """The policy around the network."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.old_model = model
        self.log_std = torch.nn.Parameter(torch.tensor([-1.0, 0.0, -2.0]))
        self.log_std_val = np.float64(self.log_std.detach().numpy().ravel())
        self.param_sizes = [1, 2]
        self.d = np.sum([3, 4])


@pytest.fixture(autouse=True)
def _mjrl() -> Iterator[None]:
    # The classes are stored under the names of a package that is gone when the file is read.
    module = types.ModuleType("mjrl.policies.gaussian_mlp")
    sys.modules |= {"mjrl": types.ModuleType("mjrl"), "mjrl.policies": types.ModuleType("mjrl.policies")}
    sys.modules["mjrl.policies.gaussian_mlp"] = module
    for cls in (MuNet, Layers, MLP):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
    yield
    for cls in (MuNet, Layers, MLP):
        cls.__module__ = __name__
    for name in ("mjrl.policies.gaussian_mlp", "mjrl.policies", "mjrl"):
        sys.modules.pop(name, None)


def saved(path: Path, policy: Any, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(policy, protocol=protocol))
    for name in ("mjrl.policies.gaussian_mlp", "mjrl.policies", "mjrl"):
        sys.modules.pop(name, None)
    return path


class Task(gymnasium.Env[Any, Any]):
    observation_space = spaces.Dict({
        "pixels": spaces.Box(0, 255, (4, 4, 3), np.uint8), "state": spaces.Box(-np.inf, np.inf, (STATE,))
    })  # fmt: skip
    action_space = spaces.Box(-1.0, 1.0, (ACTION,))


def seen(rng: np.random.Generator) -> dict[str, Any]:
    return {"pixels": np.zeros((4, 4, 3), np.uint8), "state": rng.normal(size=STATE)}


@pytest.mark.parametrize("network", [MuNet, Layers])
@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_a_policy_acts_as_the_authors_own_network_clipped_into_the_space(
    tmp_path: Path, network: type[MuNet], protocol: int
) -> None:
    torch.manual_seed(0)
    policy = MLP(network())
    expert = make_expert(str(saved(tmp_path / "door-v0.pickle", policy, protocol)), "adroit-door")
    assert isinstance(expert, DAPGExpert)
    expert.reset(Task(), seed=0)
    rng = np.random.default_rng(0)
    clipped = 0
    for _ in range(20):
        observation = seen(rng)
        mean = policy.model(torch.as_tensor(observation["state"], dtype=torch.float32)).detach().numpy()
        action = expert(observation)
        np.testing.assert_allclose(action, np.clip(mean, -1, 1), atol=1e-5)
        assert Task.action_space.contains(action)
        clipped += np.abs(mean).max() > 1
    assert clipped, "clipping was tried"


def test_noise_is_a_share_of_the_policys_own_and_a_function_of_the_seed(tmp_path: Path) -> None:
    policy = MLP(MuNet())
    policy.model.out_shift[:] = 0.0
    policy.model.out_scale[:] = 0.0
    path = saved(tmp_path / "pen.pickle", policy)
    expert = DAPGExpert(path, noise=0.1)
    observation = seen(np.random.default_rng(0))

    def game(seed: int) -> np.ndarray:
        expert.reset(Task(), seed)
        return np.stack([expert(observation) for _ in range(2000)])

    np.testing.assert_array_equal(game(1), game(1))
    assert not np.array_equal(game(1), game(2))
    np.testing.assert_allclose(game(3).std(axis=0), 0.1 * np.exp([-1.0, 0.0, -2.0]), rtol=0.1)


def test_a_policy_of_another_task_is_refused(tmp_path: Path) -> None:
    expert = DAPGExpert(saved(tmp_path / "pen.pickle", MLP(MuNet())))

    class Other(Task):
        action_space = spaces.Box(-1.0, 1.0, (7,))

    with pytest.raises(SpaceError, match=r"pen.pickle takes a state of 5 numbers and gives 3; .* takes Box\(.*\(7,\)"):
        expert.reset(Other(), seed=0)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("this ran",))


def test_a_file_that_wants_to_run_code_is_refused_before_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = MLP(MuNet())
    policy.extra = Evil()  # type: ignore[attr-defined]
    path = saved(tmp_path / "evil.pickle", policy)
    with pytest.raises(
        ConfigError, match=r"evil.pickle is no policy of DAPG's .*asks for builtins.print, which no policy"
    ):
        read_policy(path)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is no policy of DAPG's"),
    (pickle.dumps({"weights": [1.0]}), "it holds a dict, not a policy of mjrl's"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.pickle"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_policy(path)
    with pytest.raises(ConfigError, match="cannot read the expert"):
        read_policy(tmp_path / "missing.pickle")


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    class Beyond:
        def __reduce__(self) -> Any:
            function, (storage, _, _, *rest) = torch.zeros(2).__reduce_ex__(2)
            return function, (storage, 0, (10**6,), *rest)

    policy = MLP(MuNet())
    policy.extra = Beyond()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"beyond.pickle is no policy of DAPG's \(RuntimeError: .*out of bounds"):
        read_policy(saved(tmp_path / "beyond.pickle", policy))
