from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dream_env.errors import SpaceError
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModel, WorldModelConfig
from dream_env.recordings.demos import Batch, Source
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

TINY = WorldModelConfig(rssm=RSSMConfig(deter=16, groups=4, classes=4, hidden=16), depth=2, width=16, layers=1)
GRAY = spaces.Box(0, 255, (64, 64), np.uint8)
MIXED = spaces.Dict(
    {"pixels": spaces.Box(0, 255, (64, 64, 3), np.uint8), "joints": spaces.Box(-9, 9, (5,), np.float64)}
)
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-2.0, 2.0, (2,), np.float32)
SOURCE = Source("test/random-v0", "", None, {})


def model(observation=GRAY, action=DISCRETE, config=TINY, observation_config=None) -> WorldModel:
    torch.manual_seed(0)
    observation_config = observation_config or ObservationConfig()
    spec = ObservationSpec.from_space(observation, observation_config)
    return WorldModel(config, spec, ActionSpec.from_space(action), SOURCE)


def batch(world_model: WorldModel, time: int = 6, size: int = 3) -> Batch:
    rng = np.random.default_rng(0)
    obs = {}
    for key in world_model.observation_spec.keys:
        shape = (time, size, *key.shape)
        drawn = rng.integers(0, 256, shape, dtype=np.uint8) if key.kind == "image" else rng.normal(size=shape)
        obs[key.name] = torch.as_tensor(drawn if key.kind == "image" else drawn.astype(np.float32))
    space = world_model.action_spec.space
    actions = torch.as_tensor(np.stack([[space.sample() for _ in range(size)] for _ in range(time)]))
    is_first = torch.zeros(time, size, dtype=torch.bool)
    is_first[0] = True
    is_terminal = torch.zeros_like(is_first)
    is_terminal[-1, 0] = True
    return Batch(obs, actions, is_first, is_terminal)


def noise(world_model: WorldModel, time: int = 6, size: int = 3) -> torch.Tensor:
    return world_model.draw_noise(time, size, torch.Generator().manual_seed(1))


