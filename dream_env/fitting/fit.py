"""Fitting a world model to demonstrations: the only world-model training loop there is."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dream_env.checkpoint import Store, load_optimizer, optimizer_tensors
from dream_env.device import restore_generator
from dream_env.errors import ConfigError, TrainingError
from dream_env.fitting.graphed import Graph, GraphedStep, LossModule, Step, eager_step
from dream_env.fitting.parallel import ALONE, Processes
from dream_env.fitting.prediction import open_loop_error, reconstruction_metrics
from dream_env.fitting.prefetch import drawn_ahead
from dream_env.model.world_model import Losses, WorldModel
from dream_env.recordings.demos import Batch, Demos
from dream_env.recordings.mixture import Mixture

GPU_MEMORY_AT_PAPER_SIZE = 6 * 2**30
"""Bytes of GPU memory that suffice for an update of ``WorldModelConfig.paper`` with ``FitConfig.paper`` (50 sequences of 50,
64 × 64 gray), and of both ``paper_gaussian``: a test counts less than 4 GiB of weights, Adam's moments, gradients and activations
where they are most, in float32; half of that again is for the libraries' work space and the allocator's rounding. It grows
with batch × length."""


@dataclass(frozen=True)
class FitConfig:
    """How a world model is trained."""

    updates: int = 4500
    """Gradient steps."""
    batch: int = 32
    """Sequences in a batch."""
    length: int = 32
    """Rows in a sequence."""
    learning_rate: float = 1e-3
    """Adam's step size (at the start, with a cosine schedule)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Keep the step size, or let it fall along a half cosine to a hundredth: best where the number of updates is given."""
    warmup: int = 100
    """Updates over which the step size rises from zero."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
    clip: float = 100.0
    """Largest norm of the whole gradient."""
    log_every: int = 100
    """Updates between two rows of metrics."""
    test_every: int = 500
    """Updates between two measurements of the open-loop error on held-out episodes."""
    seed: int = 0
    """Seed of initial weights, batches and latent samples."""

    @classmethod
    def small(cls) -> "FitConfig":
        """For a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> "FitConfig":
        """DITTO table 1: 50 sequences of 50, Adam 3e-4."""
        return cls(
            updates=200_000,
            batch=50,
            length=50,
            learning_rate=3e-4,
            schedule="constant",
            adam_epsilon=1e-5,
            clip=200.0,
        )

    @classmethod
    def small_gaussian(cls) -> "FitConfig":
        """For a CPU."""
        return cls()

    @classmethod
    def paper_gaussian(cls) -> "FitConfig":
        """DreamerV2's batches: 50 sequences of 50, Adam 3e-4."""
        return cls(updates=50_000, batch=50, length=50, learning_rate=3e-4, schedule="constant", adam_epsilon=1e-5)

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "length", "log_every", "test_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.length < 2:
            raise ConfigError(f"length must be at least 2 rows (one step), but is {self.length}")


