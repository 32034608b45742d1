import gymnasium
import numpy as np
import pytest
import torch
from agents import LinearLearner, LinearPolicy, linear_agent, pong_model, short_pong
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from robots import _robots  # noqa: F401

from dream_env import checkpoint
from dream_env.agent import Agent, load_agent, save_agent
from dream_env.checkpoint import write_json
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError, SpaceError
from dream_env.measuring import results
from dream_env.measuring.closeness import _acting, _rewards
from dream_env.measuring.evaluation import (
    EvaluateStage,
    _select,
    action_agreement,
    environment_of,
    evaluate,
    evaluate_stage,
    latent_distance,
    reward_by_step,
)
from dream_env.measuring.selection import select_snapshot
from dream_env.model.encoded import EncodedDemos, encode, save_encoded
from dream_env.model.world_model import WorldModel
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult, RandomActor
from dream_env.playing.real_environment import signature
from dream_env.plugin import Policy, load_reward
from dream_env.real.environments import make_environment
from dream_env.showing.report import results_table
from dream_env.spaces import ObservationConfig, ObservationSpec
from dream_env.tiny import tiny_demos, tiny_expert, tiny_world_model


class Countdown(gymnasium.Env):
    """An episode has as many steps as its seed's last digit; action 1 is worth 1."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    broken_at: int | None = None
    what = "reward"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.left = seed, seed % 10
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action):
        self.left -= 1
        broken = self.left == self.broken_at
        observation = np.full(2, np.nan if broken and self.what == "observation" else 0.0, dtype=np.float32)
        reward = np.nan if broken and self.what == "reward" else float(action)
        return observation, reward, self.left == 0, False, {}


class CountingActor:
    """Remembers, in a memory whose rows it alone understands, how many steps each environment has behind it."""

    def __init__(self):
        self.batches = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        state = np.zeros((3, len(observation))) if state is None else state
        state = np.where(episode_start, 0, state) + 1
        self.batches.append(len(observation))
        return np.ones(len(observation), dtype=np.int64), state


class Snow(gymnasium.Env):
    """Pictures of noise; each action counts, and when it was done. Episodes are of several lengths."""

    observation_space = spaces.Box(0, 255, (16, 16), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_t, self.length = 0, 4 + seed % 3
        return self.np_random.integers(0, 255, (16, 16), dtype=np.uint8), {}

    def step(self, action):
        reward = float(action * 3**self.step_t)
        self.step_t += 1
        picture = self.np_random.integers(0, 255, (16, 16), dtype=np.uint8)
        return picture, reward, self.step_t == self.length, False, {}


class Sensitive(Policy):
    """Another action at the least other model state; with a memory, of which nobody knows that it could be cut, if asked."""

    def __init__(self, memory=False):
        self.memory = memory

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        action = (np.abs(observation.astype(np.float64)).sum(axis=1) * 1e4).astype(np.int64) % 3
        return action, (np.zeros((1, len(observation))),) if self.memory else None

    def config(self):
        return {}

    def state_dict(self):
        return {}


class ExpertPolicy(Policy):
    """Knows the expert's action in each of the expert's states."""

    def __init__(self, expert):
        rows = expert.step_rows()
        self.feat, self.action = expert.latents(rows).feat, expert.actions(rows)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.action[torch.cdist(torch.as_tensor(observation), self.feat).argmin(dim=1)].numpy(), None

    def config(self):
        return {}

    def state_dict(self):
        return {}


# ------------------------------------------------------------------------------------------------------ real episodes


def test_episode_i_is_played_with_seed_plus_i_and_counted_whole():
    actor = CountingActor()
    played = evaluate(actor, Countdown, 6, seed=11, parallel=6)
    assert played == [EpisodeResult(seed, float(seed % 10), seed % 10) for seed in range(11, 17)]


def test_free_environments_take_the_next_episode():
    made = []

    def make():
        made.append(Countdown())
        return made[-1]

    played = evaluate(RandomActor(Countdown.action_space), make, 8, seed=11, parallel=3)
    assert [result.seed for result in played] == list(range(11, 19))
    assert [result.length for result in played] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(made) == 3


def test_only_live_environments_are_acted_in():
    class Plain(CountingActor):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return super().predict(observation, None, episode_start)[0], None

    actor = Plain()
    evaluate(actor, Countdown, 3, seed=11, parallel=3)
    assert actor.batches == [3, 2, 1]
    with_memory = CountingActor()
    evaluate(with_memory, Countdown, 3, seed=11, parallel=3)
    assert with_memory.batches == [3, 3, 3]  # its memory cannot be cut


@pytest.mark.parametrize("memory", [False, True])
def test_result_does_not_depend_on_how_many_are_played_side_by_side(memory):
    agent = Agent(tiny_world_model(), Sensitive(memory))
    together = evaluate(agent, Snow, 7, seed=40, parallel=7)
    for parallel in (3, 2, 1):
        assert evaluate(agent, Snow, 7, seed=40, parallel=parallel) == together
    alone = [evaluate(agent, Snow, 1, seed=40 + i)[0] for i in range(7)]
    assert alone == together
    assert len({result.return_ for result in together}) > 3


def test_sampled_episodes_repeat_with_their_seed_and_leave_torchs_random_state_alone():
    agent = linear_agent(pong_model())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = evaluate(agent, short_pong, 2, seed=40)
    assert torch.equal(torch.rand(1), expected)
    assert evaluate(agent, short_pong, 2, seed=40) == first


class Strict(Countdown):
    """Takes actions of its space only, in float64: of what a policy says in float32 the bounds are outside by a rounding."""

    action_space = spaces.Box(-0.1, 0.1, (1,), np.float64)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step(action[0])


class Always:
    """Does the same whatever it sees."""

    def __init__(self, action):
        self.action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.stack([self.action] * len(observation)), None


def test_what_float32_rounded_out_of_the_space_is_put_onto_its_bound_and_what_is_further_out_is_refused():
    (played,) = evaluate(Always(np.array([0.1], np.float32)), Strict, 1, seed=13)
    assert played.return_ == pytest.approx(0.3)
    with pytest.raises(
        SpaceError, match=r"the actor chose the action \[0\.2\d*\] \(float32\), but the environment takes Box"
    ):
        evaluate(Always(np.array([0.2], np.float32)), Strict, 1, seed=13)


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_simulator_that_breaks_down_is_named_with_seed_and_step(what):
    class Broken(Countdown):
        broken_at = 4

    Broken.what = what
    with pytest.raises(SpaceError, match=rf"gave a {what}.* not finite \(nan\) at step \d of the episode with seed 15"):
        evaluate(RandomActor(Countdown.action_space), Broken, 1, seed=15)


def test_environment_that_does_not_fit_the_agent_is_refused_before_playing():
    with pytest.raises(SpaceError, match="takes actions of Discrete"):
        evaluate(linear_agent(pong_model()), lambda: make_environment("breakout"), 1)


def test_an_episode_is_cut_off_after_the_steps_given():
    played = evaluate(CountingActor(), Countdown, 4, seed=12, parallel=2, max_steps=4)
    assert [result.length for result in played] == [2, 3, 4, 4]
    assert [result.return_ for result in played] == [2.0, 3.0, 4.0, 4.0]
    with pytest.raises(ConfigError, match="at most 0 steps were asked for; max_steps must be at least 1"):
        evaluate(CountingActor(), Countdown, 1, max_steps=0)


def test_no_episodes_at_all_are_refused():
    with pytest.raises(ConfigError, match="both must be at least 1"):
        evaluate(CountingActor(), Countdown, 0)


def test_environments_are_closed_even_if_one_breaks():
    closed = []

    class Broken(Countdown):
        broken_at = 2

        def close(self):
            closed.append(self.number)

    with pytest.raises(SpaceError):
        evaluate(RandomActor(Countdown.action_space), Broken, 2, seed=14)
    assert closed == [14, 15]


# ----------------------------------------------------------------------------------------------------- inside the dream


def test_expert_agrees_with_itself_and_a_stubborn_policy_by_chance():
    world_model = tiny_world_model()
    expert = tiny_expert(world_model, episodes=1, steps=60)
    assert action_agreement(ExpertPolicy(expert), expert) == 1.0

    class Stubborn(ExpertPolicy):
        def predict(self, observation, *args):
            return np.full(len(observation), 2), None

    share = float((expert.actions(expert.step_rows()) == 2).double().mean())
    assert action_agreement(Stubborn(expert), expert) == pytest.approx(share, abs=0.15)


def test_agreement_of_box_actions_is_their_squared_difference():
    world_model = tiny_world_model(action_space=spaces.Box(-1.0, 1.0, (2,)))
    expert = tiny_expert(world_model, episodes=1, steps=60)

    class Off(ExpertPolicy):
        def predict(self, observation, *args):
            return super().predict(observation)[0] + 0.5, None

    assert action_agreement(Off(expert), expert) == pytest.approx(0.25)


def test_an_expert_that_slips_often_is_followed_for_as_long_as_it_does_not():
    whole = tiny_expert(tiny_world_model(), episodes=1, steps=60)
    tensors = whole.tensors()
    tensors["slip"] = torch.arange(whole.num_rows) % 6 == 0  # five steps between two slips
    expert = EncodedDemos.from_tensors(tensors)
    seen = []

    class Watching(ExpertPolicy):
        def predict(self, observation, *args):
            seen.append(len(observation))
            return super().predict(observation, *args)

    assert action_agreement(Watching(expert), expert) == 1.0
    assert len(seen) == 4  # half of half of sixteen
    tensors["slip"] = torch.ones(whole.num_rows, dtype=torch.bool)
    with pytest.raises(DatasetError, match="go 1 steps without a slip"):
        action_agreement(Watching(expert), EncodedDemos.from_tensors(tensors))


def test_latent_distance_is_one_minus_dittos_reward_along_the_dream():
    world_model = tiny_world_model()
    expert = tiny_expert(world_model)
    policy = LinearPolicy(world_model.feat_size, 3)
    dream = DreamEnv(8, wm=world_model, expert=expert, horizon=5)
    observation, _ = dream.reset(seed=3)
    rewards = []
    for _ in range(5):
        observation, reward, *_ = dream.step(policy.predict(observation, deterministic=True)[0])
        rewards.append(reward.mean())
    distance = latent_distance(policy, dream, deterministic=True, seed=3)
    assert distance == pytest.approx(1.0 - np.mean(rewards), abs=1e-6)
    rows = dream.expert.windows(5)[:8].numpy()
    assert latent_distance(policy, dream, rows=rows, deterministic=True) != pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_latent_distance_is_the_same_whatever_the_reward_and_leaves_the_dream_as_it_is(precision):
    world_model = tiny_world_model()
    expert, policy = tiny_expert(world_model), LinearPolicy(world_model.feat_size, 3)

    def dream(reward, **options):
        return DreamEnv(
            8, wm=world_model, expert=expert, reward=reward, reward_options=options, horizon=5, precision=precision
        )

    expected = 1.0 - float(_rewards(dream("ditto"), _acting(policy, False), None, 3).mean())
    for own in (dream("ditto"), dream("ditto", metric="l2"), dream("ditto", space="z"), dream("gail", hidden=(8,))):
        before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
        assert latent_distance(policy, own, seed=3) == expected
        assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())


def test_reward_by_step_has_a_line_for_expert_random_and_learner(tmp_path):
    world_model = tiny_world_model()
    expert = encode(world_model, tiny_demos())
    path = tmp_path / "reward_by_step.csv"
    policies = {"learner": LinearPolicy(world_model.feat_size, 3)}
    rows = reward_by_step(world_model, expert, load_reward("ditto"), policies, horizon=4, n=64, path=path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert path.read_text().splitlines()[0] == "step,expert,random,learner"
    assert rows == reward_by_step(world_model, expert, load_reward("ditto"), policies, horizon=4, n=64)


def test_experts_line_replays_the_experts_own_actions():
    world_model = tiny_world_model()
    expert = tiny_expert(world_model, episodes=1, steps=60)
    rows = reward_by_step(world_model, expert, load_reward("ditto"), {"same": ExpertPolicy(expert)}, horizon=1, n=256)
    assert rows[0]["expert"] == pytest.approx(rows[0]["same"], abs=1e-3)  # one step from the expert's own state
    assert rows[0]["expert"] != pytest.approx(rows[0]["random"], abs=1e-6)


def test_reward_that_learns_is_left_as_it_was():
    class Learning(type(load_reward("ditto"))):
        name = "learning"
        prepared = 0

        def prepare(self, world_model, expert):
            object.__setattr__(self, "prepared", self.prepared + 1)
            object.__setattr__(self, "level", torch.zeros(1))

        def update(self, rollout):
            object.__setattr__(self, "level", self.level + 1.0)
            return {}

        def __call__(self, transition):
            return self.level.expand(len(transition.step_t)).clone()

        def state_dict(self):
            return {"level": self.level}

        def load_state_dict(self, state):
            object.__setattr__(self, "level", state["level"])

    world_model = tiny_world_model()
    expert = tiny_expert(world_model)
    reward = Learning()
    reward.prepare(world_model, expert)
    reward.load_state_dict({"level": torch.full((1,), 7.0)})
    rows = reward_by_step(world_model, expert, reward, {}, horizon=2, n=4)
    assert rows[-1] == {"step": 2.0, "expert": 7.0, "random": 7.0}
    assert (float(reward.level), reward.prepared) == (7.0, 1)


# ------------------------------------------------------------------------------------------------------------ the stage


@pytest.fixture
def run(tmp_path):
    """A run's folder with a world model and an agent of real Pong, cut after a few steps."""
    world_model = pong_model()
    spec = short_pong().spec
    assert spec is not None
    world_model.source = type(world_model.source)("pong/tiny-v0", "ALE/Pong-v5", spec.to_json(), {})
    folder = tmp_path / "tiny"
    checkpoint.save(world_model, folder / "wm", {"expert_returns": [20.0, 18.0], "minutes": 2.0})
    agent = Agent(world_model, LinearPolicy(world_model.feat_size, 6))
    reward = {"class": "dream_env.plugins.ditto:Ditto", "space": "both", "last_step_zero": False}
    options = {"class": "dream_env.plugins.on_policy:PPO", "warm_start": "bc"}
    meta = {"minutes": 3.0, "demos": 2, "reward": reward, "options": options}
    save_agent(
        agent, folder / "ditto", world_model_folder=folder / "wm", learner=LinearLearner, meta=meta
    )  # fmt: skip
    write_json(folder / "ditto" / "run.json", {"stage": "imitate", "seed": 4, "horizon": 7})
    (folder / "ditto" / "snapshots").mkdir()
    for steps in (0, 500):
        checkpoint.write_tensors(folder / f"ditto/snapshots/{steps:09d}.safetensors", agent.policy.state_dict())
    return folder


