"""The decoder on a CPU: prompts by torch, one new token a row by `lumi.inference.cpu.kernels`.

The weights stand there once, in the type in which they are read: float32, float16, bfloat16, or int8 with a scale for
each row. Everything else is float32.

Shapes: as `lumi.inference.cpu.kernels`.
"""

import functools
import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumi.inference.cache import SlotCache
from lumi.inference.cpu.team import team
from lumi.inference.decoder import Decoder, DecoderWeights, Span
from lumi.inference.sampling import Sampling, sample
from lumi.inference.settings import GenerationConfig
from lumi.progress import say

_ready: set[tuple[str, torch.dtype, torch.dtype]] = set()  # functions and types of weights, of this process


class CpuDecoder(Decoder):
    """A decoder for a CPU.

    Args:
        weights: of the model; float32, float16 or bfloat16.
        cache: float32.
        int8: keep the matrices in int8, each row with a scale of its own.
    """

    def __init__(self, weights: DecoderWeights, cache: SlotCache, *, int8: bool = False) -> None:
        super().__init__(weights, cache)
        self._embedding_VD = weights.embedding_VD.clone()  # an array of the model's own could no longer be freed by it
        self._blocks, self._head_VD = [], None  # type: ignore[assignment]  # they stand there once
        self._values, self._scales = {}, {}
        for name in ("qkv", "out", "gate_up", "down"):
            packed = _pack([getattr(block, name) for block in weights.blocks], int8)
            self._values[name], self._scales[name] = packed
        head_1VD, scale_1V = _pack([weights.head_VD], int8)
        self._values["head"], self._scales["head"] = head_1VD[0], scale_1V[0]
        self._threads = torch.get_num_threads()
        self._compiles = importlib.util.find_spec("numba") is not None
        if self._compiles:
            self._claim(cache.num_slots)

    def _claim(self, rows: int) -> None:
        """Claim what the compiled functions work in."""
        from lumi.inference.cpu.kernels import Matrices, Rooms

        config, threads = self.config, self._threads
        heads, e, d, f = config.n_head, config.head_dim, config.d_model, config.d_ffn
        shapes = {
            "x": (rows, d), "qkv": (rows, (heads + 2 * config.num_kv_heads) * e), "mixed": (rows, heads * e),
            "gated": (rows, f), "up": (rows, f), "normed": (threads, rows, d), "scores": (threads, self.cache.capacity),
            "query": (threads, e), "wide": (threads, 2, max(d, heads * e, f)),
        }  # fmt: skip
        self._chances_T2V = np.zeros((threads, 2, config.vocab_size), dtype=np.float32)
        self._arrays = (
            _array(self._embedding_VD),
            Matrices(**{name: _array(values) for name, values in self._values.items()}),
            Matrices(**{name: _array(scales) for name, scales in self._scales.items()}),
            self._turn_2CE.numpy(),
            self.cache.keys.numpy(),
            self.cache.values.numpy(),
            Rooms(**{name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}),
            config.norm_eps,
            heads,
        )

    def logits(self, tokens_N: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return the logits behind each token, float32 [N, V], and keep its keys and values."""
        if not self._compiles or any(span.length > 1 for span in spans):
            return super().logits(tokens_N, spans)
        from lumi.inference.cpu.kernels import decode

        logits_BV = torch.empty(len(spans), self.config.vocab_size)
        slots = np.array([span.slot for span in spans])
        places = np.array([span.start for span in spans])
        assert places.max() < self.cache.capacity, "the slot is full"
        arguments = (tokens_N.long().numpy(), slots, places, *self._arrays, logits_BV.numpy())
        self._run(decode, self._threads, 5 * self.config.n_layer + 2, *arguments)
        return logits_BV

    def sample(self, logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
        """Return one token id per row, see `lumi.inference.sampling.sample`."""
        if not self._compiles:
            return sample(logits_BV, uniform_B, sampling)
        from lumi.inference.cpu.kernels import draw

        settings_B7, chosen_B = torch.stack(sampling, 1), torch.empty(len(logits_BV), dtype=torch.int64)
        arrays = (logits_BV.numpy(), settings_B7.numpy(), uniform_B.numpy(), self._chances_T2V, chosen_B.numpy())
        self._run(draw, min(self._threads, len(logits_BV)), 1, *arrays)
        return chosen_B

    def warm_up(self) -> None:
        """Compile what a step runs, or fetch it from where it was kept."""
        logits_1V = self.logits(torch.zeros(1, dtype=torch.int64), [Span(0, 0, 1)])
        self.sample(logits_1V, torch.zeros(1, dtype=torch.float64), Sampling.of([GenerationConfig()]))

    def _run(self, function: Any, threads: int, num_stages: int, *arguments: Any) -> None:
        """Call a compiled function in threads; the first time, when it may be compiled, in this one alone."""
        key = (function.__name__, self._values["qkv"].dtype, self._embedding_VD.dtype)
        if key in _ready:
            team(self._threads).run(function, threads, num_stages, *arguments)
            return
        notice = threading.Timer(2.0, _say_once)
        notice.start()
        try:
            function(0, 1, np.zeros(2 * num_stages, dtype=np.int64), *arguments)
        finally:
            notice.cancel()
        _ready.add(key)

    def _matrix(self, name: str, layer: int | None = None) -> Tensor:
        values_OI, scale_O = self._values[name], self._scales[name]
        if layer is not None:
            values_OI, scale_O = values_OI[layer], scale_O[layer]
        wide_OI = values_OI.float()
        return wide_OI * scale_O.unsqueeze(1) if values_OI.dtype == torch.int8 else wide_OI

    def _embedded(self, tokens_N: Tensor) -> Tensor:
        return super()._embedded(tokens_N).float()


@functools.cache
def _say_once() -> None:
    say("compiling the decoder for this machine, once: some twenty seconds")


def _pack(matrices: Sequence[Tensor], int8: bool) -> tuple[Tensor, Tensor]:
    """Return what is kept of the same matrix of all layers, [L, O, I], and the scales of its rows, [L, O]."""
    shape = (len(matrices), *matrices[0].shape)
    values_LOI = torch.empty(shape, dtype=torch.int8 if int8 else matrices[0].dtype)
    scales_LO = torch.ones(shape[:2])
    for matrix_OI, values_OI, scale_O in zip(matrices, values_LOI, scales_LO, strict=True):
        if int8:
            scale_O[:] = matrix_OI.abs().amax(1).float().clamp(min=1e-8) / 127
            values_OI[:] = (matrix_OI / scale_O.unsqueeze(1)).round().clamp(-127, 127)
        else:
            values_OI[:] = matrix_OI
    return values_LOI, scales_LO


def _array(values: Tensor) -> NDArray[Any]:
    """Return an array of the same memory; half precisions as their bits, see `kernels`."""
    bits = {torch.float16: torch.uint16, torch.bfloat16: torch.int16}
    return values.view(bits.get(values.dtype, values.dtype)).numpy()
