"""Where a model runs, and in which number type it computes."""

import torch

from lumi.devices import DeviceName, DtypeName
from lumi.errors import ConfigError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: DeviceName, *, index: int = 0) -> torch.device:
    """Return the device; ``auto`` is a CUDA card (the one with this index), else the CPU.

    Raises:
        ConfigError: ``cuda`` was asked for and there is no card.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device cuda was asked for, and torch sees no CUDA card", "use --device auto; see make check-env"
        )
    return torch.device("cuda", index) if available and name != "cpu" else torch.device("cpu")


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the type to compute in; ``auto`` is bf16 where the card has it, else fp16, and fp32 on a CPU."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free: on the card, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def release_memory(device: torch.device) -> None:
    """Give back to a card what the allocator keeps of models that are gone, so that `free_memory` sees it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
