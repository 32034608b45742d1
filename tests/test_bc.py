"""Cloning from observations: what the policy is shown, in training and in play, alone and beside others."""

from dataclasses import dataclass, replace

import gymnasium
import numpy as np
import pytest
import torch
from agents import pong_model, short_pong
from dream_env.plugins.bc import BC, ObservationPolicy
from gymnasium import spaces
from small_datasets import record_cartpole, tiny_fit

from dream_env import checkpoint
from dream_env.agent import Agent, load_agent, save_agent
from dream_env.checkpoint import read_json
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError
from dream_env.filtering import LatentFilter
from dream_env.latent import Latent
from dream_env.measuring.closeness import action_agreement
from dream_env.measuring.evaluation import EvaluateStage, evaluate, evaluate_stage
from dream_env.model.encoded import encode
from dream_env.model.recorded import Recorded
from dream_env.model.world_model import WorldModel, WorldModelConfig
from dream_env.plugin import Policy, RowMemory, load_learner
from dream_env.recordings.demos import Demos
from dream_env.run_folder import read_metrics
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec
from dream_env.stages import ImitateStage, fit_stage, imitate_stage
from dream_env.testing import check_learner, tiny_demos, tiny_world_model

FAST = {"net_arch": (32,), "batch": 64, "learning_rate": 3e-3, "entropy": 0.0}


@pytest.fixture(autouse=True)
def recordings(monkeypatch):
    """The recordings of a tiny model are those in memory."""
    load = Demos.load

    def tiny(dataset, *arguments, **options):
        return tiny_demos() if dataset == "tiny/square-v0" else load(dataset, *arguments, **options)

    monkeypatch.setattr(Demos, "load", tiny)


def dream(**options) -> DreamEnv:
    world_model = tiny_world_model()
    return DreamEnv(2, wm=world_model, expert=encode(world_model, tiny_demos()), horizon=5, **options)


def column(image: np.ndarray) -> np.ndarray:
    """Where the bright square begins, of pictures (..., 16, 16, 1)."""
    bright = image[..., 5, :, 0] > 128
    return (bright & ~np.roll(bright, 1, axis=-1)).argmax(axis=-1)


def fresh(world_model: WorldModel, **options) -> ObservationPolicy:
    """A policy with random weights, for models without recordings."""
    policy = BC(**options).fresh_policy(world_model)
    policy.network.eval()
    return policy


def watched(policy: ObservationPolicy, monkeypatch) -> list[dict[str, np.ndarray]]:
    """What the policy's network is shown from now on."""
    shown, act = [], policy.act

    def note(packed, deterministic):
        shown.append({name: x.numpy().copy() for name, x in packed.items()})
        return act(packed, deterministic)

    monkeypatch.setattr(policy, "act", note)
    return shown


# ------------------------------------------------------------------------------------------------------- what is shown


def test_stacks_are_kept_for_each_environment_and_begin_anew_with_its_episode(monkeypatch):
    policy = fresh(tiny_world_model(), stack=3)
    shown = watched(policy, monkeypatch)
    state = None
    for first, second, starts in ((1, 11, [1, 1]), (2, 12, [0, 0]), (3, 13, [0, 1]), (4, 14, [0, 0])):
        frames = np.stack([np.full((16, 16, 1), x, np.uint8) for x in (first, second)])
        _, state = policy.predict({"image": frames}, state, np.array(starts, dtype=bool), True)
    assert [packed["image"][:, :, 0, 0, 0].tolist() for packed in shown] == [
        [[1, 1, 1], [11, 11, 11]],
        [[1, 1, 2], [11, 11, 12]],
        [[1, 2, 3], [13, 13, 13]],
        [[2, 3, 4], [13, 13, 14]],
    ]


def test_play_is_shown_what_training_is(monkeypatch):
    own = dream()
    policy = fresh(own.world_model, stack=4)
    shown = watched(policy, monkeypatch)
    agent, episode = Agent(own.world_model, policy), tiny_demos().episode(2)
    state = agent.start([0])
    for t in range(20):
        _, state = agent.predict(episode.obs["image"][t][..., 0][None], state, np.array([t == 0]), True)
    played = np.concatenate([packed["image"] for packed in shown])
    trained, action = BC(stack=4).examples(own)[torch.arange(40, 60)]  # the third episode's steps
    np.testing.assert_array_equal(played, trained["image"].numpy())
    np.testing.assert_array_equal(action.numpy(), episode.action_t)


