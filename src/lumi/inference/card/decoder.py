"""The decoder on a CUDA card: what is launched, in which order, with which tiles.

`decode` and `draw` are a step for one new token a row, made for CUDA graphs; `CardDecoder` brings prompts in.

Shapes: as `lumi.inference.card.kernels`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from lumi.inference.cache import SlotCache
from lumi.inference.card import kernels
from lumi.inference.card.tiles import MOST_SPLIT, num_parts, starts_early, tiling
from lumi.inference.decoder import Decoder, DecoderWeights, Span

_QUERIES = 64  # of a prompt, for one program


class Buffers(NamedTuple):
    """What stands between the kernels of a step, for the largest number of rows."""

    x_BD: Tensor
    squares_BQ: Tensor  # float32, of x_BD
    qkv: Tensor
    parts: Tensor  # float32 [B, H, P, E]
    sums: Tensor  # float32 [B, H, P]
    mixed: Tensor  # [B, H E]
    gated_BF: Tensor
    shares: Tensor  # float32 [split, B, D]
    arrived: Tensor  # int32 zeros

    @classmethod
    def of(cls, weights: DecoderWeights, rows: int) -> "Buffers":
        """Claim the memory."""
        config, device, dtype = weights.config, weights.head_VD.device, weights.dtype
        heads, e = config.n_head, config.head_dim
        shares = (max(size * num_parts(size, heads) for size in range(1, rows + 1)), heads, e)
        return cls(
            torch.empty(rows, config.d_model, dtype=dtype, device=device),
            torch.empty(rows, triton.cdiv(config.d_model, kernels.SQUARES.value), device=device),
            torch.empty(rows, (heads + 2 * config.num_kv_heads) * e, dtype=dtype, device=device),
            torch.empty(shares, device=device),
            torch.empty(shares[:2], device=device),
            torch.empty(rows, heads * e, dtype=dtype, device=device),
            torch.empty(rows, config.d_ffn, dtype=dtype, device=device),
            torch.empty(MOST_SPLIT, rows, config.d_model, device=device),
            torch.zeros(rows * max(heads, config.d_model // 16 + 1), dtype=torch.int32, device=device),
        )


@functools.cache
def _shared_bytes(device: torch.device) -> int:
    """Return how much shared memory a block may have."""
    if device.type != "cuda":
        return 1 << 20
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index or 0)
    return int(properties["max_shared_mem"]) - 1024


@functools.cache
def _early(device: torch.device, rows: int, d_model: int) -> dict[str, bool]:
    """Return the options with which a kernel of a step starts while the one before it runs."""
    can = (
        starts_early(rows, d_model)
        and device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )
    return {"EARLY": True, "launch_pdl": True} if can else {"EARLY": False}


class Product(NamedTuple):
    """What is done around a product; see `kernels.matmul`."""

    name: str
    norm: bool = False
    gated: bool = False
    add: bool = False


QKV, OUT, GATE_UP, DOWN, HEAD = (
    Product("qkv", norm=True), Product("out", add=True), Product("gate_up", norm=True, gated=True),
    Product("down", add=True), Product("head", norm=True),
)  # fmt: skip


def multiply(
    product: Product, a_BK: Tensor, weight: Tensor, out: Tensor, rows: int, eps: float, buffers: Buffers
) -> None:
    """Run one product of a step; ``out`` [B, N] is written, or added to.

    With a norm ``buffers.squares_BQ`` has to be that of ``a_BK``; what is added to leaves its own there. One or two
    rows neither read nor write it.
    """
    inputs, outputs = weight.shape[1], weight.shape[0] // (2 if product.gated else 1)
    d_model = outputs if product.add else inputs
    tile = tiling(product.name, rows, inputs, d_model)
    tile = tile.within(_shared_bytes(weight.device), weight.itemsize, gated=product.gated)
    around = {"K": inputs, "NORM": product.norm, "GATED": product.gated, "ADD": product.add}
    if tile.bm == 1:
        kernels.matvec[(triton.cdiv(outputs, tile.bn), rows)](
            a_BK,
            weight,
            out,
            outputs,
            eps,
            **around,
            BN=tile.bn,
            BK=tile.bk,
            num_warps=tile.warps,
            **_early(weight.device, rows, d_model),
        )
        return
    kernels.matmul[(triton.cdiv(outputs, tile.bn), triton.cdiv(rows, tile.bm), tile.split)](
        a_BK, weight, out, buffers.squares_BQ, buffers.shares, buffers.arrived, rows, outputs, eps, **around,
        SPLIT=tile.split, BM=tile.bm, BN=tile.bn, BK=tile.bk, num_warps=tile.warps, num_stages=tile.stages,
        **_early(weight.device, rows, d_model),
    )  # fmt: skip


def attend(
    weights: DecoderWeights, cache: SlotCache, buffers: Buffers, slots_B: Tensor, lengths_S: Tensor, layer: int
) -> None:
    """Run the attention of one layer: from ``buffers.qkv`` to ``buffers.mixed``."""
    config, rows = weights.config, len(slots_B)
    heads, e = config.n_head, config.head_dim
    parts, width = num_parts(rows, heads), triton.next_power_of_2(e)
    kernels.attend[(rows, heads, parts)](
        buffers.qkv, slots_B, lengths_S, weights.rotary_2CE, cache.keys[layer], cache.values[layer], buffers.mixed,
        buffers.parts, buffers.sums, buffers.arrived, cache.capacity, weights.rotary_2CE.shape[1], e**-0.5,
        H=heads, K=config.num_kv_heads, E=e, WIDTH=width, P=parts,
        BS=max(16, min(64, 8192 // (width * weights.dtype.itemsize))), num_warps=1,
        **_early(slots_B.device, rows, config.d_model),
    )  # fmt: skip


def decode(
    weights: DecoderWeights, cache: SlotCache, buffers: Buffers, slots_B: Tensor, last_S: Tensor, lengths_S: Tensor,
    logits_BV: Tensor,
) -> None:  # fmt: skip
    """Feed each row its slot's last token, at the position that is its length; write the logits behind it.

    Args:
        weights: of the model.
        cache: keys and values, those of the token are added.
        buffers: for at least as many rows.
        slots_B: int32, the slot of each row.
        last_S: int32, a token for each slot.
        lengths_S: int32, positions that each slot holds.
        logits_BV: float32, written.
    """
    rows, d, eps = len(slots_B), weights.config.d_model, weights.config.norm_eps
    x, qkv, mixed, gated = buffers.x_BD, buffers.qkv, buffers.mixed, buffers.gated_BF
    kernels.gather[(rows, triton.cdiv(d, 256))](
        last_S, slots_B, weights.embedding_VD, x, buffers.squares_BQ, d, BLOCK=256, **_early(x.device, rows, d)
    )
    for layer, block in enumerate(weights.blocks):
        multiply(QKV, x, block.qkv, qkv, rows, eps, buffers)
        attend(weights, cache, buffers, slots_B, lengths_S, layer)
        multiply(OUT, mixed, block.out, x, rows, eps, buffers)
        multiply(GATE_UP, x, block.gate_up, gated, rows, eps, buffers)
        multiply(DOWN, gated, block.down, x, rows, eps, buffers)
    multiply(HEAD, x, weights.head_VD, logits_BV, rows, eps, buffers)


def draw(
    logits_BV: Tensor, slots_B: Tensor, last_S: Tensor, lengths_S: Tensor, settings_S8: Tensor, uniforms_SC: Tensor,
    counts_SV: Tensor, bias_SV: Tensor, chosen_B: Tensor, nobody: int, d_model: int,
) -> None:  # fmt: skip
    """Draw a token for each row, write it to ``chosen_B`` and to its slot, and let the slot's length grow by one.

    Args:
        logits_BV: float32.
        slots_B: int32, the slot of each row.
        last_S: int32, written.
        lengths_S: int32, written.
        settings_S8: float32, see `kernels.draw`.
        uniforms_SC: float32, the number for the token behind each position.
        counts_SV: int16, as `sampling.adjust` wants it; written.
        bias_SV: float32.
        chosen_B: int32, written.
        nobody: the slot of rows that nobody asked for; it stays empty.
        d_model: of the model; see `tiles.starts_early`.
    """
    vocab = logits_BV.shape[1]
    kernels.draw[(len(slots_B),)](
        logits_BV, slots_B, last_S, lengths_S, settings_S8, uniforms_SC, counts_SV, bias_SV, chosen_B,
        vocab, uniforms_SC.shape[1], nobody, BLOCK=triton.next_power_of_2(vocab), num_warps=32 if vocab >= 8192 else 8,
        **_early(logits_BV.device, len(slots_B), d_model),
    )  # fmt: skip


class _Tiles(NamedTuple):
    """What the tokens of a pass attend to."""

    slots_N: Tensor
    places_N: Tensor
    tiles: Tensor  # see `kernels.attend_prompts`


class CardDecoder(Decoder):
    """A decoder for the prompts: what stands between its products in one kernel each."""

    def __init__(self, weights: DecoderWeights, cache: SlotCache) -> None:
        super().__init__(weights, cache)
        self._rotary_2CE = weights.rotary_2CE  # the kernels put the sign in themselves

    def _placed(self, spans: Sequence[Span]) -> _Tiles:  # type: ignore[override]
        lengths = [span.length for span in spans]
        slots = np.repeat([span.slot for span in spans], lengths)
        places = np.concatenate([np.arange(span.start, span.start + span.length) for span in spans])
        tiles = [
            (begin + at, min(_QUERIES, span.length - at), span.slot, span.start + at)
            for span, begin in zip(spans, np.cumsum([0, *lengths]), strict=False)
            for at in range(0, span.length, _QUERIES)
        ]
        sent = torch.from_numpy(np.concatenate([slots, places, np.array(tiles).reshape(-1)]).astype(np.int32))
        there, tokens = sent.to(self.device), len(slots)
        return _Tiles(there[:tokens], there[tokens : 2 * tokens], there[2 * tokens :].view(-1, 4))

    def _norm(self, x_ND: Tensor) -> Tensor:
        rows, d = x_ND.shape
        y_ND = torch.empty_like(x_ND)
        kernels.norm_rows[(rows,)](x_ND, y_ND, d, self.config.norm_eps, BLOCK=triton.next_power_of_2(d), num_warps=4)
        return y_ND

    def _keep(self, layer: int, all_NHE: Tensor, places: _Tiles) -> None:  # type: ignore[override]
        config, table = self.config, self._rotary_2CE
        kernels.turn[all_NHE.shape[:2]](
            all_NHE, places.slots_N, places.places_N, table, self.cache.keys[layer], self.cache.values[layer],
            self.cache.capacity, table.shape[1], H=config.n_head, K=config.num_kv_heads, E=config.head_dim,
            WIDTH=triton.next_power_of_2(config.head_dim), num_warps=1,
        )  # fmt: skip

    def _attend(self, layer: int, all_NHE: Tensor, places: _Tiles) -> Tensor:  # type: ignore[override]
        heads, e, itemsize = self.config.n_head, self.config.head_dim, all_NHE.element_size()
        width = max(16, triton.next_power_of_2(e))
        keys, stages = 64 if itemsize == 2 else 32, 3
        while (_QUERIES + 2 * keys * stages) * width * itemsize > _shared_bytes(self.device) and keys > 16:
            stages, keys = (1, keys) if stages > 1 else (1, keys // 2)
        mixed = all_NHE.new_empty(len(all_NHE), heads * e)
        kernels.attend_prompts[(len(places.tiles), heads)](
            all_NHE, places.tiles, self.cache.keys[layer], self.cache.values[layer], mixed, self.cache.capacity,
            e**-0.5, H=heads, K=self.config.num_kv_heads, E=e, WIDTH=width, BM=_QUERIES, BS=keys, num_warps=4,
            num_stages=stages,
        )  # fmt: skip
        return mixed

    def _gated(self, gate_up_NF: Tensor) -> Tensor:
        rows, f = len(gate_up_NF), gate_up_NF.shape[1] // 2
        out_NF = gate_up_NF.new_empty(rows, f)
        kernels.gate_rows[(rows, triton.cdiv(f, 1024))](gate_up_NF, out_NF, f, BLOCK=1024, num_warps=4)
        return out_NF
