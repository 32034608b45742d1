"""How well a world model predicts, on the pixels that matter.

A picture's mean error hides small things: in Pong the ball and paddles are one pixel in a hundred, and a model that draws
the empty court has a small error. So every error here is also measured on *moving* pixels alone, those that changed since
the frame before, as the share of their energy left unexplained: 1 is 'draws the background only', 0 is perfect.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dream_env.model.world_model import Losses, WorldModel
from dream_env.recordings.demos import Batch, Demos

MOVED = 10.0
"""Grey levels of 255 by which a pixel must differ from the frame before to count as moving."""


def moving_pixels(image: Tensor) -> Bool[Tensor, "time batch channels height width"]:
    """Where packed pictures (time, batch, H, W, C) changed since the row before; row 0 has no row before and is all False."""
    change = (image[1:].float() - image[:-1].float()).abs() > MOVED
    moved = torch.cat([torch.zeros_like(change[:1]), change])
    return moved.movedim(-1, -3)


def unexplained(decoded: Tensor, target: Tensor, mask: Tensor | None = None) -> Float[Tensor, ""]:
    """``Σ (x − x̂)² / Σ x²`` in standardised units, over the mask: the share of the energy left unexplained."""
    error, energy = (decoded - target).square(), target.square()
    if mask is not None:
        error, energy = error[mask], energy[mask]
    return error.sum() / energy.sum().clamp_min(1e-8)


@torch.no_grad()
def reconstruction_metrics(world_model: WorldModel, batch: Batch, losses: Losses) -> dict[str, float]:
    """Unexplained share of each key, whole and on moving pixels; KL and entropies in nats; the loss and its terms as weighted."""
    metrics = {name: float(term.mean()) for name, term in losses.terms.items()}
    for key in world_model.observation_spec.keys:
        decoded, target = losses.decoded[key.name], losses.target[key.name]
        metrics[f"unexplained/{key.name}"] = float(unexplained(decoded, target))
        if key.kind == "image":
            moving = moving_pixels(batch.obs[key.name])
            metrics[f"unexplained_moving/{key.name}"] = float(unexplained(decoded, target, moving))
    stochastic = world_model.rssm.stochastic
    metrics["kl"] = float(stochastic.kl(losses.observed.posterior, losses.observed.prior).mean())
    metrics["prior_entropy"] = float(stochastic.entropy(losses.observed.prior).mean())
    metrics["posterior_entropy"] = float(stochastic.entropy(losses.observed.posterior).mean())
    metrics["loss"] = float(losses.total)
    return metrics


@torch.no_grad()
def open_loop_error(
    world_model: WorldModel,
    demos: Demos,
    *,
    horizons: tuple[int, ...] = (1, 5, 15),
    context: int = 20,
    sequences: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """Error of dreams with the recorded actions: filter ``context`` rows, then predict without looking.

    Returns ``open_loop_<h>/<key>``: the unexplained share (on moving pixels for pictures) of row ``context − 1 + h``. The
    sequences and the noise are the same at each call with the same seed, so the numbers of a training compare. Where all
    episodes are shorter than all this, the context is cut, and horizons that do not fit at all are left out.
    """
    rows = int(demos.lengths.max()) + 1
    horizons = tuple(h for h in horizons if h < rows)
    if not horizons:
        return {}
    context = min(context, rows - max(horizons))
    length = context + max(horizons)
    batch = demos.sample(sequences, length, np.random.default_rng(seed)).to(world_model.device)
    generator = torch.Generator(device=world_model.device).manual_seed(seed)
    noise = world_model.draw_noise(length, sequences, generator)
    seen = {name: x[:context] for name, x in batch.obs.items()}
    latent = world_model.observe(seen, batch.action_tm1[:context], batch.is_first[:context], noise[:context])[-1]
    target = world_model.standardizer(batch.obs)
    moving = {key.name: moving_pixels(batch.obs[key.name])
              for key in world_model.observation_spec.keys if key.kind == "image"}  # fmt: skip
    errors: dict[str, float] = {}
    for h in range(1, max(horizons) + 1):
        row = context - 1 + h
        latent = world_model.imagine_step(latent, batch.action_tm1[row], noise[row])
        if h in horizons:
            for name, decoded in world_model.decode_standardized(latent).items():
                mask = moving[name][row] if name in moving else None
                errors[f"open_loop_{h}/{name}"] = float(unexplained(decoded, target[name][row], mask))
    return errors