def test_stage_leaves_rows_of_random_expert_sampled_and_argmax(run, tmp_path):
    stage = EvaluateStage(run / "ditto", episodes=2, snapshot_episodes=1, video=False, results=tmp_path / "all.csv")
    evaluate_stage(stage, progress=False)
    rows = results.read(run / "ditto" / "evaluation.csv")
    assert [(row.method, row.deterministic) for row in rows] == [
        ("random", False), ("expert", False), ("ditto", False), ("ditto", True)
    ]  # fmt: skip
    agent = rows[-1]
    assert (agent.learner, agent.warm_start, agent.seed, agent.n_expert, agent.horizon) == ("ppo", "bc", 4, 2, 7)
    assert agent.options == '{"ditto.space": "both"}'
    assert (agent.wall_minutes, agent.eval_seed, agent.episodes) == (5.0, 10_000, 2)
    assert rows[1].normalized == 1.0
    assert rows[0].normalized == 0.0
    assert '"frame_skip": 4' in agent.protocol
    assert results.read(tmp_path / "all.csv") == rows
    assert sorted(GameLog(run / "ditto" / "episodes.csv").through_training()) == [0, 500]


def test_another_environment_is_refused_before_random_games_are_played_and_noted(run, monkeypatch):
    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", None)  # would be called
    with pytest.raises(SpaceError, match="takes actions of Discrete"):
        evaluate_stage(EvaluateStage(run / "ditto", episodes=1, video=False, environment="breakout"), progress=False)
    assert not (run / "ditto" / "episodes.csv").exists()