def test_recorded_rows_are_those_of_the_model_states():
    demos, world_model = tiny_demos(), tiny_world_model()
    expert = encode(world_model, demos).select([3, 1])
    recorded = Recorded.of(world_model, expert)
    np.testing.assert_array_equal(
        recorded.at(np.array([[0, 20], [21, 41]]))["image"][0, 1], demos.episode(3).obs["image"][20]
    )
    np.testing.assert_array_equal(recorded.at(np.arange(21, 42))["image"], demos.episode(1).obs["image"])


def test_recordings_that_have_changed_since_are_refused():
    world_model = tiny_world_model()
    expert = encode(world_model, tiny_demos())
    with pytest.raises(
        DatasetError, match=r"episode 0 has 20 steps, but in 'tiny/square-v0' it has 21: .*imitate anew"
    ):
        Recorded(tiny_demos(steps=21), expert)
    with pytest.raises(DatasetError, match=r"episode 3 has 20 steps, but in 'tiny/square-v0' it has no"):
        Recorded(tiny_demos(episodes=3), expert)


def test_slips_and_episodes_left_out_are_not_cloned():
    own = dream(episodes=2)
    own.expert._slip[3:9] = True
    examples = BC(stack=1).examples(own)
    packed, _ = examples[torch.arange(len(examples))]
    wanted = [tiny_demos().episode(e).obs["image"][t] for e in (0, 1) for t in range(20) if e or not 3 <= t < 9]
    np.testing.assert_array_equal(packed["image"][:, 0].numpy(), np.stack(wanted))


# ---------------------------------------------------------------------------------------------------- what is learned


def learn(own: DreamEnv, updates: int, **options):
    rows = []
    learner = load_learner("bc", **{**FAST, **options})
    policy = learner.learn(own, updates * learner.batch, progress=lambda _, metrics: rows.append(metrics))
    return policy, rows


def test_without_entropy_a_few_pictures_are_learned_by_heart():
    own = dream(episodes=1)
    own.expert._action[:-1] = torch.tensor(column(tiny_demos().episode(0).obs["image"][:-1]) % 3)
    policy, rows = learn(own, 120, stack=1)
    assert (rows[-1]["updates"], rows[-1]["steps"]) == (120, 120 * FAST["batch"])
    assert rows[-1]["clone_loss"] < 0.02
    recorded = Recorded.of(own.world_model, own.expert)
    assert action_agreement(policy, own.expert, recorded=recorded) == 1.0


def test_a_clone_is_looked_at_as_it_plays_and_learns_on_in_training_mode():
    own, modes = dream(), []
    learner = load_learner("bc", **FAST, log_every=2, report_last=1)
    update = learner._update
    learner._update = lambda policy, *more: modes.append(policy.network.training) or update(policy, *more)
    learner.learn(own, 6 * learner.batch, progress=lambda policy, _: modes.append(policy.network.training))
    assert modes == [True, True, False] * 3


def test_two_pictures_show_what_one_cannot():
    own = dream()
    for e in range(4):  # the expert does what was done before it, which only shows in how the square has moved
        moved = np.diff(column(tiny_demos().episode(e).obs["image"]), prepend=0)
        own.expert._action[21 * e : 21 * e + 21] = torch.tensor((moved + 1) % 16)
        own.expert._action[21 * e] = 1
    accuracy = [learn(own, 300, stack=stack)[1][-1]["clone_accuracy"] for stack in (1, 2)]
    assert accuracy[0] < 0.9
    assert accuracy[1] > 0.99


def test_the_entropy_weight_raises_the_entropy():
    low, high = (learn(dream(), 60, entropy=weight)[1][-1]["clone_entropy"] for weight in (0.0, 1.0))
    assert high > low + 0.1


