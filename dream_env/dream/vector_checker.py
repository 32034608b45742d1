"""An examiner for vector environments, which Gymnasium has none of: ``check_dream_env(envs)``.

It knows nothing of dreams: any ``gymnasium.vector.VectorEnv`` with numpy outputs can be examined, each in the autoreset
mode that its metadata declare. A broken rule is an ``AssertionError`` that names it.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

Envs = VectorEnv[Any, Any, Any]
Step = tuple[Any, Any, Any, Any, dict[str, Any]]


def check_dream_env(envs: Envs, *, seed: int = 0, max_steps: int = 1000, seed_per_env: bool = True) -> None:
    """Examine spaces, shapes and types, seeding, infos, the autoreset mode, ``reset_mask``, rendering and closing.

    Args:
        envs: the environments; they are closed at the end.
        seed: of all resets.
        max_steps: give up waiting for an episode to end after so many.
        seed_per_env: sub-environment ``i`` is seeded with ``seed + i``, as Gymnasium's own wrappers do.
    """
    _check_declarations(envs)
    _check_reset(envs, seed, seed_per_env)
    _check_reproducible(envs, seed)
    _check_autoreset(envs, seed, max_steps)
    _check_render(envs)
    envs.close()
    try:
        envs.close()
    except Exception as error:
        raise AssertionError(f"closing twice raised {type(error).__name__}: {error}") from error


def _check_declarations(envs: Envs) -> None:
    assert isinstance(envs, VectorEnv), f"{type(envs).__name__} is no gymnasium.vector.VectorEnv"
    assert isinstance(envs.num_envs, int), f"num_envs is {envs.num_envs!r}, not an int"
    assert envs.num_envs >= 1, f"num_envs is {envs.num_envs}; expected at least 1"
    for kind in ("observation", "action"):
        single, batched = getattr(envs, f"single_{kind}_space"), getattr(envs, f"{kind}_space")
        expected = batch_space(single, envs.num_envs)
        assert batched == expected, (
            f"{kind}_space is {batched}; expected {expected}, num_envs times single_{kind}_space"
        )
    mode = envs.metadata.get("autoreset_mode")
    assert isinstance(mode, AutoresetMode), (
        f'metadata["autoreset_mode"] is {mode!r}; expected a gymnasium AutoresetMode'
    )
    modes = envs.metadata.get("render_modes", [])
    assert envs.render_mode is None or envs.render_mode in modes, f"render_mode {envs.render_mode!r} is not in {modes}"


def _check_reset(envs: Envs, seed: int, seed_per_env: bool) -> None:
    returned = envs.reset(seed=seed)
    assert isinstance(returned, tuple), f"reset() returned {type(returned).__name__}, expected (observations, infos)"
    assert len(returned) == 2, f"reset() returned {len(returned)} values, expected (observations, infos)"
    obs, infos = deepcopy(returned)
    _check_observation(envs, obs, "reset()")
    _check_infos(envs, infos, "reset()")
    again = deepcopy(envs.reset(seed=seed))
    assert data_equivalence(obs, again[0], exact=True), "reset(seed) twice gives different observations"
    assert data_equivalence(infos, again[1]), "reset(seed) twice gives different infos"
    if seed_per_env and envs.num_envs > 1:
        shifted, _ = envs.reset(seed=seed + 1)
        rows, moved = (list(iterate(envs.observation_space, x)) for x in (obs, shifted))
        same = all(data_equivalence(a, b) for a, b in zip(rows[1:], moved[:-1], strict=True))
        assert same, (
            "sub-environment i is not seeded with seed + i: reset(seed=s)[i + 1] differs from reset(seed=s + 1)[i]"
        )
    envs.reset(options={})


def _check_reproducible(envs: Envs, seed: int) -> None:
    first, second = (list(_rollout(envs, seed, 5)) for _ in range(2))
    assert len(first) == len(second), "the same seed and actions end an episode at different steps"
    for t, (a, b) in enumerate(zip(first, second, strict=True)):
        for name, x, y in zip(("observations", "rewards", "terminations", "truncations", "infos"), a, b, strict=True):
            assert data_equivalence(x, y), (
                f"{name} differ at step {t} between two rollouts of the same seed and actions"
            )


def _rollout(envs: Envs, seed: int, steps: int) -> Iterator[Step]:
    """Random actions until an episode ends; copies of what each step returned."""
    kept, _ = envs.reset(seed=seed)
    envs.action_space.seed(seed)
    for t in range(steps):
        before = deepcopy(kept)
        step = envs.step(envs.action_space.sample())
        assert data_equivalence(before, kept, exact=True), f"step {t} wrote into observations it had returned before"
        _check_step(envs, step)
        kept = step[0]
        yield deepcopy(step)
        if _done(step).any():
            return


def _done(step: Step) -> np.ndarray:
    done: np.ndarray = np.logical_or(step[2], step[3])
    return done


def _check_step(envs: Envs, step: Step) -> None:
    assert isinstance(step, tuple), f"step() returned {type(step).__name__}, expected a tuple of 5"
    assert len(step) == 5, f"step() returned {len(step)} values, expected 5"
    obs, reward, terminated, truncated, infos = step
    _check_observation(envs, obs, "step()")
    for name, array, kind in (
        ("rewards", reward, "f"),
        ("terminations", terminated, "b"),
        ("truncations", truncated, "b"),
    ):
        assert isinstance(array, np.ndarray), f"{name} are {type(array).__name__}, expected a numpy array"
        assert array.shape == (envs.num_envs,), f"{name} have shape {array.shape}, expected ({envs.num_envs},)"
        assert array.dtype.kind == kind, f"{name} are of {array.dtype}, expected {'bool' if kind == 'b' else 'floats'}"
    assert np.isfinite(reward).all(), f"rewards are not finite: {reward}"
    _check_infos(envs, infos, "step()")


def _check_observation(envs: Envs, obs: Any, where: str) -> None:
    assert obs in envs.observation_space, f"observations of {where} are not in observation_space"
    rows = list(iterate(envs.observation_space, obs))
    assert len(rows) == envs.num_envs, f"{where} gave {len(rows)} observations for {envs.num_envs} sub-environments"
    for i, row in enumerate(rows):
        assert row in envs.single_observation_space, f"observation {i} of {where} is not in single_observation_space"


def _check_infos(envs: Envs, infos: Any, where: str) -> None:
    assert isinstance(infos, dict), f"infos of {where} are {type(infos).__name__}, expected a dict of arrays"
    for key, value in infos.items():
        if key.startswith("_"):
            continue
        mask = infos.get(f"_{key}")
        assert isinstance(mask, np.ndarray), f"infos of {where}: {key!r} has no mask '_{key}'"
        assert mask.shape == (envs.num_envs,), f"infos of {where}: mask '_{key}' has shape {mask.shape}"
        assert mask.dtype == np.bool_, f"infos of {where}: mask '_{key}' is of {mask.dtype}, expected bool"
        if not isinstance(value, dict):
            assert len(value) == envs.num_envs, (
                f"infos of {where}: {key!r} has {len(value)} entries for {envs.num_envs}"
            )


def _check_autoreset(envs: Envs, seed: int, max_steps: int) -> None:
    last: Step | None = None
    for last in _rollout(envs, seed, max_steps):  # noqa: B007 (the last one is what is looked at)
        pass
    assert last is not None, "max_steps is 0"
    done = _done(last)
    if not done.any():
        return
    mode = envs.metadata["autoreset_mode"]
    if mode is AutoresetMode.SAME_STEP:
        _check_same_step(envs, last, done)
    else:
        assert "final_obs" not in last[4], f"final_obs is for SAME_STEP autoreset; this is {mode}"
    if mode is AutoresetMode.NEXT_STEP:
        after = envs.step(envs.action_space.sample())
        _check_step(envs, after)
        assert not np.asarray(after[1])[done].any(), "NEXT_STEP: the step that resets must give reward 0"
        assert not _done(after)[done].any(), "NEXT_STEP: the step that resets must be neither terminated nor truncated"
    if mode is AutoresetMode.DISABLED:
        _check_disabled(envs, last, done)


def _check_same_step(envs: Envs, step: Step, done: np.ndarray) -> None:
    infos = step[4]
    for key in ("final_obs", "final_info"):
        assert key in infos, f"SAME_STEP: infos have no {key!r} at the end of an episode"
        assert np.array_equal(infos[f"_{key}"], done), f"SAME_STEP: mask '_{key}' is not where episodes ended"
    for i in np.flatnonzero(done):
        inside = infos["final_obs"][i] in envs.single_observation_space
        assert inside, f"SAME_STEP: final_obs[{i}] is not in single_observation_space"
    _check_step(envs, envs.step(envs.action_space.sample()))


def _check_disabled(envs: Envs, step: Step, done: np.ndarray) -> None:
    try:
        envs.step(envs.action_space.sample())
    except Exception:  # Gymnasium's own raise AssertionError, others ResetNeeded
        pass
    else:
        raise AssertionError("DISABLED: a step with ended sub-environments must raise until they are reset")
    obs, infos = envs.reset(options={"reset_mask": done.copy()})
    _check_observation(envs, obs, "reset(reset_mask)")
    _check_infos(envs, infos, "reset(reset_mask)")
    before, after = (list(iterate(envs.observation_space, x)) for x in (step[0], obs))
    for i in np.flatnonzero(~done):
        assert data_equivalence(before[i], after[i]), (
            f"reset_mask: sub-environment {i} was not to be reset, but changed"
        )
    _check_step(envs, envs.step(envs.action_space.sample()))


def _check_render(envs: Envs) -> None:
    if envs.render_mode != "rgb_array":
        return
    frames = envs.render()
    assert isinstance(frames, tuple), f"render() gave {type(frames).__name__}, expected a tuple of frames"
    assert len(frames) == envs.num_envs, f"render() gave {len(frames)} frames for {envs.num_envs} sub-environments"
    for i, frame in enumerate(frames):
        good = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3
        assert good, f"frame {i} is not a uint8 array of shape (height, width, 3)"