def test_stage_called_again_plays_only_what_is_missing(run, monkeypatch):
    stage = EvaluateStage(run / "ditto", episodes=2, snapshot_episodes=0, video=False)
    evaluate_stage(stage, progress=False)
    before = results.read(run / "ditto" / "evaluation.csv")
    played = []

    def watch(actor, make, **options):
        played.append(list(options["seeds"]))
        return evaluate(actor, make, **options)

    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", watch)
    evaluate_stage(stage, progress=False)
    assert played == []
    assert results.read(run / "ditto" / "evaluation.csv")[0].returns == before[0].returns
    evaluate_stage(EvaluateStage(run / "ditto", episodes=3, snapshot_episodes=0, video=False), progress=False)
    assert played == [[10_002]] * 3


def test_last_policies_play_a_row_of_their_own_each_in_its_own_games(run, monkeypatch, tmp_path):
    folder = run / "ditto"
    (folder / "tail").mkdir()
    for k, steps in enumerate((480, 490, 500)):
        weight = torch.full((pong_model().feat_size, 6), float(k))
        checkpoint.write_tensors(folder / f"tail/{steps:09d}.safetensors", {"weight": weight})
    played = []

    def watch(actor, make, **options):
        played.append((float(actor.policy.weight.mean()) if isinstance(actor, Agent) else None, options["seeds"]))
        return evaluate(actor, make, **options)

    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", watch)
    (folder / "metrics.csv").write_text(METRICS)
    options = {"episodes": 2, "snapshot_episodes": 0, "video": False, "results": tmp_path / "all.csv"}
    evaluate_stage(EvaluateStage(folder, tail_episodes=2, **options), progress=False)
    first = [[10_000 + 2 * k, 10_001 + 2 * k] for k in range(3)]
    assert played[-3:] == [(0.0, first[0]), (1.0, first[1]), (2.0, first[2])]
    row = results.read(folder / "evaluation.csv")[-1]
    assert (row.tail, row.episodes, row.deterministic, row.method) == (3, 6, False, "ditto")
    assert row.options == '{"ditto.space": "both", "tail": 3}'
    assert [other.tail for other in results.read(folder / "evaluation.csv")[:-1]] == [0, 0, 0, 0]
    noted = (row.steps, row.updates, row.latent_distance, row.action_agreement)
    assert noted == (None, None, None, None)  # three policies, and no one's
    assert "| ditto + ppo from bc, last 3 | sampled | 2 | 1 | 6 |" in results_table([tmp_path / "all.csv"])
    played.clear()
    evaluate_stage(EvaluateStage(folder, tail_episodes=2, **options), progress=False)
    assert played == []
    assert GameLog(folder / "episodes.csv").through_training() == {}  # these are no policies on the way


