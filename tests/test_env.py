"""The dream as an environment: Gymnasium's rules, seeding, rewards that misbehave."""

from dataclasses import dataclass, field

import gymnasium
import numpy as np
import pytest
import torch
from dream_env.plugins.ditto import max_cosine
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from dream_env.dream.env import DreamEnv
from dream_env.errors import CheckpointError, ConfigError, DatasetError, PluginError, SpaceError
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.plugin import Reward
from dream_env.testing import check_dream_env, tiny_demos, tiny_expert, tiny_world_model

MODES = list(AutoresetMode)
HORIZON = 5


def make_dream(num_envs=4, *, world_model=None, **options):
    world_model = world_model or tiny_world_model()
    options = {"expert": tiny_expert(world_model), "horizon": HORIZON, **options}
    return DreamEnv(num_envs, wm=world_model, **options)


def play(envs, steps):
    for _ in range(steps):
        envs.step(np.zeros(envs.num_envs, dtype=np.int64))


def rollout(envs, seed, steps, action_seed=0):
    """All that comes back from a reset and some steps of random actions."""
    envs.action_space.seed(action_seed)
    actions = [envs.action_space.sample() for _ in range(steps)]
    return [envs.reset(seed=seed)[0]], [envs.step(action) for action in actions], actions


# --- Gymnasium's rules


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gaussian", [False, True])
def test_vector_checker_passes_in_every_autoreset_mode(mode, gaussian):
    world_model = tiny_world_model(gaussian=gaussian)
    check_dream_env(make_dream(world_model=world_model, autoreset_mode=mode, render_mode="rgb_array"))


@pytest.mark.parametrize("mode", MODES)
def test_vector_checker_passes_with_box_actions_and_early_ends(mode):
    world_model = tiny_world_model(action_space=Box(-2.0, 2.0, (3,)), continue_head=True)
    check_dream_env(make_dream(world_model=world_model, autoreset_mode=mode, terminate=True, horizon=20))


@pytest.mark.parametrize("mode", MODES)
def test_an_autoreset_mode_can_be_given_by_name_by_value_or_itself(mode):
    for given in (mode, mode.name, mode.value):
        assert make_dream(autoreset_mode=given).metadata["autoreset_mode"] is mode


def test_an_unknown_autoreset_mode_is_refused_with_those_there_are():
    with pytest.raises(
        ConfigError, match=r"one of NEXT_STEP, SAME_STEP, DISABLED, not 'SAMESTEP'.* mean \"SAME_STEP\""
    ):
        make_dream(autoreset_mode="SAMESTEP")


def test_model_states_stay_in_the_declared_bounds():
    envs = make_dream(64)
    assert np.isfinite(envs.single_observation_space.low).all()
    _, steps, _ = rollout(envs, seed=0, steps=3 * HORIZON)
    assert all(step[0] in envs.observation_space for step in steps)


def test_same_step_starts_anew_and_gives_the_end_in_final_obs():
    same, disabled = make_dream(3), make_dream(3, autoreset_mode="Disabled")
    _, steps, actions = rollout(same, seed=7, steps=HORIZON)
    disabled.reset(seed=7)
    for action in actions:
        last = disabled.step(action)
    obs, reward, terminated, truncated, infos = steps[-1]
    assert truncated.all()
    assert not terminated.any()
    np.testing.assert_array_equal(reward, last[1])
    np.testing.assert_array_equal(np.stack(infos["final_obs"]), last[0])
    np.testing.assert_array_equal(obs, disabled.reset()[0])
    assert infos["final_info"] == {}
    assert infos["_final_info"].all()
    assert all(step[4] == {} for step in steps[:-1])


def test_final_obs_of_some_is_none_for_the_others():
    envs = make_dream(3)
    envs.reset(seed=0)
    action = np.zeros(3, dtype=np.int64)
    envs.step(action)
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(HORIZON - 1):
        _, _, _, truncated, infos = envs.step(action)
    assert truncated.tolist() == [True, False, True]
    assert infos["_final_obs"].tolist() == [True, False, True]
    assert infos["final_obs"][1] is None
    assert infos["final_obs"][0] in envs.single_observation_space


