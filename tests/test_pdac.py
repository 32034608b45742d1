"""P-DAC: what its networks see, which way its reward points, and real runs of SAC on small real environments."""

import gymnasium
import numpy as np
import pytest
import torch
from dream_env.plugins.pdac import Pdac
from dream_env.plugins.pdac_discriminator import Discriminator
from dream_env.plugins.pdac_run import PdacRun
from dream_env.plugins.pdac_steps import ABSORBING, StackedView, Steps, shifted
from gymnasium import spaces

from dream_env import checkpoint
from dream_env.agent import Agent, load_agent, save_agent
from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError, PluginError
from dream_env.filtering import stack
from dream_env.learning.online import RealWorld
from dream_env.measuring.evaluation import evaluate
from dream_env.model.encoded import encode
from dream_env.model.recorded import Recorded
from dream_env.playing.real_episodes import RealEpisodes
from dream_env.plugin import load_learner
from dream_env.recordings.cache import Converted
from dream_env.recordings.demos import Demos, Source
from dream_env.recordings.replay import Replay
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec, Standardizer
from dream_env.testing import tiny_demos, tiny_expert, tiny_world_model

CPU = torch.device("cpu")
SMALL = {"net_arch": (32,), "batch": 16, "seed_steps": 20, "learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}


class Slide(gymnasium.Env):
    """A bright square on a line of 13 places, pushed by up to 2 at a step; the expert pushes right. 10 steps."""

    action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)

    def __init__(self, picture: bool = True, ends: bool = False):
        self.picture, self.ends = picture, ends
        box = (0, 255, (16, 16), np.uint8) if picture else (0.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Box(*box)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float(self.np_random.integers(13)), 0
        return self._see(), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 2.0 / 3.0 * action[0], 0.0, 12.0))
        self.t += 1
        there = self.x == 12.0
        return self._see(), self.x / 12.0, self.ends and there, self.t == 10, {"success": there}

    def _see(self):
        if not self.picture:
            return np.array([self.x / 12.0], np.float32)
        image = np.full((16, 16), 20, np.uint8)
        image[4:8, round(self.x) : round(self.x) + 4] = 230
        return image


class Both(Slide):
    """The same as a picture and, deeper down, as a number."""

    def __init__(self):
        super().__init__()
        numbers = spaces.Dict({"place": spaces.Box(0.0, 1.0, (1,), np.float32)})
        self.observation_space = spaces.Dict({"camera": self.observation_space, "arm": numbers})

    def _see(self):
        return {"camera": super()._see(), "arm": {"place": np.array([self.x / 12.0], np.float32)}}


def recordings(make, expert, episodes=3) -> Demos:
    """What ``expert`` does in an environment, held in memory."""
    env = make()
    spec = ObservationSpec.from_space(env.observation_space, ObservationConfig(size=16))
    rows, actions, lengths, terminated = [], [], [], []
    for seed in range(episodes):
        observation, over = env.reset(seed=seed)[0], False
        rows.append(observation)
        actions.append(np.zeros(env.action_space.shape, np.float32))
        first = len(rows)
        while not over:
            action = np.asarray(expert(observation), np.float32)
            observation, _, end, cut, _ = env.step(action)
            over = end or cut
            rows.append(observation)
            actions.append(action)
        lengths.append(len(rows) - first)
        terminated.append(end)
    packed = spec.pack(stack(rows), batch_dims=1)
    statistics = {name: (x.mean(0, dtype=np.float32), x.std(0, dtype=np.float32)) for name, x in packed.items()}
    meta = {
        "observation": spec.to_json(), "action": ActionSpec.from_space(env.action_space).to_json(),
        "lengths": lengths, "returns": [0.0] * episodes, "terminated": terminated,
    }  # fmt: skip
    data = Converted(meta, packed, np.stack(actions), np.zeros(len(rows), bool), statistics)
    return Demos(Source("tiny/slide-v0", "", None, {}), spec.config, data)


