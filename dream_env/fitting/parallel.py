"""Several processes that train one world model: ``torchrun --nproc-per-node 2 -m dream_env fit …``.

Each draws the same windows and the same noise and trains on its share of the columns; the mean of their gradients is the
gradient of the whole batch, so the numbers do not depend, but for rounding, on how many processes there are. The first one
alone writes. All of it is PyTorch's own: torchrun starts the processes and ends them all if one fails, gloo (CPU) or NCCL
(CUDA) connects them, DistributedDataParallel averages the gradients.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dream_env.errors import ConfigError, DreamEnvError, TrainingError
from dream_env.fitting.prefetch import mapped
from dream_env.latent import Latent
from dream_env.model.rssm import Observed
from dream_env.model.world_model import Losses
from dream_env.recordings.demos import Batch

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others before it gives up. One that died is noticed at once; this is for one that hangs."""


@dataclass(frozen=True)
class Processes:
    """Those that train together, seen from one of them; the default is one that trains alone."""

    rank: int = 0
    """Which one this is."""
    count: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    # ------------------------------------------------------------------------------------------------ batch and gradient

    def check(self, batch: int) -> None:
        """See that a batch can be split.

        Raises:
            ConfigError: if it cannot, with the nearest that can.
        """
        if batch % self.count:
            more = -(-batch // self.count) * self.count
            raise ConfigError(
                f"a batch of {batch} sequences cannot be split evenly between {self.count} processes; take --batch {more}, "
                f"or as many processes as divide {batch}"
            )

    def share(self, x: Tensor) -> Tensor:
        """This process's columns of (time, batch, ...)."""
        return x if self.count == 1 else x.chunk(self.count, dim=1)[self.rank].contiguous()

    def share_batch(self, batch: Batch) -> Batch:
        """This process's columns of a batch."""
        return batch if self.count == 1 else mapped(batch, self.share)

    def same_weights(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module whose ``backward`` leaves the mean gradient of all processes."""
        return module if self.count == 1 else DistributedDataParallel(module)

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The same for gradients that are there already, as a recorded step leaves them: in place, in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        means = flat.split([gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def whole(self, batch: Batch, losses: Losses) -> tuple[Batch, Losses]:
        """Batch and losses of all processes together, in the order they were drawn in: what metrics are made of."""
        if self.count == 1:
            return batch, losses

        def whole(x: Tensor) -> Tensor:
            parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.count)]
            distributed.all_gather(parts, x.detach().contiguous())
            return torch.cat(parts, dim=1)

        seen = losses.observed
        latent = Latent(whole(seen.latent.deter), whole(seen.latent.stoch))
        terms = {name: whole(x) for name, x in losses.terms.items()}
        return mapped(batch, whole), replace(
            losses,
            terms=terms,
            total=torch.stack([term.mean() for term in terms.values()]).sum(),
            observed=Observed(latent, whole(seen.posterior), whole(seen.prior)),
            decoded={name: whole(x) for name, x in losses.decoded.items()},
            target={name: whole(x) for name, x in losses.target.items()},
        )

    # ----------------------------------------------------------------------------------------------------------- turns

    def once(self, work: Callable[[], T]) -> T:
        """What the first process makes of ``work``; the others wait. If it raises, all raise the same."""
        if self.count == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except DreamEnvError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def first_then_others(self, work: Callable[[], T]) -> T:
        """Each does ``work``, which the first one's files make quick for the others."""
        if self.count == 1:
            return work()
        made: list[T] = []
        self.once(lambda: made.append(work()))  # what it made stays here: it may be gigabytes
        return made[0] if self.first else work()

    def agree(self, value: int, what: str) -> None:
        """See that all processes have the same number.

        Raises:
            ConfigError: if not.
        """
        if self.count == 1:
            return
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise ConfigError(
                f"the processes do not agree on {what}: {values}. They have to see the same files: put --out on a disk that "
                f"all machines share"
            )

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()
"""One process, as ever."""


@contextmanager
def joined(device: str, patience: timedelta = PATIENCE) -> Iterator[tuple[Processes, str]]:
    """Join the processes that torchrun started together with this one; gives them, and this one's device.

    Without torchrun, or where a caller has joined them already, nothing is started and nothing ended here.

    Raises:
        ConfigError: if there are fewer GPUs than processes, or a GPU was chosen by number for all of them.
        TrainingError: if another process stopped or did not answer.
    """
    if not distributed.is_available() or not (distributed.is_initialized() or _started_together()):
        yield ALONE, device
        return
    ours = not distributed.is_initialized()
    device = _own_device(device)
    if ours:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=patience)
    processes = Processes(distributed.get_rank(), distributed.get_world_size())
    try:
        yield processes, device
    except DreamEnvError:
        raise
    except RuntimeError as error:
        if not _lost_connection(error):
            raise
        raise TrainingError(
            f"process {processes.rank} of {processes.count} lost the others: {str(error).splitlines()[0]}. Look for the error "
            f"of the one that stopped first; the same command goes on at the last saved state"
        ) from error
    finally:
        if ours:
            distributed.destroy_process_group()


def _started_together() -> bool:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def _own_device(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise ConfigError(
            f"--device {device} is one GPU; of several processes each takes one of its own: --device cuda"
        )
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise ConfigError(
            f"{local + 1} processes or more on a machine with {there} GPUs; start one for each: --nproc-per-node {max(1, there)}"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _lost_connection(error: RuntimeError) -> bool:
    # gloo raises plain RuntimeErrors that begin with its file's name.
    return isinstance(error, distributed.DistError) or "gloo/" in str(error)