def test_next_step_ignores_the_action_that_follows_an_end():
    envs, disabled = (make_dream(3, autoreset_mode=mode) for mode in ("NextStep", "Disabled"))
    rollout(envs, seed=3, steps=HORIZON)
    rollout(disabled, seed=3, steps=HORIZON)
    obs, reward, terminated, truncated, infos = envs.step(np.full(3, 99))
    np.testing.assert_array_equal(obs, disabled.reset()[0])
    assert not reward.any()
    assert not (terminated | truncated).any()
    assert infos == {}
    action = np.array([0, 1, 2])
    np.testing.assert_array_equal(envs.step(action)[0], disabled.step(action)[0])


def test_next_step_lets_the_others_go_on():
    envs = make_dream(2, autoreset_mode="NextStep")
    envs.reset(seed=0)
    action = np.zeros(2, dtype=np.int64)
    envs.step(action)
    envs.reset(options={"reset_mask": np.array([False, True])})
    for _ in range(HORIZON - 1):
        envs.step(action)
    _, reward, _, truncated, _ = envs.step(np.array([99, 0]))
    assert truncated.tolist() == [False, True]
    assert reward[0] == 0.0
    assert reward[1] != 0.0


def test_without_autoreset_an_ended_dream_waits():
    envs = make_dream(2, autoreset_mode=AutoresetMode.DISABLED)
    rollout(envs, seed=0, steps=HORIZON)
    with pytest.raises(ResetNeeded, match=r"dreams \[0, 1\] have ended"):
        envs.step(np.zeros(2, dtype=np.int64))
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"dreams \[1\] have ended"):
        envs.step(np.zeros(2, dtype=np.int64))
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(np.zeros(2, dtype=np.int64))


@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_resets_these_and_leaves_the_others(mode):
    envs = make_dream(4, autoreset_mode=mode)
    _, steps, _ = rollout(envs, seed=0, steps=2)
    mask = np.array([True, False, False, True])
    obs, _ = envs.reset(seed=50, options={"reset_mask": mask})
    np.testing.assert_array_equal(obs[~mask], steps[-1][0][~mask])
    fresh, _ = make_dream(4).reset(seed=50)
    np.testing.assert_array_equal(obs[mask], fresh[mask])
    assert envs.dreams.steps.tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False], TypeError, "numpy array of bool"),
        (np.array([1, 0]), TypeError, "numpy array of bool, got int64"),
        (np.array([True]), ValueError, r"must have shape \(2,\)"),
        (np.array([False, False]), ValueError, "at least one True"),
    ],
)
def test_a_wrong_reset_mask_is_refused_as_gymnasium_refuses_it(mask, error, message):
    envs = make_dream(2)
    envs.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(options={"reset_mask": mask})
    sync = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    sync.reset(seed=0)
    with pytest.raises(error):
        sync.reset(options={"reset_mask": mask})


def test_a_misspelt_reset_option_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r'no option \'resetmask\'. Did you mean "reset_mask"\?'):
        make_dream().reset(options={"resetmask": np.ones(4, dtype=bool)})


def test_stepping_before_the_first_reset_is_refused():
    envs = make_dream(1)
    with pytest.raises(ResetNeeded, match=r"reset\(\) must be called"):
        envs.step(np.zeros(1, dtype=np.int64))
    with pytest.raises(ResetNeeded, match="first reset must be of all dreams"):
        make_dream(2).reset(options={"reset_mask": np.array([True, False])})


def test_a_closed_dream_can_be_closed_again():
    envs = make_dream(1)
    envs.close()
    envs.close()
    assert envs.closed


def test_gymnasium_s_statistics_wrapper_works():
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(make_dream(3))
    _, steps, _ = rollout(envs, seed=0, steps=HORIZON)
    total = sum(step[1] for step in steps)
    np.testing.assert_allclose(steps[-1][4]["episode"]["r"], total)
    assert steps[-1][4]["episode"]["l"].tolist() == [HORIZON] * 3


# --- seeding


