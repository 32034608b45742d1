"""CMIL's reward: gail's, minus what the ensemble disagrees."""

import numpy as np
import pytest
import torch
from dream_env.plugins.cmil import Cmil, noise_of
from dream_env.plugins.gail import Gail

from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.fitting.fit import FitConfig, fit
from dream_env.latent import Latent
from dream_env.model.encoded import encode
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.plugin import load_learner, load_reward
from dream_env.testing import check_reward, tiny_demos, tiny_expert, tiny_rollout, tiny_world_model, transition_of

SMALL = {"hidden": (16,), "batch": 32, "learning_rate": 1e-2, "input_noise": 0.5}


def prepared(reward, world_model, rollouts=3):
    """The reward after it has learned from a few rollouts, and one more of them."""
    expert = tiny_expert(world_model)
    torch.manual_seed(0)
    with torch.no_grad():
        reward.prepare(world_model, expert)
        for seed in range(rollouts):
            torch.manual_seed(seed)
            reward.update(tiny_rollout(world_model, expert, 8, 5))
        torch.manual_seed(9)
        return reward, transition_of(tiny_rollout(world_model, expert, 8, 5), 2)


@pytest.mark.parametrize("form", ["logit", "probability"])
def test_without_the_penalty_it_is_gail(form):
    world_model = tiny_world_model(ensemble=3)
    cmil, transition = prepared(Cmil(form=form, alpha=0.0, **SMALL), world_model)
    gail, same = prepared(Gail(form=form, **SMALL), world_model)
    assert torch.equal(transition.latent_t.feat, same.latent_t.feat)
    assert torch.equal(cmil(transition), gail(transition))
    assert cmil.bounds == gail.bounds
    assert gail(transition).std() > 0, "it has learned something"


@pytest.mark.parametrize("gaussian", [False, True])
def test_what_the_ensemble_disagrees_is_subtracted(gaussian):
    world_model = tiny_world_model(ensemble=3, gaussian=gaussian)
    cmil, transition = prepared(Cmil(alpha=7.0, **SMALL), world_model)
    gail, _ = prepared(Gail(form="logit", **SMALL), world_model)
    with torch.no_grad():
        heads = world_model.rssm.prior_net(
            world_model.imagine_step(
                transition.latent_t, transition.action_t, torch.zeros(8, world_model.noise_size)
            ).deter
        )
        centers = world_model.rssm.stochastic.center(heads)  # (K, N, dims)
    mean = sum(centers) / 3
    std = (sum((center - mean) ** 2 for center in centers) / 2).sqrt().mean(dim=-1)
    assert (std > 0).all()
    torch.testing.assert_close(cmil(transition), gail(transition) - 7.0 * std, atol=1e-5, rtol=1e-5)


def test_heads_that_agree_cost_nothing():
    world_model = tiny_world_model(ensemble=2)
    with torch.no_grad():
        for parameter in world_model.rssm.prior_net.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    cmil, transition = prepared(Cmil(alpha=1e6, **SMALL), world_model)
    gail, _ = prepared(Gail(form="logit", **SMALL), world_model)
    torch.testing.assert_close(cmil(transition), gail(transition))


def test_a_model_without_an_ensemble_is_refused_unless_there_is_no_penalty():
    world_model = tiny_world_model(ensemble=1)
    with pytest.raises(ConfigError, match=r"needs a world model with an ensemble .* this one has 1: fit one with"):
        DreamEnv(wm=world_model, expert=tiny_expert(world_model), reward="cmil")
    DreamEnv(wm=world_model, expert=tiny_expert(world_model), reward="cmil", reward_options={"alpha": 0.0})


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("form", ["logit", "probability"])
def test_it_keeps_the_contract(form, gaussian):
    check_reward("cmil", world_model=tiny_world_model(ensemble=2, gaussian=gaussian), form=form, **SMALL)


def test_as_released_it_keeps_the_contract():
    small = {"hidden": (16,), "batch": 32, "learning_rate": 1e-2}
    check_reward("cmil-released", world_model=tiny_world_model(ensemble=2, gaussian=True), **small)


def test_as_released_it_has_the_codes_values():
    reward = load_reward("cmil-released")
    assert (reward.form, reward.input_noise, reward.score_noise, reward.updates) == ("probability", 2.5, True, 1)
    assert (reward.alpha, reward.hidden, reward.learning_rate) == (10.0, (200, 200), 3e-5)
    assert not Cmil().score_noise


def test_noise_in_scores_is_a_step_beside_and_the_same_for_the_same_step():
    world_model = tiny_world_model(ensemble=2, gaussian=True)
    quiet, transition = prepared(Cmil(alpha=0.0, **SMALL), world_model)
    noisy, _ = prepared(Cmil(alpha=0.0, score_noise=True, **SMALL), world_model)
    assert all(torch.equal(quiet.state_dict()[name], x) for name, x in noisy.state_dict().items()), (
        "alike but for scores"
    )
    seen = quiet._seen(transition.latent_t, transition.action_t, transition.latent_tp1)
    expected = quiet.discriminator(seen + 0.5 * noise_of(seen, 0)).squeeze(-1)
    torch.testing.assert_close(noisy(transition), expected)
    assert (noisy(transition) - quiet(transition)).abs().min() > 0


