"""Where is computed: the device that somebody named, looked for before hours are spent, the arithmetic that suits it, and its
random numbers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from dream_env.errors import ConfigError
from dream_env.model.world_model import Precision


def check_device(device: str | torch.device) -> None:
    """See that a device is there and is one that this package computes on: ``cpu``, ``cuda``, ``cuda:1`` …

    Raises:
        ConfigError: if it is not, with what to take instead.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device {str(device)!r}: nothing here computes on that; take cpu, or with a GPU cuda, cuda:1 …"
        )
    if found.type == "cpu":
        return
    if not torch.cuda.is_available():
        raise ConfigError(f"device {str(device)!r}: this PyTorch ({torch.__version__}) sees no GPU; take cpu")
    if (found.index or 0) >= (there := torch.cuda.device_count()):
        raise ConfigError(f"device {str(device)!r}: there are {there} GPUs; take cuda:0 … cuda:{there - 1}")


def fast_precision(device: str) -> Precision:
    """bfloat16 where the processor has units for it (measured: 1.8 times the float32 rate on such a CPU), else float32."""
    if torch.device(device).type == "cuda":
        # Not torch.cuda.is_bf16_supported: older GPUs than Ampere's emulate it, and are slower than in float32.
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


def restore_generator(generator: torch.Generator, state: Tensor, *, step: int) -> None:
    """Put a saved state back, so that the stream goes on where it was.

    A CPU's generator and a GPU's are different algorithms with states of different sizes. So a run that goes on on the other
    kind of device gets a fresh stream: not the one it began with, which it would draw a second time.

    Args:
        generator: seeded as at the start of the run.
        state: what ``get_state`` gave, on this kind of device or another; on any device.
        step: how far the run was, so that each such change of device begins another stream.
    """
    if state.numel() == generator.get_state().numel():
        generator.set_state(state.cpu())
    else:
        generator.manual_seed(generator.initial_seed() + 1 + step)


@contextmanager
def own_random_numbers(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Within it PyTorch's global generators, the CPU's and with ``device`` a GPU that one's, may be seeded and drawn from: they
    are put back at its end. No other is touched. With ``seed`` they begin there."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            # Not torch.manual_seed: it seeds all GPUs, and they are not put back.
            torch.default_generator.manual_seed(int(seed))
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(int(seed))
        yield


def random_states(device: torch.device) -> dict[str, Tensor]:
    """States of PyTorch's global generators: the CPU's, and with ``device`` a GPU that one's, which others draw from there."""
    states = {"random/torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["random/cuda"] = _global_generator(device).get_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device, *, step: int) -> None:
    """Put back what ``random_states`` gave, for a device of either kind; see ``restore_generator``."""
    torch.set_rng_state(states["random/torch"].cpu())
    if device.type == "cuda":
        saved = states.get("random/cuda", torch.empty(0, dtype=torch.uint8))  # none, if it was saved on a CPU
        restore_generator(_global_generator(device), saved, step=step)


def _global_generator(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
