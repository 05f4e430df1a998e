"""QLoRA (arXiv:2305.14314): the matrices beside the adapters frozen in four bits.

    W = absmax of its block x one of 16 levels     (NF4: the levels are quantiles of a normal distribution)

bitsandbytes packs and unpacks. A matrix is unpacked for its product in the forward pass and again in the backward
pass, so that it never stands there whole for longer.
"""

import importlib.util
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.errors import ConfigError
from lumi.model.llama import Linear
from lumi.model.lora import LoraConfig, LoraLinear

_BLOCK = 64  # numbers that share a scale: 4 + 32 / 64 = 4.5 bits a number


def require_bitsandbytes() -> None:
    """Check that the library that packs is there.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method qlora needs bitsandbytes, which is not installed",
            "pip install bitsandbytes, or use --method lora: it gives the same at these sizes",
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
    import bitsandbytes  # noqa: F401  (registers torch.ops.bitsandbytes)


class _FrozenProduct(torch.autograd.Function):
    """y = x W^T, W packed: uint8 [O * I / 2, 1] and a float32 scale for each block."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, absmax: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed, absmax)
        ctx.shape = shape
        return F.linear(x, unpack(packed, absmax, shape, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        packed, absmax = ctx.saved_tensors
        return grad @ unpack(packed, absmax, ctx.shape, grad.dtype), None, None, None


def pack(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix in four bits, two numbers a byte, and the scales of its blocks.

    Raises:
        ConfigError: it has no whole number of blocks.
    """
    if weight_OI.numel() % _BLOCK:
        raise ConfigError(
            f"method qlora packs blocks of {_BLOCK} numbers, and a matrix is {tuple(weight_OI.shape)}",
            "use --method lora",
        )
    packed, absmax = torch.ops.bitsandbytes.quantize_4bit(weight_OI.reshape(-1, _BLOCK), _BLOCK, "nf4", torch.uint8)
    return packed, absmax


def unpack(packed: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the matrix that `pack` made these of, to within half a level."""
    # A row of its own for each block: with several rows to a block bitsandbytes 0.50 is wrong on the CPU.
    rows = (absmax.numel(), _BLOCK)
    weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(packed, absmax, _BLOCK, "nf4", rows, dtype)
    return weight.view(shape)


class QuantizedLoraLinear(LoraLinear):
    """An adapted layer whose frozen matrix is kept in four bits; it has no ``weight``."""

    packed: Tensor
    absmax: Tensor

    def __init__(self, base: Linear, config: LoraConfig, draw: torch.Generator) -> None:
        super().__init__(base, config, draw)
        packed, absmax = pack(base.weight.detach())
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("absmax", absmax, persistent=False)
        self.register_parameter("weight", None)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def forward(self, input: Tensor) -> Tensor:
        base: Tensor = _FrozenProduct.apply(input, self.packed, self.absmax, self._shape)  # type: ignore[no-untyped-call]
        if not self.adapting:
            return base
        kept = F.dropout(input, self.dropout, self.training)
        out: Tensor = base + self.lora_B(self.lora_A(kept)) * self.scaling
        return out

    @torch.no_grad()
    def dense(self) -> Tensor:
        weight_OI = unpack(self.packed, self.absmax, self._shape, torch.float32)
        return super().merged(weight_OI) if self.adapting else weight_OI

    @torch.no_grad()
    def merged(self, weight_OI: Tensor) -> Tensor:
        """Return the one matrix that does the same: upon the four bits that the adapter has learned with."""
        return super().merged(unpack(self.packed, self.absmax, self._shape, weight_OI.dtype))
