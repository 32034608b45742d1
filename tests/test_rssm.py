from dataclasses import replace

import pytest
import torch

from dream_env.errors import ConfigError
from dream_env.latent import Latent
from dream_env.model.rssm import RSSM, RSSMConfig

TINY = RSSMConfig(deter=12, groups=3, classes=4, hidden=10)
GAUSSIAN = replace(TINY, latent="gaussian", groups=6)
ENSEMBLE = replace(TINY, ensemble=5)


def sequence(rssm: RSSM, time: int = 7, batch: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(time, batch, dtype=torch.bool)
    is_first[0] = True
    return (
        torch.randn(time, batch, 3, generator=generator),
        torch.randn(time, batch, 5, generator=generator),
        is_first,
        torch.rand(time, batch, rssm.noise_size, generator=generator),
    )


@pytest.fixture(params=[TINY, GAUSSIAN, ENSEMBLE], ids=["categorical", "gaussian", "ensemble"])
def rssm(request):
    torch.manual_seed(0)
    return RSSM(request.param, action_size=3, embed_size=5)


def test_observe_equals_its_plain_step_by_step_twin(rssm):
    action_tm1, embed, is_first, noise = sequence(rssm)
    is_first[4, 1] = True  # a new episode inside the sequence
    latent, steps = rssm.initial(2), []
    for t in range(len(embed)):
        latent = rssm.observe_step(latent, action_tm1[t], embed[t], is_first[t], noise[t])
        steps.append(latent)
    together = rssm.observe(action_tm1, embed, is_first, noise).latent
    torch.testing.assert_close(together.feat, Latent.stack(steps).feat)


def test_observing_in_two_pieces_equals_observing_at_once(rssm):
    action_tm1, embed, is_first, noise = sequence(rssm)
    whole = rssm.observe(action_tm1, embed, is_first, noise).latent
    first = rssm.observe(action_tm1[:3], embed[:3], is_first[:3], noise[:3]).latent
    second = rssm.observe(action_tm1[3:], embed[3:], is_first[3:], noise[3:], start=first[-1]).latent
    torch.testing.assert_close(whole[3:].feat, second.feat)


def test_a_first_row_forgets_what_came_before(rssm):
    action_tm1, embed, is_first, noise = sequence(rssm)
    is_first[3] = True
    whole = rssm.observe(action_tm1, embed, is_first, noise).latent
    alone = rssm.observe(action_tm1[3:], embed[3:], is_first[3:], noise[3:]).latent
    torch.testing.assert_close(whole[3:].feat, alone.feat)


def test_imagine_step_samples_the_prior_that_observe_reports(rssm):
    action_tm1, embed, is_first, noise = sequence(rssm)
    observed = rssm.observe(action_tm1, embed, is_first, noise)
    with torch.no_grad():
        imagined = rssm.imagine_step(observed.latent[3], action_tm1[4], noise[4])
    torch.testing.assert_close(imagined.deter, observed.latent.deter[4])
    expected = rssm.stochastic.sample(observed.prior[4], noise[4][:, : rssm.stochastic.noise_size], gradient=False)
    torch.testing.assert_close(imagined.stoch, expected)


def test_gradients_reach_every_parameter(rssm):
    action_tm1, embed, is_first, noise = sequence(rssm)
    observed = rssm.observe(action_tm1, embed, is_first, noise)
    kl = rssm.stochastic.kl(observed.posterior, observed.prior).sum()
    (kl + observed.latent.feat.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rssm.parameters())


def test_gradients_flow_through_an_imagined_step_to_the_action(rssm):
    action = torch.zeros(2, 3, requires_grad=True)
    rssm.imagine_step(rssm.initial(2), action, torch.rand(2, rssm.noise_size)).feat.square().sum().backward()
    assert action.grad is not None
    assert action.grad.abs().sum() > 0


def test_each_row_hears_the_ensemble_member_that_its_noise_picks():
    torch.manual_seed(0)
    rssm = RSSM(ENSEMBLE, 3, 5)
    deter = torch.randn(5, 12)
    everyone = rssm.prior_net(deter)
    chosen = rssm.prior(deter, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(chosen, torch.stack([everyone[k, k] for k in range(5)]))


def test_disagreement_is_zero_between_equal_members_and_positive_between_different_ones():
    torch.manual_seed(0)
    rssm = RSSM(ENSEMBLE, 3, 5)
    latent, action = rssm.initial(4), torch.randn(4, 3)
    assert (rssm.disagreement(latent, action) > 0).all()
    with torch.no_grad():
        for parameter in rssm.prior_net.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    torch.testing.assert_close(rssm.disagreement(latent, action), torch.zeros(4), atol=1e-6, rtol=0)


def test_disagreement_of_a_single_prior_is_refused():
    with pytest.raises(ValueError, match="needs an ensemble of at least 2"):
        RSSM(TINY, 3, 5).disagreement(RSSM(TINY, 3, 5).initial(1), torch.zeros(1, 3))


def test_more_classes_than_a_byte_can_number_are_refused():
    assert RSSMConfig(classes=256).classes == 256
    assert RSSMConfig(latent="gaussian", classes=300).classes == 300, "a Gaussian latent ignores it"
    with pytest.raises(ConfigError, match=r"latent of 300 classes .* 256 is the most\. Take fewer classes"):
        RSSMConfig(classes=300)
