"""The key/value cache: a place for each running request, claimed once and contiguous.

    slot 0    a b c d e | . . . . . .      length 5
    slot 1    f g | . . . . . . . . .      length 2

A context has a thousand or two positions, so a slot holds a whole one: nothing is paged, and one index finds it.

Shapes: L layers, S slots, K key/value heads, C positions of a slot, E head width, T new positions.
"""

import torch
from torch import Tensor

from lumi.model import ModelConfig


class SlotCache:
    """Keys and values, [L, S, K, C, E] each.

    Args:
        config: the model's shape.
        num_slots: requests at once.
        capacity: positions of a slot.
        dtype: the model's compute type.
        device: where the model is.
    """

    def __init__(
        self, config: ModelConfig, num_slots: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.n_layer, num_slots, config.num_kv_heads, capacity, config.head_dim)
        self.num_slots, self.capacity = num_slots, capacity
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)

    def put(self, layer: int, slot: int, start: int, key_TKE: Tensor, value_TKE: Tensor) -> None:
        """Store new positions of a slot."""
        end = start + len(key_TKE)
        assert end <= self.capacity, "the slot is full"
        self.keys[layer, slot, :, start:end] = key_TKE.transpose(0, 1)
        self.values[layer, slot, :, start:end] = value_TKE.transpose(0, 1)

    def read(self, layer: int, slot: int, end: int) -> tuple[Tensor, Tensor]:
        """Return the first positions of a slot, [1, K, end, E] each."""
        return self.keys[layer, slot : slot + 1, :, :end], self.values[layer, slot : slot + 1, :, :end]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first positions of a slot to another one."""
        for kept in (self.keys, self.values):
            kept[:, target, :, :length] = kept[:, source, :, :length]


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the type of keys and values: that of the weights, which on a CPU is only how weights are kept."""
    return torch.float32 if device.type == "cpu" else dtype


def slot_bytes(config: ModelConfig, capacity: int, dtype: torch.dtype) -> int:
    """Return what one slot takes."""
    return 2 * config.n_layer * config.num_kv_heads * capacity * config.head_dim * dtype.itemsize