@pytest.mark.parametrize("terminate", [False, True])
def test_n_dreams_equal_n_single_dreams_of_the_next_seeds(terminate):
    world_model = tiny_world_model(continue_head=True)
    together = make_dream(4, world_model=world_model, terminate=terminate)
    starts, steps, actions = rollout(together, seed=11, steps=3 * HORIZON)
    for i in range(4):
        alone = make_dream(1, world_model=world_model, terminate=terminate)
        np.testing.assert_array_equal(alone.reset(seed=11 + i)[0][0], starts[0][i])
        for action, (obs, reward, terminated, truncated, _) in zip(actions, steps, strict=True):
            mine = alone.step(action[i : i + 1])
            np.testing.assert_allclose(mine[0][0], obs[i], atol=1e-5)
            np.testing.assert_allclose(mine[1][0], reward[i], atol=1e-5)
            assert (mine[2][0], mine[3][0]) == (terminated[i], truncated[i])


def test_seeds_can_be_given_one_by_one():
    envs = make_dream(3)
    expected = [envs.reset(seed=seed)[0][0] for seed in (5, 900, 5)]
    np.testing.assert_array_equal(envs.reset(seed=[5, 900, 5])[0], expected)
    with pytest.raises(ConfigError, match="2 seeds came for 3 dreams"):
        envs.reset(seed=[1, 2])


def test_a_reset_without_a_seed_goes_on_with_the_stream():
    envs = make_dream(8)
    first, second = envs.reset(seed=0)[0], envs.reset()[0]
    assert not np.array_equal(first, second)
    envs.reset(seed=0)
    np.testing.assert_array_equal(envs.reset()[0], second)


def test_unseeded_environments_differ():
    assert not np.array_equal(make_dream(8).reset()[0], make_dream(8).reset()[0])


def test_start_rows_are_drawn_uniformly_from_all_windows():
    envs = make_dream(4096)
    envs.reset(seed=0)
    starts = envs.expert.windows(HORIZON)
    counts = torch.bincount(envs.dreams.rows, minlength=int(starts.max()) + 1)[starts]
    assert int(counts.sum()) == 4096  # nowhere else
    expected = 4096 / len(starts)
    assert (counts - expected).abs().max() < 6 * expected**0.5


def test_given_rows_start_there():
    envs = make_dream(3)
    obs, _ = envs.reset(options={"rows": np.array([0, 3, 22])})
    np.testing.assert_array_equal(obs, envs.expert.latents(torch.tensor([0, 3, 22])).feat.numpy())
    with pytest.raises(ConfigError, match="expert row 18 starts no window of 5 steps"):
        envs.reset(options={"rows": np.array([0, 18, 22])})
    with pytest.raises(ConfigError, match="3 integers, one expert row a dream"):
        envs.reset(options={"rows": np.array([0.0, 1.0, 2.0])})


# --- what a dream is, and its options


def test_rewards_compare_with_the_expert_at_the_same_step_of_its_window():
    envs = make_dream(3, autoreset_mode="Disabled")
    rows = torch.tensor([0, 4, 25])
    envs.reset(seed=0, options={"rows": rows.numpy()})
    for t in range(HORIZON):
        obs, reward, *_ = envs.step(np.array([0, 1, 2]))
        expert = envs.expert.latents(rows + t + 1).deter
        expected = max_cosine(expert, torch.as_tensor(obs[:, : expert.shape[-1]]))
        np.testing.assert_allclose(reward, expected.numpy(), rtol=1e-6)
        np.testing.assert_array_equal(envs.last_rewards.numpy(), reward.astype(np.float32))


def test_a_dream_step_is_one_step_of_the_world_model():
    envs = make_dream(2, autoreset_mode="Disabled")
    envs.reset(seed=0)
    before, action = envs.dreams.latent, torch.tensor([2, 0])
    obs = envs.step(action.numpy())[0]
    deter = envs.world_model.imagine_step(before, action, torch.rand(2, envs.world_model.noise_size)).deter
    np.testing.assert_allclose(obs[:, :32], deter.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"gaussian": True, "ensemble": 3}])