class World:
    """A dream of an environment and the environment, with room for what is played."""

    def __init__(self, folder, make, expert=lambda observation: [2.7], steps=60, **options):
        self.folder, self.make, self.steps = folder, make, steps
        self.demos = recordings(make, expert, **options)
        env = make()
        world_model = tiny_world_model(observation_space=env.observation_space, action_space=env.action_space)
        standardizer = Standardizer(self.demos.observation_spec, self.demos.statistics)
        world_model.standardizer.load_state_dict(standardizer.state_dict())
        self.dream = DreamEnv(2, wm=world_model, expert=tiny_expert(world_model), horizon=5)

    def real(self, name="replay", parallel=8) -> RealWorld:
        wm = self.dream.world_model
        replay = Replay(self.folder / name, wm.observation_spec, wm.action_spec, self.demos.source)
        return RealWorld(self.demos, RealEpisodes(self.make, parallel=parallel), replay, self.steps)

    def learn(self, name="replay", progress=lambda *_: None, store=None, seed=3, **options):
        learner = load_learner("pdac", **{**SMALL, **options})
        return learner.learn_online(self.dream, self.real(name), seed=seed, progress=progress, store=store)

    def run(self, **options) -> PdacRun:
        torch.manual_seed(0)
        return PdacRun(load_learner("pdac", **{**SMALL, **options}), self.dream.world_model, self.real(), 0)


@pytest.fixture(autouse=True)
def same_random_numbers():
    with torch.random.fork_rng():
        yield


@pytest.fixture
def slide(tmp_path):
    return World(tmp_path, Slide)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -------------------------------------------------------------------------------------------------------- what is seen


def test_stacks_are_those_that_the_pixel_clone_is_shown():
    demos, world_model = tiny_demos(), tiny_world_model()
    recorded = Recorded(demos, encode(world_model, demos))
    steps = Steps(demos, stack=4)
    window = steps.at(np.arange(len(steps)), CPU)
    rows = np.array([21 * episode + step for episode, step in steps.rows])
    assert len(rows) == 80
    np.testing.assert_array_equal(window.packed["image"][:, :4].numpy(), recorded.stacked(rows, 4)["image"])
    np.testing.assert_array_equal(window.packed["image"][:, 1:].numpy(), recorded.stacked(rows + 1, 4)["image"])
    np.testing.assert_array_equal(window.action.numpy(), np.concatenate([demos.episode(i).action_t for i in range(4)]))
    assert not window.absorbing.any()


def test_an_end_for_good_leads_to_an_absorbing_state_that_leads_to_itself():
    demos = tiny_demos(episodes=1, steps=5, terminated=True)
    steps, view = Steps(demos, stack=2), StackedView(demos.observation_spec, 2)
    window = steps.at(np.arange(len(steps)), CPU)
    assert window.absorbing.tolist() == [[False, False]] * 4 + [[False, True], [True, True]]
    before, after = view.before(window), view.after(window)
    assert before[ABSORBING].flatten().tolist() == [0, 0, 0, 0, 0, 1]
    assert after[ABSORBING].flatten().tolist() == [0, 0, 0, 0, 1, 1]
    assert not before["image"][5].any()
    assert not after["image"][4:].any()
    assert before["image"][4].any()
    np.testing.assert_array_equal(after["image"][:4].numpy(), before["image"][1:5].numpy())
    assert {name: x.shape[1:] for name, x in before.items()} == {name: s.shape for name, s in view.space.items()}


def test_slips_are_not_the_experts():
    demos = tiny_demos(episodes=2, steps=6)
    demos._data.slip_tm1[9:11] = True  # what led to rows 2 and 3 of the second episode: its steps 1 and 2
    assert Steps(demos, 3, slips=False).rows[6:].tolist() == [[1, 0], [1, 3], [1, 4], [1, 5]]
    assert len(Steps(demos, 3)) == 12