@pytest.mark.parametrize("config", [WorldModelConfig.small(), replace(WorldModelConfig.paper(), depth=2, width=8)])
def test_the_encoder_is_the_world_models_with_room_for_the_stack(config):
    both = spaces.Dict({"camera": spaces.Box(0, 255, (64, 64, 3), np.uint8), "state": spaces.Box(-1, 1, (5,))})
    action = ActionSpec.from_space(spaces.Box(-1.0, 1.0, (2,)))
    observation = ObservationSpec.from_space(both, ObservationConfig())
    world_model = WorldModel(config, observation, action, tiny_demos().source)

    def shapes(encoders):
        return [tuple(x.shape) for encoder in encoders for x in encoder.state_dict().values()]

    assert shapes(fresh(world_model, stack=1).network.encoders) == shapes(world_model.encoders.values())
    policy = fresh(world_model, stack=3)
    chosen, memory = policy.predict({name: x[None] for name, x in observation.pack(both.sample()).items()})
    assert chosen.shape == (1, 2)
    assert [x.shape[:2] for x in memory] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(("options", "message"), [
    ({"stack": 0}, "stack must be at least 1, not 0"),
    ({"batch": 0}, "batch must be at least 1, not 0"),
])  # fmt: skip
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_learner("bc", **options)


# ----------------------------------------------------------------------------------------------------------- contract


@dataclass
class DecodedBC(BC):
    """BC for the examiner, which shows every policy model states: its policy sees them decoded."""

    def learn(self, dream, steps, **options):
        progress = options.pop("progress", lambda policy, metrics: None)
        inner = super().learn(dream, steps, progress=lambda p, metrics: progress(Decoded(p), metrics), **options)
        return Decoded(inner)

    @classmethod
    def restore(cls, config, weights):
        return Decoded(BC.restore(config, weights))


class Decoded(Policy):
    def __init__(self, policy):
        self.policy, self.world_model = policy, tiny_world_model()

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        with torch.no_grad():
            image = self.world_model.decode(_latent(self.world_model, observation))["image"].round().to(torch.uint8)
        return self.policy.predict({"image": image.numpy()}, state, episode_start, deterministic)

    def config(self):
        return self.policy.config()

    def state_dict(self):
        return self.policy.state_dict()


def _latent(world_model, feat):
    return Latent(*torch.as_tensor(feat).split([world_model.deter_size, world_model.stoch_size], dim=-1))


@pytest.mark.parametrize("stack", [1, 3])
def test_bc_keeps_the_contract(stack):
    check_learner(DecodedBC(stack=stack, net_arch=(16,), batch=48, log_every=2), steps=480)


# --------------------------------------------------------------------------------------------------------------- acting


def agent_of(world_model, **options):
    return Agent(world_model, fresh(world_model, **options))


@pytest.mark.parametrize("stack", [1, 4])
def test_pong_side_by_side_is_played_as_one_by_one(stack):
    agent = agent_of(pong_model(), stack=stack)
    together = evaluate(agent, short_pong, 3, seed=40, deterministic=True, parallel=3)
    assert together == evaluate(agent, short_pong, 3, seed=40, deterministic=True, parallel=1)


def test_the_filter_is_not_run_for_a_policy_of_observations(monkeypatch):
    monkeypatch.setattr(LatentFilter, "step", None)
    agent = agent_of(pong_model())
    action, state = agent.predict(np.zeros((2, 64, 64, 1), np.uint8))
    assert action.shape == (2,)
    assert torch.equal(state.action_tm1, torch.as_tensor(action))


def test_some_environments_of_a_state_can_be_chosen():
    agent = agent_of(pong_model(), stack=3)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64, 1), dtype=np.uint8)  # (time, environments, ...)
    _, state = agent.predict(frames[0])
    _, state = agent.predict(frames[1], state)
    _, whole = agent.predict(frames[2], state, deterministic=True)
    action, part = agent.predict(frames[2][[3, 1]], state.select([3, 1]), deterministic=True)
    np.testing.assert_array_equal(part.policy_state[0], whole.policy_state[0][[3, 1]])
    np.testing.assert_array_equal(action, whole.action_tm1[[3, 1]])
    assert isinstance(part.policy_state, RowMemory)
    with pytest.raises(AssertionError, match="cannot be cut into rows"):
        replace(state, policy_state=tuple(state.policy_state)).select([0])