def test_last_policies_that_nobody_kept_are_asked_for_before_a_game_is_played(run, monkeypatch):
    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", None)
    with pytest.raises(ConfigError, match=r"holds no last policies .*imitate with --tail 10"):
        evaluate_stage(EvaluateStage(run / "ditto", tail_episodes=20), progress=False)


# --------------------------------------------------------------------------------------- a policy chosen without playing

METRICS = """steps,updates,dream_reward,latent_distance,action_agreement
0,0,,0.1,0.4
250,2,0.7,,
500,4,0.9,0.3,0.8
"""


@pytest.fixture
def two_snapshots(run):
    """The latent distance prefers the policy at 0 steps, which acts at random, the agreement the one at 500."""
    (run / "ditto" / "metrics.csv").write_text(METRICS)
    weight = torch.zeros(pong_model().feat_size, 6)
    checkpoint.write_tensors(run / "ditto/snapshots/000000000.safetensors", {"weight": weight})
    return run


def test_selected_policy_is_played_beside_the_last_in_the_same_games(two_snapshots, tmp_path, monkeypatch):
    folder = two_snapshots / "ditto"
    played = []

    def watch(actor, make, **options):
        played.append((float(actor.policy.weight.abs().sum()) if isinstance(actor, Agent) else None, options["seeds"]))
        return evaluate(actor, make, **options)

    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", watch)
    options = {"episodes": 2, "video": False, "results": tmp_path / "all.csv"}
    evaluate_stage(EvaluateStage(folder, snapshot_episodes=0, **options), progress=False)
    played.clear()
    evaluate_stage(EvaluateStage(folder, snapshot_episodes=1, select="latent_distance", **options), progress=False)
    assert [weight for weight, _ in played[:2]] == [0.0, 0.0]  # the policy at 0 steps; the last is not played again
    assert [list(seeds) for _, seeds in played] == [[10_000, 10_001]] * 2 + [[11_000]] * 2
    rows = results.read(folder / "evaluation.csv")
    assert [(row.method, row.select, row.deterministic) for row in rows] == [
        ("random", "", False), ("expert", "", False), ("ditto", "", False), ("ditto", "", True),
        ("ditto", "latent_distance", False), ("ditto", "latent_distance", True),
    ]  # fmt: skip
    assert rows[-1].options == '{"ditto.space": "both", "select": "latent_distance"}'
    noted = [(row.steps, row.updates, row.latent_distance, row.action_agreement) for row in rows]
    assert noted == [(None,) * 4] * 2 + [(500, 4, 0.3, 0.8)] * 2 + [(0, 0, 0.1, 0.4)] * 2
    assert (rows[-1].seed, rows[-1].eval_seed, rows[-1].episodes) == (4, 10_000, 2)
    assert sorted(GameLog(folder / "episodes.csv").through_training()) == [0, 500]
    table = results_table([tmp_path / "all.csv"])
    assert "| ditto + ppo from bc by latent_distance | argmax | 2 | 1 | 2 |" in table
    assert "| ditto + ppo from bc | argmax | 2 | 1 | 2 |" in table  # evaluated twice, and still one training seed