def test_pictures_are_moved_whole_and_by_at_most_so_much():
    torch.manual_seed(0)
    image = torch.zeros(200, 3, 16, 16)
    image[:, :, 8, 5] = torch.tensor([1.0, 2.0, 3.0])
    moved = shifted(image, 2)
    places = [tuple((x[0] == 1.0).nonzero()[0].tolist()) for x in moved]
    assert set(places) == {(y, x) for y in range(6, 11) for x in range(3, 8)}
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    assert torch.equal(moved[:, 2], 3 * moved[:, 0])
    assert torch.equal(shifted(torch.full((2, 1, 8, 8), 7.0), 3), torch.full((2, 1, 8, 8), 7.0))


def test_steps_hold_no_observation(slide):
    slide.steps = 20
    slide.learn()
    for demos in (slide.demos, slide.real().replay.demos()):
        steps = Steps(demos, 3)
        mapped = demos.episode(0).obs["image"].base
        assert all(np.shares_memory(mapped, episode.obs["image"]) for episode in steps.episodes)
        assert steps.rows.nbytes == 16 * demos.num_steps
    buffer = slide.run().model.replay_buffer
    assert buffer.observations.nbytes + buffer.next_observations.nbytes < 100


# ------------------------------------------------------------------------------------------------------- discriminator