def test_loaded_agent_acts_as_the_saved_one(tmp_path):
    world_model = pong_model()
    checkpoint.save(world_model, tmp_path / "wm")
    agent = agent_of(world_model, stack=2)
    save_agent(agent, tmp_path / "bc", world_model_folder=tmp_path / "wm", learner=BC)
    loaded = load_agent(tmp_path / "bc")
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 64, 64, 1), dtype=np.uint8)
    states = [None, None]
    for observation in frames:
        actions = []
        for i, who in enumerate((agent, loaded)):
            action, states[i] = who.predict(observation, states[i], deterministic=True)
            actions.append(action)
        np.testing.assert_array_equal(*actions)


def test_agreement_without_recordings_says_what_is_missing():
    own = dream()
    with pytest.raises(ConfigError, match=r"pass recorded=Recorded\.of"):
        action_agreement(fresh(own.world_model), own.expert)


# --------------------------------------------------------------------------------------------------------------- stages


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """A world model of CartPole, balanced by a rule, and an agent that cloned it from single observations."""
    root = tmp_path_factory.mktemp("cartpole")
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, root)
        wm = fit_stage(tiny_fit(record_cartpole(), root / "wm"), progress=False)
        stage = ImitateStage(wm, root / "bc", steps=64 * 200, num_envs=4, horizon=5, demos=3, snapshots=2)
        learner = load_learner("bc", stack=1, net_arch=(32,), batch=64, learning_rate=1e-2, log_every=50)
        imitate_stage(stage, "ditto", learner, progress=False)
    return root


def _use(patch, root):
    patch.setenv("MINARI_DATASETS_PATH", str(root / "minari"))
    patch.setenv("DREAM_ENV_CACHE", str(root / "cache"))


def test_imitate_leaves_an_agent_of_observations_and_its_agreement(cartpole):
    rows = read_metrics(cartpole / "bc" / "metrics.csv")
    assert [row["steps"] for row in rows] == [3200, 6400, 9600, *range(12224, 12801, 64)]
    watched = [row for row in rows if "action_agreement" in row]
    assert len(watched) == 3
    assert watched[-1]["action_agreement"] > 0.8
    assert not any("latent_distance" in row for row in rows)
    assert set(read_metrics(cartpole / "bc" / "reward_by_step.csv")[0]) == {"step", "expert", "random"}
    assert len(list((cartpole / "bc" / "snapshots").iterdir())) == 3
    assert read_json(cartpole / "bc" / "meta.json")["demos"] == 3


def test_a_clone_that_is_finished_needs_its_recordings_no_longer(cartpole, monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path))
    stage = ImitateStage(cartpole / "wm", cartpole / "bc", steps=64 * 200, num_envs=4, horizon=5, demos=3, snapshots=2)
    learner = load_learner("bc", stack=1, net_arch=(32,), batch=64, learning_rate=1e-2, log_every=50)
    assert imitate_stage(stage, "ditto", learner, progress=False) == cartpole / "bc"


def test_the_clone_balances_the_pole_and_several_poles_as_each_alone(cartpole):
    agent = load_agent(cartpole / "bc")
    assert agent.policy.observes == "observation"

    def make():
        return gymnasium.make("CartPole-v1", max_episode_steps=100)

    together = evaluate(agent, make, 8, seed=50, deterministic=True, parallel=5)
    assert together == evaluate(agent, make, 8, seed=50, deterministic=True, parallel=1)
    assert np.mean([result.return_ for result in together]) > 60  # random actions: about 22


def test_evaluate_plays_with_it_and_with_its_snapshots(cartpole, monkeypatch):
    _use(monkeypatch, cartpole)
    evaluate_stage(EvaluateStage(cartpole / "bc", episodes=2, snapshot_episodes=1, video=False), progress=False)
    games = (cartpole / "bc" / "episodes.csv").read_text().splitlines()
    assert len(games) == 1 + 3 * 2 + 3