def test_agreement_is_the_more_the_better_and_a_squared_error_the_less(two_snapshots):
    folder = two_snapshots / "ditto"
    assert select_snapshot(folder, "latent_distance", less=True)[0] == 0
    assert select_snapshot(folder, "action_agreement", less=False)[0] == 500
    assert select_snapshot(folder, "action_agreement", less=True) == (0, folder / "snapshots/000000000.safetensors")


def test_evaluation_takes_the_end_that_is_better_of_the_environment_s_actions(two_snapshots, monkeypatch):
    stage = EvaluateStage(two_snapshots / "ditto", select="action_agreement")
    agent = load_agent(stage.agent)
    steps, chosen = _select(stage, agent)
    assert (steps, float(chosen.policy.weight.abs().sum()) > 0) == (500, True)  # numbered: the share that agrees
    continuous = tiny_world_model(action_space=spaces.Box(-1, 1, (2,), np.float32))
    steps, chosen = _select(stage, Agent(continuous, agent.policy))
    assert (steps, float(chosen.policy.weight.abs().sum())) == (0, 0.0)  # a squared error


def test_of_equal_policies_the_one_trained_longest_is_selected(two_snapshots):
    (two_snapshots / "ditto/metrics.csv").write_text("steps,latent_distance\n0,0.25\n500,0.25\n")
    assert select_snapshot(two_snapshots / "ditto", "latent_distance", less=True)[0] == 500


