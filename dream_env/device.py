"""Where is computed: the device that somebody named, looked for before hours are spent, and the arithmetic that suits it."""

import torch

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