def test_a_dream_in_half_precision_takes_nearly_the_same_steps(options):
    world_model = tiny_world_model(**options)
    before = {name: tensor.clone() for name, tensor in world_model.state_dict().items()}
    full, half = (make_dream(64, world_model=world_model, precision=p) for p in ("float32", "bfloat16"))
    for envs in (full, half):
        envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(3, size=64)
    (obs, reward, *_), (half_obs, half_reward, *_) = full.step(actions), half.step(actions)
    assert half_obs.dtype == np.float32
    assert half.dreams.latent.deter.dtype == half.dreams.latent.stoch.dtype == torch.float32
    deter = np.abs(obs - half_obs)[:, : world_model.deter_size]
    assert 0 < deter.max() < 0.02
    assert np.abs(reward - half_reward).max() < 0.05
    moved = (obs != half_obs)[:, world_model.deter_size :].reshape(64, -1).mean()
    assert options or moved < 0.05  # one-hot samples change where a uniform lies within the error of a class's edge
    play(half, HORIZON)
    for name, tensor in world_model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} of the model itself was changed"


def test_gradients_flow_through_a_dream_in_half_precision():
    world_model = tiny_world_model(gaussian=True)
    dreams = make_dream(2, world_model=world_model, precision="bfloat16").dreams
    dreams.seed(torch.arange(2), dreams.everyone)
    dreams.restart(dreams.everyone)
    start = dreams.latent.map(lambda half: half.clone().requires_grad_())
    dreams.latent = start
    dreams.step(torch.tensor([0, 1]))
    dreams.latent.feat.square().sum().backward()
    assert start.deter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in dreams.rssm.parameters())


def test_torch_output_is_the_numpy_output():
    a, b = make_dream(3), make_dream(3, output="torch")
    b.reset(seed=5)
    _, steps, actions = rollout(a, seed=5, steps=HORIZON)
    for action, step in zip(actions, steps, strict=True):
        *tensors, infos = b.step(torch.as_tensor(action))
        for tensor, array in zip(tensors, step, strict=False):
            assert isinstance(tensor, torch.Tensor)
            np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(infos["final_obs"].numpy(), np.stack(steps[-1][4]["final_obs"]))
    torch.nn.Linear(48, 1)(tensors[0]).sum().backward()  # plain tensors, that learners can differentiate with


def test_the_continue_head_may_end_dreams():
    world_model = tiny_world_model(continue_head=True)
    assert not any(step[2].any() for step in rollout(make_dream(64, world_model=world_model), 0, HORIZON)[1])
    steps = rollout(make_dream(64, world_model=world_model, terminate=True), 0, HORIZON)[1]
    assert any(step[2].any() for step in steps)


def test_ends_are_refused_of_a_model_that_foresees_none():
    with pytest.raises(ConfigError, match=r"has none; fit one with --model\.continue-head, or leave terminate out"):
        make_dream(terminate=True)


def test_a_horizon_beyond_the_shortest_episode_is_refused():
    with pytest.raises(DatasetError, match="a horizon of 21 steps does not fit: episode 0 has 20 steps"):
        make_dream(horizon=21)


@pytest.mark.parametrize("action", [3, -1])
def test_an_action_outside_the_space_is_named(action):
    envs = make_dream(2)
    envs.reset(seed=0)
    with pytest.raises(SpaceError, match=rf"action {action} of sub-environment 1 is outside Discrete\(3\)"):
        envs.step(np.array([0, action]))


def test_actions_of_another_shape_or_type_are_refused():
    envs = make_dream(2)
    envs.reset(seed=0)
    with pytest.raises(SpaceError, match=r"actions of shape \(3,\) came; expected \(2,\)"):
        envs.step(np.zeros(3, dtype=np.int64))
    with pytest.raises(SpaceError, match="float64"):
        envs.step(np.zeros(2))


def test_box_actions_outside_the_space_are_refused():
    envs = make_dream(2, world_model=tiny_world_model(action_space=Box(-1.0, 1.0, (2,))))
    envs.reset(seed=0)
    with pytest.raises(SpaceError, match="sub-environment 1 is outside"):
        envs.step(np.array([[0.0, 0.0], [0.0, 1.5]], dtype=np.float32))
    with pytest.raises(SpaceError, match="outside"):
        envs.step(np.array([[0.0, np.nan], [0.0, 0.5]], dtype=np.float32))