def test_noise_of_rows_is_normal_and_a_function_of_each_row():
    torch.manual_seed(0)
    x = torch.randn(50, 40, 7)
    noise = noise_of(x, 0)
    assert noise.shape == x.shape
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1.0) < 0.03
    torch.testing.assert_close(noise_of(x[3, 5:6], 0), noise[3, 5:6])
    assert not torch.isclose(noise, noise_of(x, 1)).any(dim=-1).all()
    nudged = x.clone()
    nudged[..., 0] = torch.nextafter(x[..., 0], torch.tensor(9.0))
    # The least change of a row draws its noise anew: no two are alike, and none goes with the other.
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), noise_of(nudged, 0).flatten()]))[0, 1]) < 0.03
    one_hot = torch.eye(8)
    outer, inner = one_hot[0] + one_hot[3], one_hot[1] + one_hot[2]  # alike for a hash that is a sum of places
    assert not torch.isclose(noise_of(outer[None], 0), noise_of(inner[None], 0)).any()
    assert noise_of(x.half(), 0).shape == x.shape
    swapped = x[..., [1, 0, *range(2, 7)]]
    assert not torch.isclose(noise_of(swapped, 0), noise).any(dim=-1).all()


def test_gradients_go_through_noisy_scores():
    world_model = tiny_world_model(ensemble=2, gaussian=True)
    noisy, transition = prepared(Cmil(alpha=0.0, score_noise=True, **SMALL), world_model)
    deter = transition.latent_t.deter.clone().requires_grad_()
    noisy.logit(Latent(deter, transition.latent_t.stoch), transition.action_t).sum().backward()
    assert deter.grad.abs().sum() > 0


def test_options_are_the_papers_and_the_codes_are_there():
    reward = Cmil()
    assert (reward.form, reward.alpha, reward.hidden, reward.learning_rate) == ("logit", 10.0, (200, 200), 3e-5)
    assert np.isclose(reward.input_noise**2, 2.5)
    assert load_reward("cmil", form="probability", input_noise=2.5).bounds == (-np.inf, 1.0)
    with pytest.raises(ConfigError, match="alpha is at least 0, not -1"):
        Cmil(alpha=-1.0)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_fitted_ensemble_doubts_states_that_no_recording_leads_to(kind):
    config = WorldModelConfig(RSSMConfig(kind, 32, 8, 4, 32, ensemble=5), width=64, layers=1)
    world_model = tiny_world_model(config=config)
    torch.manual_seed(0)
    for _ in fit(world_model, tiny_demos(12, 30), FitConfig(updates=200, batch=8, length=10, learning_rate=3e-3)):
        pass
    others = encode(world_model, tiny_demos(4, 30, seed=9))  # not those it was fitted to
    rows = others.step_rows()
    seen, action = others.latents(rows), others.actions(rows)
    unseen = Latent(2.0 * torch.rand_like(seen.deter) - 1.0, seen.stoch)
    with torch.no_grad():
        doubt = {name: world_model.disagreement(at, action).mean() for name, at in (("on", seen), ("off", unseen))}
    # Seen once, one seed: 0.017 and 0.28 for a Gaussian latent, 0.005 and 0.054 for a categorical one.
    assert doubt["off"] > 3.0 * doubt["on"] > 0.0


def test_an_sb3_learner_learns_under_it_and_pays_for_doubt():
    world_model = tiny_world_model(ensemble=3)
    expert = tiny_expert(world_model)
    rows = {}
    for alpha in (0.0, 5.0, 10.0):
        dream = DreamEnv(8, wm=world_model, expert=expert, reward=Cmil(alpha=alpha, **SMALL), horizon=6)
        ppo = load_learner("ppo", n_steps=12, minibatches=4, epochs=1, net_arch=(16,))
        rows[alpha] = []
        ppo.learn(dream, 288, seed=1, progress=lambda _, row, kept=rows[alpha]: kept.append(row))
        assert [row["steps"] for row in rows[alpha]][-1] == 288
        assert all(np.isfinite(list(row.values())).all() for row in rows[alpha])
        assert {"discriminator_loss", "accuracy_expert", "value_loss"} <= rows[alpha][-1].keys()
    # Until PPO's first step all three did the same in the same dreams, so their rewards differ by the penalty alone.
    plain, half, whole = (next(row["dream_reward"] for row in rows[alpha] if row["steps"]) for alpha in rows)
    assert plain > half > whole
    assert plain - whole == pytest.approx(2.0 * (plain - half), rel=1e-4)
