"""How fast a world model learns, beside TorchRL's: ``python examples/benchmark/world_model_step.py [--out speed.csv]``.

One step is encode, observe, decode, KL, squared error, backward, clip and Adam. Size S: pictures of 64 × 64 × 1,
DreamerV2's convolutions at depth 16, deter 256, 16 × 16 categoricals, hidden 256, 6 actions, 16 sequences of 32.

TorchRL's side (``pip install "torchrl==0.14.*"``; without it only our rates are shown) is its own ``RSSMRolloutV3``,
``ObsEncoder`` and ``ObsDecoder``, with the loss and the optimiser of our side. What still differs is in its favour: its RSSM
has no LayerNorm, its convolutions have the cheaper ReLU. All systems take turns, in CPU seconds of one thread, so that
a busy neighbour hits all alike.
"""

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from speed_rows import SpeedRow, append
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.functional import kl_categorical
from dream_env.model.fitting import FitConfig
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import Precision, WorldModel, WorldModelConfig
from dream_env.recordings.demos import Batch, Source
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

ACTIONS = 6
BATCH, LENGTH = 16, 32
DEPTH, DETER, GROUPS, CLASSES, HIDDEN = 16, 256, 16, 16, 256
SIZE_S = WorldModelConfig(rssm=RSSMConfig("categorical", DETER, GROUPS, CLASSES, HIDDEN), image_net="cnn", depth=DEPTH)
PEER = "TorchRL"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def random_batch(side: int, batch: int, length: int) -> Batch:
    """Noise and random actions: what is in the pictures does not change what a step costs."""
    rng = np.random.default_rng(0)
    is_first = torch.zeros(length, batch, dtype=torch.bool)
    is_first[0] = True
    return Batch(
        {"image": torch.from_numpy(rng.integers(256, size=(length, batch, side, side, 1), dtype=np.uint8))},
        torch.from_numpy(rng.integers(ACTIONS, size=(length, batch))),
        is_first,
        torch.zeros(length, batch, dtype=torch.bool),
    )


def gradient_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """What every system does around its own loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total = loss()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()

    return step


def ours(config: WorldModelConfig, side: int, batch: int, length: int) -> Callable[[], None]:
    """A step of dream-env's world model, noise included."""
    pictures = spaces.Box(0, 255, (side, side, 1), np.uint8)
    spec = ObservationSpec.from_space(pictures, ObservationConfig(size=side))
    model = WorldModel(config, spec, ActionSpec(spaces.Discrete(ACTIONS)), Source("", "", None, {}))
    data = random_batch(side, batch, length)
    generator = torch.Generator().manual_seed(0)
    return gradient_step(model, lambda: model.loss(data, model.draw_noise(length, batch, generator)).total)


def torchrl_step(precision: Precision) -> Callable[[], None]:
    """The same step of TorchRL's world model, wired as its documentation has it."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ObsDecoder, ObsEncoder
    from torchrl.modules.models.model_based import RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3

    encoder = ObsEncoder(channels=DEPTH, in_channels=1)
    prior = TensorDictModule(
        RSSMPriorV3(
            action_shape=(ACTIONS,), hidden_dim=HIDDEN, rnn_hidden_dim=DETER, num_categoricals=GROUPS,
            num_classes=CLASSES, action_dim=ACTIONS,
        ),
        in_keys=["state", "belief", "action"],
        out_keys=[("next", "prior_logits"), ("next", "state"), ("next", "belief")],
    )  # fmt: skip
    posterior = TensorDictModule(
        RSSMPosteriorV3(
            hidden_dim=HIDDEN, num_categoricals=GROUPS, num_classes=CLASSES, rnn_hidden_dim=DETER,
            obs_embed_dim=8 * DEPTH * 2 * 2,
        ),
        in_keys=[("next", "belief"), ("next", "encoded_latents")],
        out_keys=[("next", "posterior_logits"), ("next", "state")],
    )  # fmt: skip
    rollout = RSSMRolloutV3(prior, posterior)
    decoder = ObsDecoder(channels=DEPTH, latent_dim=GROUPS * CLASSES + DETER, out_channels=1)
    model = nn.ModuleList([encoder, rollout, decoder])

    data = random_batch(64, BATCH, LENGTH)
    pixels = data.obs["image"].permute(1, 0, 4, 2, 3).contiguous()  # TorchRL is batch-major: (batch, time, 1, 64, 64)
    action = F.one_hot(data.action_tm1, ACTIONS).float().transpose(0, 1).contiguous()
    is_init = data.is_first.transpose(0, 1).unsqueeze(-1)
    state, belief = torch.zeros(BATCH, LENGTH, GROUPS * CLASSES), torch.zeros(BATCH, LENGTH, DETER)

    def loss() -> Tensor:
        target = pixels.float().sub_(127.5).div_(255.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            inputs = {"state": state, "belief": belief, "action": action, "is_init": is_init}
            inputs |= {"next": {"encoded_latents": encoder(target)}}  # type: ignore[dict-item]
            out = rollout(TensorDict(inputs, [BATCH, LENGTH]))
            decoded = decoder(out["next", "state"], out["next", "belief"]).float()
        p, q = out["next", "prior_logits"].float(), out["next", "posterior_logits"].float()
        kl = 0.8 * kl_categorical(q.detach(), p) + 0.2 * kl_categorical(q, p.detach())
        reconstruction = 0.5 * F.mse_loss(decoded, target, reduction="none").flatten(2).sum(dim=-1)
        return reconstruction.mean() + 0.1 * kl.mean()

    return gradient_step(model, loss)


def systems() -> dict[tuple[str, str], tuple[Callable[[], None], int]]:
    """By size and system: a step, and the frames it takes in."""
    torchrl = importlib.util.find_spec("torchrl") is not None and importlib.util.find_spec("tensordict") is not None
    if not torchrl:
        print('torchrl is not importable (pip install "torchrl==0.14.*"): only the rates of dream-env follow')
    found: dict[tuple[str, str], tuple[Callable[[], None], int]] = {}
    small, fit = WorldModelConfig.small(), FitConfig.small()
    side = ObservationConfig.small().size
    for precision in PRECISIONS:
        name = f"S (64 × 64, CNN), {precision}"
        found[name, "dream-env"] = (ours(replace(SIZE_S, precision=precision), 64, BATCH, LENGTH), BATCH * LENGTH)
        if torchrl:
            found[name, PEER] = (torchrl_step(precision), BATCH * LENGTH)
        step = ours(replace(small, precision=precision), side, fit.batch, fit.length)
        found[f"small preset ({side} × {side}, MLP), {precision}", "dream-env"] = (step, fit.batch * fit.length)
    return found


def main() -> None:
    """Print, and with ``--out`` append, frames a CPU second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="result file to append to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    contenders = systems()
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    for _ in range(arguments.rounds):
        for key, (step, frames) in contenders.items():
            step()  # not timed: fills caches and the heap that the one before left behind
            start = time.process_time()
            step()
            step()
            rates[key].append(2 * frames / (time.process_time() - start))
    rows = []
    for (size, system), mine in rates.items():
        peer: Any = rates.get((size, PEER))
        ratio = statistics.median(a / b for a, b in zip(mine, peer, strict=True)) if peer else None
        name = system if system != PEER else f"{PEER} {importlib.metadata.version('torchrl')}"
        rows.append(SpeedRow("world-model update (frames)", size, name, statistics.median(mine), ratio))
    append(rows, arguments.out)


if __name__ == "__main__":
    main()