def test_actions_that_do_not_start_at_zero_reach_the_model():
    world_model = tiny_world_model(action_space=Discrete(3, start=5))
    envs = make_dream(2, world_model=world_model)
    envs.reset(seed=0)
    envs.step(np.array([5, 7]))
    with pytest.raises(SpaceError, match="action 0 of sub-environment 0"):
        envs.step(np.array([0, 5]))


def test_a_world_model_object_needs_its_expert():
    with pytest.raises(ConfigError, match=r"pass expert=dream_env\.encode\(world_model, demos\)"):
        DreamEnv(wm=tiny_world_model())


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            {},
            {"gaussian": True},
            r"states are 32 \+ 4 \(Gaussian\), but the world model's are 32 \+ 4 × 4 \(categorical\)",
        ),
        (
            {},
            {"config": WorldModelConfig(rssm=RSSMConfig("categorical", 24, 4, 4, 32), width=32, layers=1)},
            r"states are 24 \+ 4 × 4 .* are 32 \+ 4 × 4 .*; encode the demonstrations with this model",
        ),
        (
            {},
            {"action_space": Discrete(9)},
            r"of expert step \d+ is outside Discrete\(3\); take demonstrations of the same",
        ),
        (
            {},
            {"action_space": Box(-1.0, 1.0, (2,))},
            r"float32 of shape \(2,\), but the world model takes Discrete\(3\)",
        ),
        ({"action_space": Box(-1.0, 1.0, ())}, {}, r"int64 of shape \(\), but the world model takes Box"),
        (
            {"action_space": Box(-1.0, 1.0, (2,))},
            {"action_space": Box(-1.0, 1.0, (3,))},
            r"of shape \(3,\), but .* takes Box",
        ),
    ],
)
def test_an_expert_of_another_model_or_of_other_actions_is_refused(ours, theirs, message):
    with pytest.raises(SpaceError, match=message):
        make_dream(world_model=tiny_world_model(**ours), expert=tiny_expert(tiny_world_model(**theirs)))


@pytest.mark.usefixtures("_without_runtime_types")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "heldout"}, r"split must be one of train, held_out, not 'heldout'\. Did you mean \"held_out\"\?"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"render_scale": 0}, "render_scale must be at least 1"),
        ({"render_mode": "human"}, "render_mode must be"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, not 'float16'"),
        ({"output": "jax"}, 'output must be "numpy" or "torch", not \'jax\''),
    ],
)
def test_options_out_of_range_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        make_dream(**option)


# --- rendering