CASES = {
    "mlp": {},
    "cnn": {"config": replace(TINY, image_net="cnn")},
    "mixed keys, boxes": {"observation": MIXED, "action": BOX, "observation_config": ObservationConfig(gray=False)},
    "continue head": {"config": replace(TINY, continue_head=True)},
    "gaussian": {"config": replace(TINY, rssm=replace(TINY.rssm, latent="gaussian"))},
    "ensemble": {"config": replace(TINY, rssm=replace(TINY.rssm, ensemble=3))},
    "bfloat16": {"config": replace(TINY, precision="bfloat16")},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def world_model(request):
    return model(**request.param)


def test_the_loss_is_the_sum_of_its_mean_terms_and_reaches_every_parameter(world_model):
    losses = world_model.loss(batch(world_model), noise(world_model))
    expected = {f"reconstruction/{key.name}" for key in world_model.observation_spec.keys} | {
        "kl_prior",
        "kl_posterior",
    }
    assert set(losses.terms) - {"continue"} == expected
    assert ("continue" in losses.terms) == world_model.config.continue_head
    torch.testing.assert_close(losses.total, sum(term.mean() for term in losses.terms.values()))
    losses.total.backward()
    for name, parameter in world_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_training_on_one_batch_makes_its_loss_fall(world_model):
    data = batch(world_model)
    for name, x in data.obs.items():  # one bright picture: pure noise holds nothing to be learned
        data.obs[name] = torch.full_like(x, 230 if x.dtype == torch.uint8 else 2.0)
    optimizer = torch.optim.Adam(world_model.parameters(), 3e-3)
    first = float(world_model.loss(data, noise(world_model)).total.detach())
    for _ in range(30):
        optimizer.zero_grad()
        total = world_model.loss(data, noise(world_model)).total
        total.backward()
        optimizer.step()
    assert float(total.detach()) < 0.9 * first


def test_the_reconstruction_term_is_half_the_squared_error_by_hand():
    world_model = model()
    data = batch(world_model)
    losses = world_model.loss(data, noise(world_model))
    target = (data.obs["image"].float() - 127.5) / 255.0
    by_hand = 0.5 * ((losses.decoded["image"].squeeze(2) - target.squeeze(-1)) ** 2).sum(dim=(-1, -2))
    torch.testing.assert_close(losses.terms["reconstruction/image"], by_hand)


def test_kl_balance_moves_gradient_between_prior_and_posterior_and_not_the_value():
    gradients = {}
    for balance in (1.0, 0.0):
        world_model = model(config=replace(TINY, kl_balance=balance, kl_weight=1.0))
        losses = world_model.loss(batch(world_model), noise(world_model))
        (losses.terms["kl_prior"] + losses.terms["kl_posterior"]).mean().backward()
        gradients[balance] = {
            "prior": sum(
                float(p.grad.abs().sum()) for p in world_model.rssm.prior_net.parameters() if p.grad is not None
            ),
            "posterior": float(world_model.rssm.posterior_out.bias.grad.abs().sum()),
        }
    assert gradients[1.0]["prior"] > 0
    assert gradients[0.0]["prior"] == 0
    # The last posterior's own parameters get a gradient only from the posterior's half; earlier ones also through time.
    assert gradients[0.0]["posterior"] > gradients[1.0]["posterior"]


def test_observe_step_by_step_equals_observing_the_whole_sequence(world_model):
    data, uniform = batch(world_model), noise(world_model)
    with torch.no_grad():
        whole = world_model.observe(data.obs, data.action_tm1, data.is_first, uniform)
        latent = world_model.initial(3)
        for t in range(6):
            obs = {name: x[t] for name, x in data.obs.items()}
            latent = world_model.observe_step(latent, data.action_tm1[t], obs, data.is_first[t], uniform[t])
    torch.testing.assert_close(latent.feat, whole[-1].feat, atol=1e-5, rtol=1e-4)


def test_decoding_gives_packed_observations(world_model):
    with torch.no_grad():
        decoded = world_model.decode(world_model.initial(4))
    for key in world_model.observation_spec.keys:
        assert decoded[key.name].shape == (4, *key.shape)
        if key.kind == "image":
            assert float(decoded[key.name].min()) >= 0
            assert float(decoded[key.name].max()) <= 255


def test_render_is_rgb_bytes(world_model):
    picture = world_model.render(world_model.initial(2))
    assert picture.shape == (2, 64, 64, 3)
    assert picture.dtype == np.uint8


def test_a_model_of_vectors_has_nothing_to_render():
    with pytest.raises(SpaceError, match=r"has no picture to show.*only vectors"):
        model(observation=spaces.Box(-1, 1, (4,), np.float32)).render(model().initial(1))


def test_the_continue_head_gives_probabilities_and_its_absence_gives_one():
    assert model().continue_probability(model().initial(3)).tolist() == [1.0, 1.0, 1.0]
    learned = model(config=replace(TINY, continue_head=True))
    assert ((p := learned.continue_probability(learned.initial(3))) > 0).all()
    assert (p < 1).all()


def test_a_picture_of_another_size_is_refused_by_the_convolutions_and_taken_by_the_mlp():
    options = {"observation_config": ObservationConfig(size=32)}
    with pytest.raises(SpaceError, match=r"take 64 × 64 pictures, but 'image' is 32 × 32"):
        model(config=replace(TINY, image_net="cnn"), **options)
    assert model(**options).render(model(**options).initial(1)).shape == (1, 32, 32, 3)


def test_the_paper_preset_has_the_papers_sizes():
    config = WorldModelConfig.paper()
    assert (config.rssm.deter, config.rssm.groups, config.rssm.classes) == (1024, 32, 32)
    assert (config.kl_weight, config.kl_balance, config.depth, config.image_net) == (0.1, 0.8, 48, "cnn")
