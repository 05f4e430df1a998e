"""The key/value cache: what earlier positions of a batch left behind, in memory claimed once.

    columns   0 . . . . . . length      capacity
    row 0     - - a b c     | x ...             "-" is left padding: rows of different length end together,
    row 1     d e f g h     | x ...             so all of them write their next token into the same column

Shapes: B rows, K key/value heads, E head width, T new columns, S columns so far.
"""

import torch
from torch import Tensor

from lumi.model import ModelConfig


class StaticCache:
    """Keys and values of every layer, [B, K, capacity, E] each; implements `lumi.model.KeyValueCache`.

    Args:
        config: the model's shape.
        capacity: columns, padding included.
        padding_B: how many columns at the left of each row are padding.
        dtype: the model's compute type.
    """

    def __init__(self, config: ModelConfig, capacity: int, padding_B: Tensor, *, dtype: torch.dtype) -> None:
        shape = (config.n_layer, padding_B.shape[0], config.num_kv_heads, capacity, config.head_dim)
        self.padding_B = padding_B
        self.capacity = capacity
        self.length = 0
        self.mask_B1TS: Tensor | None = None
        self._keys = torch.zeros(shape, dtype=dtype, device=padding_B.device)
        self._values = torch.zeros_like(self._keys)
        self._start = 0

    def extend(self, layer: int, key_BKTE: Tensor, value_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new columns of a layer and return all columns so far; layers come in order, from 0."""
        if layer == 0:
            self._begin(key_BKTE.shape[2])
        self._keys[layer][:, :, self._start : self.length] = key_BKTE
        self._values[layer][:, :, self._start : self.length] = value_BKTE
        return self._keys[layer][:, :, : self.length], self._values[layer][:, :, : self.length]

    def _begin(self, num_columns: int) -> None:
        assert self.length + num_columns <= self.capacity, "the cache is full"
        self._start, self.length = self.length, self.length + num_columns
        columns_S = torch.arange(self.length, device=self.padding_B.device)
        query_T1 = columns_S[self._start :].unsqueeze(1)
        real_B1S = columns_S >= self.padding_B.view(-1, 1, 1)
        # a padding query sees itself: a row without any key would be a softmax over nothing
        self.mask_B1TS = ((columns_S <= query_T1) & real_B1S | (columns_S == query_T1)).unsqueeze(1)