def test_the_discriminators_loss_and_penalty_are_those_computed_by_hand():
    discriminator = Discriminator(2, 1, (8,), 1e-3, 10.0)
    step = torch.randn(6, 3)
    assert torch.equal(discriminator(step), torch.zeros(6))  # at first it knows nothing
    linear = torch.nn.Linear(3, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[2.0, -1.0, 2.0]]))  # norm 3
        linear.bias.zero_()
    discriminator.network = linear
    expert, learner = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])  # logits 2 and 1
    metrics = discriminator.learn(expert, learner)
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert float(metrics["discriminator_loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["gradient_penalty"]) == pytest.approx(4.0, rel=1e-5)
    assert (float(metrics["accuracy_expert"]), float(metrics["accuracy_learner"])) == (1.0, 0.0)


def test_what_the_expert_does_is_rewarded_and_what_others_do_is_not():
    torch.manual_seed(0)
    discriminator = Discriminator(3, 1, (32, 32), 1e-3, 10.0)
    for _ in range(500):
        metrics = discriminator.learn(torch.randn(64, 4) + 1.0, torch.randn(64, 4) - 1.0)
    # The penalty asks for a slope of 1, and either middle is 2 away from where both are as likely.
    with torch.no_grad():
        rewards = discriminator(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    torch.testing.assert_close(rewards, torch.tensor([2.0, -2.0]), atol=0.3, rtol=0.0)
    assert float(metrics["accuracy_expert"]) > 0.9
    assert float(metrics["accuracy_learner"]) > 0.9
    assert float(metrics["gradient_penalty"]) < 0.02


def test_the_present_discriminator_rewards_the_very_batch_that_is_learned_from(slide):
    run = slide.run()
    while run.rounds.made < 40:
        run._play()
    for _ in range(3):
        target = run.model.policy.critic_target.features_extractor
        kept = {name: x.clone() for name, x in target.state_dict().items()}
        run.update()
        batch = run.model.replay_buffer.batch
        after_training = {name: x.clone() for name, x in target.state_dict().items()}
        target.load_state_dict(kept)  # it followed the critic in the same update
        with torch.no_grad():
            step = torch.cat([target(batch.observations), batch.actions], dim=1)
            torch.testing.assert_close(run.discriminator(step), batch.rewards.flatten())
        target.load_state_dict(after_training)
        assert not batch.dones.any()


# ------------------------------------------------------------------------------------------------------------ networks


def test_the_critic_alone_trains_the_encoder(slide):
    run = slide.run()
    policy = run.model.policy
    encoder = policy.critic.features_extractor
    own = {id(parameter) for parameter in encoder.parameters()}
    assert own
    assert not own & {id(x) for group in policy.actor.optimizer.param_groups for x in group["params"]}
    assert own <= {id(x) for group in policy.critic.optimizer.param_groups for x in group["params"]}
    seen = run.view.before(run.expert.draw(4, run.rng, CPU))
    policy.actor.action_log_prob(seen)[0].sum().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in policy.actor.mu.parameters())
    policy.critic(seen, torch.zeros(4, 1))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_vectors_reach_the_networks_as_they_are(tmp_path):
    run = World(tmp_path, lambda: Slide(picture=False)).run(stack=2)
    encoder = run.model.policy.critic.features_extractor
    assert list(encoder.parameters()) == []
    window = run.expert.at(np.arange(3), CPU)
    seen = run.view.before(window)
    torch.testing.assert_close(encoder(seen), torch.cat([seen["vector"], torch.zeros(3, 1)], dim=1))


def test_pictures_and_vectors_side_by_side(tmp_path):
    world = World(tmp_path, Both, steps=30)
    run = world.run(features=7, stack=2)
    seen = run.view.before(run.expert.at(np.arange(3), CPU))
    features = run.model.policy.critic.features_extractor(seen).detach()
    assert features.shape == (3, 7 + 2 + 1)
    torch.testing.assert_close(features[:, 7:9], seen["arm/place"])
    policy = world.learn("again")
    packed = {"camera": np.zeros((4, 16, 16, 1), np.uint8), "arm/place": np.zeros((4, 1), np.float32)}
    action, memory = policy.predict(packed)
    assert action.shape == (4, 1)
    assert [x.shape for x in memory] == [(4, 2, 1), (4, 2, 16, 16, 1)]


def test_actions_are_the_environments_in_play_and_unit_ones_in_learning(slide):
    run = slide.run()
    with torch.no_grad():
        run.model.policy.actor.mu.bias.fill_(9.0)  # tanh of it is 1
    action, _ = run.policy.predict({"image": np.zeros((2, 16, 16, 1), np.uint8)}, deterministic=True)
    np.testing.assert_allclose(action, 3.0, rtol=1e-3)
    assert action.dtype == np.float32
    torch.testing.assert_close(run._encoded(run.expert.at(np.array([0]), CPU)), torch.tensor([[0.9]]))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_the_learner_does_what_the_expert_does(tmp_path):
    world, rows = World(tmp_path, lambda: Slide(picture=False), steps=250), []
    fast = {"learning_rate": 3e-3, "discriminator_learning_rate": 3e-3, "stack": 1, "gamma": 0.9}
    policy = world.learn(progress=lambda _, metrics: rows.append(metrics), **fast)
    places = np.linspace(0.0, 1.0, 5, dtype=np.float32)[:, None]
    action, _ = policy.predict({"vector": places}, deterministic=True)
    assert (action > 2.0).all()  # it pushes right everywhere; the expert's push is 2.7 of 3
    assert rows[4]["accuracy_expert"] + rows[4]["accuracy_learner"] > 1.4  # 1 for a discriminator that guesses


def test_what_is_reported(slide):
    rows = []
    slide.learn(progress=lambda _, metrics: rows.append(metrics))
    assert [row["steps"] for row in rows] == [10, 20, 30, 40, 50, 60]
    assert [row["updates"] for row in rows] == [0, 0, 10, 20, 30, 40]
    assert [row["episodes"] for row in rows] == [1, 2, 3, 4, 5, 6]
    played = {"steps", "episodes", "dropped", "updates", "real_return", "real_success"}
    learned = {
        "discriminator_loss", "gradient_penalty", "accuracy_expert", "accuracy_learner", "reward", "actor_loss",
        "critic_loss", "ent_coef", "ent_coef_loss",
    }  # fmt: skip
    assert set(rows[1]) == played
    assert set(rows[2]) == played | learned
    assert all(type(value) is float and np.isfinite(value) for row in rows for value in row.values())


def test_several_episodes_a_round_and_fewer_updates_a_step(slide):
    rows = []
    slide.learn(progress=lambda _, metrics: rows.append(metrics), round_episodes=2, updates_per_step=0.25)
    assert [(row["steps"], row["updates"]) for row in rows] == [(20, 0), (40, 5), (60, 10)]


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["pictures", "tqc", "cloned", "ends"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, kind):
    options = {
        "pictures": {"stack": 2}, "tqc": {"algorithm": "sb3_contrib:TQC", "ent_coef": "0.1", "options": '{"tau": 0.02}'},
        "cloned": {"warm_start": "bc", "warm_start_updates": 5}, "ends": {},
    }[kind]  # fmt: skip
    world = World(tmp_path, lambda: Slide(picture=kind in ("pictures", "cloned"), ends=kind == "ends"))
    rows, again = [], []
    unbroken = world.learn("one", progress=lambda _, metrics: rows.append(metrics), **options)

    def stop(policy, metrics):
        again.append(metrics)
        if metrics["steps"] > 40:
            raise Stop

    with pytest.raises(Stop):
        world.learn("two", stop, Store(tmp_path, every_seconds=0.0), **options)
    dropped = again.pop()  # reported, but not saved: it comes once more
    resumed = world.learn(
        "two", lambda _, metrics: again.append(metrics), Store(tmp_path, every_seconds=0.0), **options
    )
    assert dropped in again
    assert again == rows
    assert equal(unbroken.state_dict(), resumed.state_dict())
    assert not equal(unbroken.state_dict(), world.learn("three", seed=4, **options).state_dict())


def test_a_new_run_forgets_what_an_earlier_one_played(slide):
    first = slide.learn()
    assert equal(first.state_dict(), slide.learn().state_dict())
    assert slide.real().replay.num_episodes == 6


def test_a_replay_that_lost_episodes_is_refused(slide, tmp_path):
    slide.learn(store=Store(tmp_path))
    slide.real().replay.cut(2)
    with pytest.raises(DatasetError, match="saved with 6 real episodes, of which 2 are left; put the folder"):
        slide.learn(store=Store(tmp_path))


def test_random_numbers_of_others_are_left_alone(slide):
    before, there = torch.get_rng_state(), np.random.get_state()[1].copy()
    slide.learn()
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(there, np.random.get_state()[1])


def test_a_cloned_start_acts_as_the_expert(slide):
    run = slide.run(warm_start="bc", warm_start_updates=300, learning_rate=3e-3, shift=0.0)
    run.clone()
    window = run.expert.at(np.arange(len(run.expert)), CPU)
    action, _ = run.policy.predict({"image": window.packed["image"][:, 2].numpy()}, deterministic=True)
    assert np.abs(action - 2.7).mean() < 0.3
    critic, target = run.model.policy.critic, run.model.policy.critic_target
    assert equal(critic.state_dict(), target.state_dict())


def test_pendulum_is_played_and_learned_from(tmp_path):
    world = World(tmp_path, lambda: gymnasium.make("Pendulum-v1"), lambda _: [0.5], steps=400, episodes=1)
    rows = []
    policy = world.learn(progress=lambda _, metrics: rows.append(metrics), seed_steps=200, updates_per_step=0.1)
    assert [(row["steps"], row["updates"]) for row in rows] == [(200, 0), (400, 20)]
    assert policy.predict({"vector": np.zeros((3, 3), np.float32)})[0].shape == (3, 1)


# ----------------------------------------------------------------------------------------------------------- the agent


@pytest.mark.parametrize("algorithm", ["stable_baselines3:SAC", "sb3_contrib:TQC"])
def test_loaded_agent_acts_as_the_learned_one(slide, tmp_path, algorithm):
    policy = slide.learn(algorithm=algorithm)
    world_model = slide.dream.world_model
    checkpoint.save(world_model, tmp_path / "wm")
    agent = Agent(world_model, policy)
    save_agent(agent, tmp_path / "pdac", world_model_folder=tmp_path / "wm", learner=Pdac)
    loaded = load_agent(tmp_path / "pdac")
    assert not any("critic" in name for name in loaded.policy.state_dict())
    frames = np.random.default_rng(0).integers(0, 256, (3, 5, 16, 16), dtype=np.uint8)
    for deterministic in (True, False):
        states = [None, None]
        for observation in frames:
            actions = []
            for i, who in enumerate((agent, loaded)):
                torch.manual_seed(5)
                action, states[i] = who.predict(observation, states[i], deterministic=deterministic)
                actions.append(action)
            np.testing.assert_array_equal(*actions)
    together, alone = (evaluate(loaded, Slide, 3, deterministic=True, parallel=number) for number in (3, 1))
    # Not to the last bit: processors add up the products of three rows in another order than those of one.
    assert [game.return_ for game in together] == pytest.approx([game.return_ for game in alone], abs=1e-4)
    assert [(game.seed, game.length) for game in together] == [(game.seed, game.length) for game in alone]


# -------------------------------------------------------------------------------------------------------------- errors


def test_the_dream_alone_is_refused(slide):
    with pytest.raises(ConfigError, match=r"steps of the real environment alone.*--online-steps"):
        Pdac().learn(slide.dream, 1000)


def test_discrete_actions_are_refused(slide):
    world_model = tiny_world_model()
    dream = DreamEnv(2, wm=world_model, expert=tiny_expert(world_model), horizon=5)
    with pytest.raises(ConfigError, match=r"this environment takes Discrete\(3\). Take a learner for discrete actions"):
        Pdac().learn_online(dream, slide.real())


def test_actions_without_bounds_are_refused(slide):
    world_model = tiny_world_model(action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    dream = DreamEnv(2, wm=world_model, expert=tiny_expert(world_model), horizon=5)
    with pytest.raises(ConfigError, match=r"actions have finite bounds.*RescaleAction"):
        Pdac().learn_online(dream, slide.real())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "stable_baselines3:PPO"}, PluginError, "no off-policy algorithm"),
        ({"algorithm": "stable_baselines3:TD3"}, PluginError, r"runs on SAC .* or TQC"),
        ({"options": '{"taus": 1}'}, PluginError, "does not take these options: .*taus"),
        ({"options": "{"}, ConfigError, "options are a JSON object"),
        ({"options": '{"use_sde": true}'}, ConfigError, "cannot set 'use_sde'"),
        ({"options": '{"gamma": 0.5}'}, ConfigError, "cannot set 'gamma': that is --gamma"),
        ({"options": '{"train_freq": 4}'}, ConfigError, "cannot set 'train_freq': pdac plays and learns in rounds"),
        ({"options": '{"target_update_interval": 9}'}, ConfigError, "cannot set 'target_update_interval'"),
    ],
)
def test_algorithms_that_cannot_do_it_are_refused(slide, options, error, message):
    with pytest.raises(error, match=message):
        slide.learn(**options)


@pytest.mark.parametrize("options", ["{", '{"use_sde": true}'])
def test_options_that_are_none_are_refused_before_a_run_takes_its_folder(slide, options):
    with pytest.raises(ConfigError, match="options"):
        Pdac(options=options).check_online(slide.dream)


@pytest.mark.usefixtures("_without_runtime_types")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("stack", 0), ("batch", 0), ("round_episodes", 0), ("features", 0), ("learning_rate", 0.0), ("gamma", 1.0),
        ("gradient_penalty", -1.0), ("shift", 0.5), ("warm_start", "ppo"), ("net_arch", (0,)), ("updates_per_step", -1.0),
        ("discriminator_learning_rate", float("nan")), ("seed_steps", -1), ("ent_coef", "auto_much"),
        ("ent_coef", "nan"), ("ent_coef", "auto_0"), ("ent_coef", "auto_-1"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ConfigError, match=option):
        Pdac(**{option: value})