def fit(
    world_model: WorldModel,
    demos: Demos | Mixture,
    config: FitConfig = FitConfig(),
    *,
    held_out: Demos | None = None,
    store: Store | None = None,
    graph: Graph = "auto",
    processes: Processes = ALONE,
) -> Iterator[dict[str, float]]:
    """Train in place, yielding a row of metrics every ``log_every`` updates (keys of ``prediction``; ``update`` counts).

    With a ``store`` the whole training state is saved every few minutes and at the end, and a second call goes on from there:
    on a CPU the weights then equal those of an unbroken run to the last bit. On a GPU nothing in the loop makes the host wait:
    batches are uploaded ahead (``prefetch``), forward and backward are one recorded graph unless ``graph`` is "off"
    (``graphed``), and whether all is finite is looked at only where a row is made or a state saved.

    With several ``processes`` (``parallel``) each makes this call, and each yields the same rows; the first alone saves.

    Raises:
        TrainingError: if the loss stops being finite; what the store holds is then the last good state.
    """
    demos.windows(config.length)  # raises before anything is spent
    processes.check(config.batch)
    device = world_model.device
    optimizer = torch.optim.Adam(world_model.parameters(), config.learning_rate, eps=config.adam_epsilon, fused=True)
    rng = np.random.default_rng(config.seed)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    update = 0
    if store is not None and (saved := store.latest(device)) is not None:
        update, tensors, state = saved
        _restore(world_model, optimizer, rng, tensors, state)
        restore_generator(generator, tensors["generator"], step=update)
    processes.agree(update, "the update that was saved last")
    processes.same_weights(world_model)
    world_model.train()
    step = _step(world_model, graph, processes)
    first_bad = torch.full((), -1, device=device)  # the update at which something was not finite, once there was one

    def draw(rng: np.random.Generator) -> Batch:
        return processes.share_batch(demos.sample(config.batch, config.length, rng))

    with closing(drawn_ahead(draw, rng, device)) as batches:
        while update < config.updates:
            drawn = next(batches)
            noise = processes.share(world_model.draw_noise(config.length, config.batch, generator))
            losses = step(drawn.batch, noise)  # and with them the gradients
            norm = torch.nn.utils.clip_grad_norm_(world_model.parameters(), config.clip).detach()
            good = norm.isfinite() & losses.total.detach().isfinite()
            first_bad = torch.where(good | (first_bad >= 0), first_bad, update)
            _set_learning_rate(optimizer, config, update)
            last = update + 1 == config.updates
            logs = last or (update + 1) % config.log_every == 0
            saves = store is not None and processes.first and (last or store.due())
            if (logs or saves or not _only_queues(device)) and int(first_bad) >= 0:
                raise TrainingError(_diverged(int(first_bad), losses.terms, store))
            optimizer.step()
            update += 1
            if logs:
                metrics = {"update": float(update)}
                metrics |= reconstruction_metrics(world_model, *processes.whole(drawn.batch, losses))
                metrics |= {"gradient_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"]}
                if held_out is not None and (update % config.test_every == 0 or last):
                    metrics |= open_loop_error(world_model, held_out)
                yield metrics
            if store is not None and saves:
                if not all(bool(parameter.isfinite().all()) for parameter in world_model.parameters()):
                    raise TrainingError(_diverged(update, {}, store))  # before it replaces the last good state
                store.save(update, *_state(world_model, optimizer, drawn.rng_state, generator))
    world_model.zero_grad(set_to_none=True)  # those of a recorded step hold the recording's memory
    world_model.eval()


def _step(world_model: WorldModel, graph: Graph, processes: Processes) -> Step:
    """What turns a batch into gradients: mean gradients of all processes, as each of them then has."""
    module = LossModule(world_model)
    if graph == "off" or not _only_queues(world_model.device):
        return eager_step(processes.wrapped(module))
    recorded = GraphedStep(eager_step(module))

    def step(batch: Batch, noise: Tensor) -> Losses:
        losses = recorded(batch, noise)
        processes.average_gradients(world_model.parameters())  # no message between processes is recorded
        return losses

    return step


def _only_queues(device: torch.device) -> bool:
    # A GPU's host runs ahead of it as long as it asks for no number, and would have to wait for each that it asked for.
    return device.type == "cuda"


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: FitConfig, update: int) -> None:
    scale = min(1.0, (update + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        scale *= 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * update / config.updates))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * scale


def _state(
    world_model: WorldModel, optimizer: torch.optim.Optimizer, rng_state: dict[str, Any], generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"model/{name}": tensor for name, tensor in world_model.state_dict().items()}
    tensors |= optimizer_tensors(optimizer, "optimizer")
    tensors["generator"] = generator.get_state()
    return tensors, {"rng": rng_state}


def _restore(
    world_model: WorldModel,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
) -> None:
    prefix = "model/"
    world_model.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
    load_optimizer(optimizer, tensors, "optimizer")
    rng.bit_generator.state = state["rng"]


def _diverged(update: int, terms: dict[str, Tensor], store: Store | None) -> str:
    bad = [name for name, term in terms.items() if not bool(term.isfinite().all())] or ["a weight or its gradient"]
    kept = store.latest_folder() if store is not None else None
    saved = f"the last good state is kept in {kept}" if kept else "no state had been saved yet"
    return (
        f"the loss stopped being finite at update {update + 1} ({', '.join(bad)}); {saved}. Check the recordings for extreme "
        f"values, or lower --learning-rate"
    )
