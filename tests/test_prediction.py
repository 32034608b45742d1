from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dream_env.fitting.prediction import MOVED, moving_pixels, open_loop_error, reconstruction_metrics, unexplained
from dream_env.tiny import tiny_demos, tiny_world_model

LONG = {"episodes": 4, "steps": 40}


def losses_of(world_model, demos):
    batch = demos.sample(5, 8, np.random.default_rng(0))
    noise = world_model.draw_noise(8, 5, torch.Generator().manual_seed(0))
    return batch, world_model.loss(batch, noise)


def draw_background_only(world_model):
    """Make the decoder return the mean picture, which is zero in standardised units."""
    for decoder in world_model.decoders.values():
        nn.init.zeros_(decoder.layers[-1].weight)
        nn.init.zeros_(decoder.layers[-1].bias)


def test_a_pixel_moves_where_it_changed_by_more_than_ten_grey_levels():
    assert MOVED == 10
    image = torch.tensor(
        [
            [[10, 200], [0, 250]],
            [[20, 211], [250, 3]],
            [[20, 211], [239, 3]],
        ],
        dtype=torch.uint8,
    )[:, None, :, :, None]  # (3, 1, 2, 2, 1)
    moved = moving_pixels(image)
    assert moved.shape == (3, 1, 1, 2, 2)
    assert moved[:, 0, 0].tolist() == [
        [[False, False], [False, False]],  # nothing before it
        [[False, True], [True, True]],  # 10 is not more than 10, and 250 → 3 does not wrap round
        [[False, False], [True, False]],
    ]


def test_channels_come_before_rows_and_columns():
    image = torch.zeros(2, 1, 4, 5, 3, dtype=torch.uint8)
    image[1, 0, 2, 3, 1] = 99
    moved = moving_pixels(image)
    assert moved.shape == (2, 1, 3, 4, 5)
    assert moved.nonzero().tolist() == [[1, 0, 1, 2, 3]]


def test_background_only_leaves_everything_unexplained_and_perfection_nothing():
    target = torch.randn(4, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = target > 0.5
    for over in (None, mask):
        assert float(unexplained(torch.zeros_like(target), target, over)) == 1.0
        assert float(unexplained(target, target, over)) == 0.0


def test_unexplained_is_a_share_of_energy():
    decoded, target = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert float(unexplained(decoded, target)) == pytest.approx(4 / 14)
    assert float(unexplained(decoded, target, torch.tensor([False, True, True]))) == pytest.approx(4 / 13)


def test_nothing_that_moves_leaves_nothing_unexplained():
    assert float(unexplained(torch.ones(3), torch.ones(3), torch.zeros(3, dtype=torch.bool))) == 0.0


def test_metrics_of_a_model_that_draws_the_background_and_of_one_that_draws_all():
    world_model = tiny_world_model()
    draw_background_only(world_model)
    batch, losses = losses_of(world_model, tiny_demos())
    metrics = reconstruction_metrics(world_model, batch, losses)
    assert metrics["unexplained/image"] == metrics["unexplained_moving/image"] == 1.0
    perfect = reconstruction_metrics(world_model, batch, replace(losses, decoded=losses.target))
    assert perfect["unexplained/image"] == perfect["unexplained_moving/image"] == 0.0


def test_metrics_hold_every_term_of_the_loss_as_weighted_and_the_kl_itself():
    world_model = tiny_world_model()
    batch, losses = losses_of(world_model, tiny_demos())
    metrics = reconstruction_metrics(world_model, batch, losses)
    assert metrics["loss"] == pytest.approx(
        metrics["reconstruction/image"] + metrics["kl_prior"] + metrics["kl_posterior"], rel=1e-5
    )
    assert metrics["kl_prior"] == pytest.approx(0.1 * 0.8 * metrics["kl"], rel=1e-5)
    assert metrics["kl_posterior"] == pytest.approx(0.1 * 0.2 * metrics["kl"], rel=1e-5)
    most = 4 * np.log(4)  # nats of four uniform variables of four classes
    assert 0 < metrics["prior_entropy"] <= most
    assert 0 < metrics["posterior_entropy"] <= most


def test_the_open_loop_error_is_the_same_at_each_call():
    world_model, demos = tiny_world_model(), tiny_demos(**LONG)
    errors = open_loop_error(world_model, demos)
    assert errors.keys() == {"open_loop_1/image", "open_loop_5/image", "open_loop_15/image"}
    assert open_loop_error(world_model, demos) == errors
    assert open_loop_error(world_model, demos, seed=1) != errors


def test_the_open_loop_error_of_the_background_is_one():
    world_model = tiny_world_model()
    draw_background_only(world_model)
    assert set(open_loop_error(world_model, tiny_demos(**LONG)).values()) == {1.0}


def decoded_with(change):
    """What a model draws in open loop, step by step, from a batch changed by ``change``."""
    world_model, demos, drawn = tiny_world_model(), tiny_demos(**LONG), []
    decode, sample = world_model.decode_standardized, demos.sample

    def watch(latent):
        drawn.append(decode(latent)["image"])
        return decode(latent)

    world_model.decode_standardized = watch
    demos.sample = lambda *arguments: change(sample(*arguments))
    open_loop_error(world_model, demos, horizons=(1, 2), context=20)
    return drawn


def unchanged(batch):
    return batch


def test_nothing_after_the_context_is_looked_at():
    def hide(batch):
        batch.obs["image"][20:] = 0
        return batch

    for seen, hidden in zip(decoded_with(unchanged), decoded_with(hide), strict=True):
        assert torch.equal(seen, hidden)

    def hide_the_last_seen(batch):
        batch.obs["image"][19] = 0
        return batch

    assert not torch.equal(decoded_with(unchanged)[0], decoded_with(hide_the_last_seen)[0])


@pytest.mark.parametrize(("row", "first_that_differs"), [(20, 0), (21, 1)])
def test_each_step_is_dreamed_with_the_recorded_action_that_led_there(row, first_that_differs):
    def act_differently(batch):
        batch.action_tm1[row] = (batch.action_tm1[row] + 1) % 3
        return batch

    pairs = zip(decoded_with(unchanged), decoded_with(act_differently), strict=True)
    assert [torch.equal(a, b) for a, b in pairs].index(False) == first_that_differs


@pytest.mark.parametrize(
    ("steps", "horizons"), [(34, (1, 5, 15)), (20, (1, 5, 15)), (15, (1, 5, 15)), (14, (1, 5)), (1, (1,))]
)
def test_short_episodes_are_measured_as_far_as_they_go(steps, horizons):
    errors = open_loop_error(tiny_world_model(), tiny_demos(steps=steps))
    assert list(errors) == [f"open_loop_{h}/image" for h in horizons]
    assert all(np.isfinite(value) for value in errors.values())