def test_a_dream_is_rendered_by_decoding_it():
    envs = make_dream(2, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    np.testing.assert_array_equal(np.stack(frames), envs.world_model.render(envs.dreams.latent))
    assert frames[0].shape == (16, 16, 3)


def test_render_scale_makes_every_pixel_a_square():
    envs = make_dream(1, render_mode="rgb_array", render_scale=3)
    envs.reset(seed=0)
    (frame,) = envs.render()
    assert frame.shape == (48, 48, 3)
    np.testing.assert_array_equal(frame[::3, ::3], envs.world_model.render(envs.dreams.latent)[0])
    np.testing.assert_array_equal(frame[2::3, 2::3], frame[::3, ::3])


def test_a_model_without_pictures_is_refused_before_the_first_frame():
    world_model = tiny_world_model(observation_space=Box(-1.0, 1.0, (3,)))
    make_dream(world_model=world_model)
    with pytest.raises(SpaceError, match="no picture to show"):
        make_dream(world_model=world_model, render_mode="rgb_array")


# --- rewards: learning, failing


@dataclass
class Counting(Reward):
    """Learns one number from each rollout and keeps the rollouts."""

    rollouts: list = field(default_factory=list)

    def prepare(self, world_model, expert):
        self.level = torch.zeros(1)

    def __call__(self, transition):
        return self.level.expand(len(transition.step_t))

    def update(self, rollout):
        self.rollouts.append(rollout)
        self.level = self.level + 1.0
        return {"level": float(self.level)}

    def state_dict(self):
        return {"level": self.level}

    def load_state_dict(self, state):
        self.level = state["level"].clone()


def test_a_reward_learns_from_every_whole_horizon():
    envs = make_dream(3, reward=(reward := Counting()))
    starts, steps, actions = rollout(envs, seed=0, steps=2 * HORIZON)
    assert [step[1][0] for step in steps] == [0.0] * HORIZON + [1.0] * HORIZON
    assert envs.reward_metrics == {"level": 2.0}
    first = reward.rollouts[0]
    assert first.latent.shape == (HORIZON + 1, 3)
    assert first.valid.all()
    np.testing.assert_array_equal(first.latent.feat[0].numpy(), starts[0])
    for t in range(HORIZON - 1):
        np.testing.assert_array_equal(first.latent.feat[t + 1].numpy(), steps[t][0])
    np.testing.assert_array_equal(first.latent.feat[-1].numpy(), np.stack(steps[HORIZON - 1][4]["final_obs"]))
    np.testing.assert_array_equal(first.action.numpy(), np.stack(actions[:HORIZON]))
    torch.testing.assert_close(first.expert_latent[0].feat, first.latent[0].feat)


@dataclass
class Watching(Counting):
    """Keeps the steps that it was asked about, too."""

    def prepare(self, world_model, expert):
        super().prepare(world_model, expert)
        self.transitions = []

    def __call__(self, transition):
        self.transitions.append(transition)
        return super().__call__(transition)


@pytest.mark.parametrize("mode", ["Disabled", "NextStep"])
def test_the_expert_of_steps_and_rollouts_is_that_of_its_window_step_by_step(mode):
    envs = make_dream(3, reward=(reward := Watching()), autoreset_mode=mode)
    rows = torch.tensor([0, 4, 25])
    envs.reset(seed=0, options={"rows": rows.numpy()})
    for _ in range(HORIZON):
        envs.step(np.array([0, 1, 2]))
    expert, (learned,) = envs.expert, reward.rollouts
    for t in range(HORIZON):
        step = reward.transitions[t]
        assert torch.equal(step.expert_latent_t.feat, expert.latents(rows + t).feat)
        assert torch.equal(step.expert_action_t, expert.actions(rows + t))
        assert torch.equal(step.expert_latent_tp1.feat, expert.latents(rows + t + 1).feat)
        assert torch.equal(learned.expert_action[t], expert.actions(rows + t))
    for t in range(HORIZON + 1):
        assert torch.equal(learned.expert_latent[t].feat, expert.latents(rows + t).feat)
    assert len({tuple(actions.tolist()) for actions in learned.expert_action}) > 1  # an expert that does several things


def test_dreams_that_end_at_different_times_are_gathered_into_rollouts_of_one_size():
    world_model = tiny_world_model(continue_head=True)
    envs = make_dream(16, world_model=world_model, reward=(reward := Counting()), terminate=True)
    _, steps, _ = rollout(envs, seed=0, steps=6 * HORIZON)
    ended = sum(int((step[2] | step[3]).sum()) for step in steps)
    assert len(reward.rollouts) == ended // 16 > 1
    lengths = torch.cat([each.valid.sum(dim=0) for each in reward.rollouts])
    assert lengths.min() < HORIZON == lengths.max()
    for each in reward.rollouts:
        assert each.action.shape == (HORIZON, 16)
        assert (each.valid[:-1] | ~each.valid[1:]).all()  # once over, over


def test_nothing_is_recorded_for_a_reward_that_does_not_learn():
    assert make_dream().dreams.recorder is None
    assert make_dream(reward=Counting()).dreams.recorder is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps_before", [3, HORIZON])
def test_a_resumed_dream_equals_an_unbroken_one(mode, steps_before):
    unbroken = make_dream(3, reward=Counting(), autoreset_mode=mode)
    rollout(unbroken, seed=4, steps=steps_before)
    resumed = make_dream(3, reward=Counting(), autoreset_mode=mode)
    resumed.load_state_dict(unbroken.state_dict())
    for _ in range(2 * HORIZON):
        action = unbroken.action_space.sample()
        if mode is AutoresetMode.DISABLED and unbroken._ended is not None:
            np.testing.assert_array_equal(unbroken.reset()[0], resumed.reset()[0])
        for a, b in zip(unbroken.step(action)[:4], resumed.step(action)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    assert unbroken.reward_metrics == resumed.reward_metrics


def test_a_state_of_another_number_of_dreams_is_refused():
    state = make_dream(3).state_dict()
    with pytest.raises(CheckpointError, match=r"of 3 dreams, this environment has 2; make it with num_envs=3"):
        make_dream(2).load_state_dict(state)


@dataclass
class Broken(Reward):
    name = "broken"
    how: str = "raise"

    def __call__(self, transition):
        good = torch.zeros(len(transition.step_t))
        if self.how == "late" and int(transition.step_t[0]) == 2:
            raise ZeroDivisionError("nothing there")
        return {
            "shape": good.unsqueeze(1),
            "integers": good.long(),
            "number": 0.0,
            "nan": good.index_fill(0, torch.tensor([1]), torch.nan),
            "inf": good - torch.inf,
        }.get(self.how, good)

    def update(self, rollout):
        raise KeyError("discriminator")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("late", r"reward 'broken' raised ZeroDivisionError: nothing there \(at step 2 of 5\)"),
        (
            "shape",
            r"reward 'broken' returned \(4, 1\) of torch.float32 \(at step 0 of 5\); expected .* of shape \(4,\)",
        ),
        ("integers", r"reward 'broken' returned \(4,\) of torch.int64"),
        ("number", r"reward 'broken' returned float"),
        ("nan", r"reward 'broken' gave nan for dream 1, 1 of 4 not finite \(at step 0 of 5\)"),
        ("inf", r"reward 'broken' gave -inf for dream 0, 4 of 4 not finite"),
        ("update", r"reward 'broken' raised KeyError in update: 'discriminator'"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_named_with_the_step(how, message):
    envs = make_dream(reward=Broken(how))
    envs.reset(seed=0)
    with pytest.raises(PluginError, match=message):
        play(envs, HORIZON)


def test_tiny_demos_can_be_sampled_and_encoded():
    from dream_env.model.encoded import encode

    demos = tiny_demos()
    world_model = tiny_world_model()
    envs = make_dream(world_model=world_model, expert=encode(world_model, demos))
    assert envs.reset(seed=0)[0] in envs.observation_space


# --- what a GPU's host does not wait for


@pytest.mark.parametrize("step", [0, 2])
def test_where_looking_would_stop_a_gpu_a_bad_reward_is_named_once_a_horizon(step):
    class Late(Reward):
        def __call__(self, transition):
            bad = (transition.step_t >= step) & (torch.arange(len(transition.step_t)) == 1)
            return torch.zeros(len(bad)).masked_fill(bad, torch.nan)

    envs = make_dream(reward=Late())
    envs.dreams._looks_at_each_step = False
    envs.reset(seed=0)
    play(envs, HORIZON - 1)
    message = rf"reward 'late' gave a number that is not finite \(at step {step} of {HORIZON}\)"
    with pytest.raises(PluginError, match=message):
        play(envs, 1)
    envs.state_dict()  # it was told of
    envs.reset(seed=0)
    play(envs, step + 1)
    with pytest.raises(PluginError, match=message):
        envs.state_dict()  # no such state is kept


def test_where_looking_would_stop_a_gpu_good_rewards_are_let_pass():
    looking, waiting = make_dream(), make_dream()
    waiting.dreams._looks_at_each_step = False
    for envs in (looking, waiting):
        envs.reset(seed=0)
    for _ in range(2 * HORIZON):
        action = looking.action_space.sample()
        for a, b in zip(looking.step(action)[:4], waiting.step(action)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
    nobody = torch.zeros(0, dtype=torch.int64)
    waiting.dreams.step(nobody, nobody)  # all dreams have ended early and wait