def test_real_returns_have_no_say(two_snapshots):
    log = GameLog(two_snapshots / "ditto" / "episodes.csv")
    for steps, return_ in ((0, -21.0), (500, 21.0)):
        log.add(f"after {steps} steps", steps, False, EpisodeResult(11_000, return_, 9))
    assert select_snapshot(two_snapshots / "ditto", "latent_distance", less=True)[0] == 0
    with pytest.raises(ConfigError, match=r"cannot be selected by 'return'.*The real return is none of them"):
        select_snapshot(two_snapshots / "ditto", "return", less=False)


def test_steps_beyond_six_digits_find_their_row(run):
    for steps in (1_007_616, 1_499_136):
        checkpoint.write_tensors(run / f"ditto/snapshots/{steps:09d}.safetensors", {"weight": torch.zeros(1)})
    (run / "ditto/metrics.csv").write_text("steps,latent_distance\n1.00762e+06,0.3\n1.49914e+06,0.2\n")
    assert select_snapshot(run / "ditto", "latent_distance", less=True)[0] == 1_499_136


def test_nothing_to_select_from_is_said_before_a_game_is_played(run):
    stage = EvaluateStage(run / "ditto", select="latent_distance", video=False)
    with pytest.raises(ConfigError, match=r"metrics.csv has no latent_distance for any of the 2 policies"):
        evaluate_stage(stage, progress=False)
    for path in (run / "ditto/snapshots").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match=r"no policies kept on the way.*imitate with --snapshots 10"):
        evaluate_stage(stage, progress=False)
    assert not (run / "ditto" / "episodes.csv").exists()


def test_dataset_without_an_environment_says_what_to_do():
    with pytest.raises(ConfigError, match=r"does not say which environment.*--environment.*dream_env.evaluate\(agent"):
        environment_of(tiny_world_model())


