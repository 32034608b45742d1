"""CMIL's reward: gail's, minus what the ensemble disagrees."""

import numpy as np
import pytest
import torch
from dream_env.plugins.cmil import Cmil
from dream_env.plugins.gail import Gail

from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.fitting.fit import FitConfig, fit
from dream_env.latent import Latent
from dream_env.model.encoded import encode
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.plugin import load_reward
from dream_env.testing import check_reward, tiny_demos, tiny_expert, tiny_rollout, tiny_world_model, transition_of

SMALL = {"hidden": (16,), "batch": 32, "learning_rate": 1e-2, "input_noise": 0.5}


def prepared(reward, world_model, rollouts=3):
    """The reward after it has learned from a few rollouts, and one more of them."""
    expert = tiny_expert(world_model)
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
