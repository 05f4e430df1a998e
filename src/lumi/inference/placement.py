"""Where a model runs when it is not trained, and in which type it computes."""

from typing import Literal

import torch

from lumi.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: DeviceName) -> torch.device:
    """Return the device; ``auto`` is the first CUDA card, else the CPU.

    Raises:
        ConfigError: ``cuda`` was asked for and there is no card.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, and PyTorch sees no CUDA card", "use --device cpu, or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the type to compute in; ``auto`` is bf16 where the card has it, else fp16, and fp32 on a CPU."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