def test_an_environment_that_was_not_recorded_can_be_named():
    world_model = tiny_world_model(observation_space=spaces.Box(0, 255, (24, 24, 3), np.uint8))
    env = environment_of(world_model, environment="pong")()
    assert env.observation_space.shape == (24, 24, 3), "with pictures of the size that the model takes"
    env.close()
    with pytest.raises(ConfigError, match=r"rendering='default' was asked for.*name the environment too"):
        environment_of(world_model, rendering="default")


def test_stage_plays_the_environment_that_is_named(run):
    stage = EvaluateStage(run / "ditto", episodes=1, snapshot_episodes=0, video=False, environment="pong")
    model = checkpoint.load(run / "wm")
    assert environment_of(model)().spec.kwargs["max_num_frames_per_episode"] == 80
    played = []

    class Short(Countdown):
        spec = make_environment("pong").spec
        observation_space, action_space = model.observation_spec.space, model.action_spec.space

        def reset(self, *, seed=None, options=None):
            return np.zeros((64, 64, 1), np.uint8), super().reset(seed=seed)[1]

        def step(self, action):
            played.append(action)
            return np.zeros((64, 64, 1), np.uint8), 1.0, True, False, {"success": True}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dream_env.playing.real_environment.make_environment", lambda *_, **__: Short())
        evaluate_stage(stage, progress=False)
    assert len(played) == 3
    rows = results.read(run / "ditto" / "evaluation.csv")
    assert [(row.method, row.success, row.tasks) for row in rows] == [
        ("random", 1.0, None), ("expert", None, None), ("ditto", 1.0, None), ("ditto", 1.0, None)
    ]  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"episodes.csv holds games of ALE/Pong-v5 \w{8}, and now ALE/Pong-v5 \w{8} is to"
    ):
        evaluate_stage(EvaluateStage(run / "ditto", episodes=1, video=False), progress=False)


# ----------------------------------------------------------------------- environments without a limit, or without pictures


class Endless(gymnasium.Env):
    """Shows black pictures, has no pictures to render, and never ends."""

    spec = EnvSpec("Endless-v0", entry_point=f"{__name__}:Endless")
    observation_space, action_space = spaces.Box(0, 255, (64, 64, 1), np.uint8), spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        return np.zeros((64, 64, 1), np.uint8), {}

    def step(self, action):
        self.steps += 1
        return np.zeros((64, 64, 1), np.uint8), 1.0, False, False, {}

    def render(self):
        raise NotImplementedError("there is [nothing] to see")


@pytest.fixture
def endless(run, monkeypatch):
    """An agent's folder whose longest demonstration has 4 steps, and a game without an end."""
    for split, steps in (("train", 4), ("held_out", 2)):
        save_encoded(tiny_expert(tiny_world_model(), episodes=1, steps=steps), run / "wm", split)
    monkeypatch.setattr("dream_env.playing.real_environment.make_environment", lambda *_, **__: Endless())
    return run / "ditto"


def stage_of(folder, **options):
    return EvaluateStage(
        folder, **{"episodes": 1, "snapshot_episodes": 0, "video": False, "environment": "endless", **options}
    )


def test_where_nothing_ends_an_episode_it_is_cut_off_and_that_is_told(endless, capsys):
    evaluate_stage(stage_of(endless))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Endless-v0 has no limit of steps: episodes are cut off after 40, 10 times the longest") == 1
    rows = results.read(endless / "evaluation.csv")
    assert [row.returns for row in rows if row.method != "expert"] == [(40.0,)] * 3
    assert all('"max_steps": 40' in row.protocol for row in rows)
    with pytest.raises(ConfigError, match=r"holds games of Endless-v0 \w{8}, and now Endless-v0 \w{8} is to be played"):
        evaluate_stage(stage_of(endless, max_steps=7), progress=False)


def test_steps_given_cut_off_what_would_go_on_and_are_part_of_the_protocol(endless):
    evaluate_stage(stage_of(endless, max_steps=7), progress=False)
    rows = results.read(endless / "evaluation.csv")
    assert [row.returns for row in rows if row.method != "expert"] == [(7.0,)] * 3
    assert all('"max_steps": 7' in row.protocol for row in rows)


