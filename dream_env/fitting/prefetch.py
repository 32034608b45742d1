"""The next batch drawn, and on a GPU uploaded, while the last one trains.

One thread, one batch ahead. Only the thread draws from the generator, in the order in which batches are trained on, so they
are the same as without it; and each batch carries the state that the generator was left in, so that a saved training goes
on with the batch that was to come next, not with the one after those already drawn.

On a GPU it takes sampling and upload out of the way. On a CPU (measured) sampling is a few thousandths of an update as long
as the recordings are in the disk cache, and the thread changes nothing; where they have to come from the disk, it took a
sixth off an update, on a single core too.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream_env.recordings.demos import Batch


@dataclass(frozen=True)
class Drawn:
    """A batch where it will be trained on, and where the generator stood when it had been drawn."""

    batch: Batch
    rng_state: dict[str, Any]
    """State of the NumPy generator: what the next batch is drawn from."""


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in an order that depends on nothing but the observation's keys."""
    return [*batch.obs.values(), batch.action_tm1, batch.is_first, batch.is_terminal]


def mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The same batch with each tensor changed."""
    obs = {name: change(x) for name, x in batch.obs.items()}
    return Batch(obs, change(batch.action_tm1), change(batch.is_first), change(batch.is_terminal))


def drawn_ahead(
    draw: Callable[[np.random.Generator], Batch], rng: np.random.Generator, device: torch.device, *, thread: bool = True
) -> Generator[Drawn, None, None]:
    """Batches without end, each on ``device``; the thread ends when the iterator is closed, or when drawing fails.

    Args:
        draw: gives the next batch, in host memory; what it raises is raised here, where that batch is asked for.
        rng: the generator, which nobody else may use meanwhile.
        device: where batches are trained on.
        thread: without it, each batch is drawn when it is asked for.
    """
    upload = _Upload(device) if device.type == "cuda" else None

    def prepare() -> tuple[Batch, torch.cuda.Event | None, dict[str, Any]]:
        batch = draw(rng)
        return *(upload.begin(batch) if upload else (batch, None)), dict(rng.bit_generator.state)

    with ThreadPoolExecutor(1, "dream-env-batches") as executor:
        coming = executor.submit(prepare) if thread else None
        while True:
            batch, uploaded, state = coming.result() if coming else prepare()
            coming = executor.submit(prepare) if thread else None
            if upload and uploaded:
                upload.end(batch, uploaded)
            yield Drawn(batch, state)


class _Upload:
    """Copies to a GPU on a stream of their own, so that they run beside the kernels of the batch before."""

    AHEAD = 2
    """Updates that may be queued and not done. The host is faster than the GPU, and each update that waits holds a batch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._done: deque[torch.cuda.Event] = deque()  # of each batch handed out: when all work before it is done

    def begin(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """Called by the thread, which alone waits for the GPU."""
        while len(self._done) > self.AHEAD:
            self._done.popleft().synchronize()
        with torch.cuda.stream(self.stream):  # a copy from pinned memory needs the host no more
            there = mapped(batch, lambda x: x.pin_memory().to(self.device, non_blocking=True))
            return there, self.stream.record_event()

    def end(self, batch: Batch, uploaded: torch.cuda.Event) -> None:
        """Called by the training: what is queued from here on waits for the copy; the host does not."""
        now = torch.cuda.current_stream(self.device)
        self._done.append(now.record_event(torch.cuda.Event(blocking=True)))  # blocking: the thread sleeps
        now.wait_event(uploaded)
        for tensor in tensors_of(batch):
            tensor.record_stream(now)  # its memory belongs to the other stream, which must not use it again before