def test_games_of_before_that_came_to_an_end_are_not_played_again(endless, monkeypatch):
    log = GameLog(endless / "episodes.csv", environment=signature(Endless()))
    for key in (("random", -1, False), ("agent", -1, False), ("agent", -1, True)):
        log.add(*key, EpisodeResult(10_000, 3.0, 40))
    monkeypatch.setattr("dream_env.measuring.evaluation.evaluate", None)  # would be called
    evaluate_stage(stage_of(endless), progress=False)
    assert results.read(endless / "evaluation.csv")[-1].returns == (3.0,)
    log.add("agent", -1, True, EpisodeResult(10_000, 3.0, 41))
    with pytest.raises(ConfigError, match="results of the two must not be mixed"):
        evaluate_stage(stage_of(endless), progress=False)


@pytest.mark.parametrize("max_steps", [None, 500, 600])
def test_a_limit_of_the_environments_own_leaves_the_protocol_as_it_was(endless, monkeypatch, max_steps):
    spec = EnvSpec("Endless-v0", entry_point=f"{__name__}:Endless", max_episode_steps=500)
    monkeypatch.setattr(Endless, "spec", spec)
    monkeypatch.setattr(Endless, "step", lambda self, action: (*Endless().reset()[:1], 0.0, True, False, {}))
    evaluate_stage(stage_of(endless, max_steps=max_steps), progress=False)
    assert GameLog(endless / "episodes.csv").environment == signature(Endless())


def test_a_game_without_pictures_to_render_ends_with_the_table_and_a_word_about_the_video(endless, monkeypatch, capsys):
    monkeypatch.setattr(Endless, "render_mode", "rgb_array")
    evaluate_stage(stage_of(endless, video=True))
    said = " ".join(capsys.readouterr().out.split())
    note = said.index("no agent.mp4: NotImplementedError: there is [nothing] to see; --no-video leaves it out")
    assert said.index("Endless-v0, ") < note, "the table comes first"
    assert not (endless / "agent.mp4").exists()


# -------------------------------------------------------------------------------------------------------------- success


class Hand(Countdown):
    """Successful in every step of an episode whose seed's last digit is 5 or more."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"success": self.number % 10 >= 5}


def test_an_episode_says_whether_it_succeeded():
    played = evaluate(RandomActor(Hand.action_space), Hand, 4, seed=13, parallel=2)
    assert [(result.seed, result.success, result.tasks) for result in played] == [
        (13, 0.0, None), (14, 0.0, None), (15, 1.0, None), (16, 1.0, None)
    ]  # fmt: skip


def test_success_is_logged_and_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "episodes.csv"
    path.write_text("policy,steps,deterministic,seed,return,length\nagent,-1,True,10000,2.5,20\n")
    log = GameLog(path, environment="Hand-v1 0a")
    old = EpisodeResult(10_000, 2.5, 20)
    assert log.played("agent", -1, True) == {10_000: old}
    new = EpisodeResult(10_001, 3.0, 30, success=1.0, tasks=3.0)
    log.add("agent", -1, True, new)
    assert GameLog(path).played("agent", -1, True) == {10_000: old, 10_001: new}
    with pytest.raises(ConfigError, match="holds games of Hand-v1 0a, and now Hand-v1 0b is to be played"):
        GameLog(path, environment="Hand-v1 0b")


@pytest.mark.usefixtures("_robots")
def test_an_agent_of_pictures_plays_the_robot_that_its_recordings_do_not_name(tmp_path):
    env = make_environment("adroit-door", size=16)
    config = ObservationConfig(size=16, keys=("pixels",), gray=False)
    tiny = tiny_world_model(action_space=env.action_space)
    world_model = WorldModel(
        tiny.config, ObservationSpec.from_space(env.observation_space, config), tiny.action_spec,
        type(tiny.source)("adroit/door-v0", "", None, {"success": 1.0}),
    ).eval()  # fmt: skip
    env.close()

    class Still(LinearPolicy):
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros((len(observation), 28), np.float32), None

    agent = Agent(world_model, Still(world_model.feat_size, 28))
    make = environment_of(world_model, environment="adroit-door")
    result = evaluate(agent, lambda: gymnasium.wrappers.TimeLimit(make(), 4), 1)[0]
    assert (result.length, result.success, result.tasks) == (4, 0.0, None)
