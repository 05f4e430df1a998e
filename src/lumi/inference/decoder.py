"""The model as it decodes: weights laid out once for many short forward passes over slots of a cache.

    tokens of several requests, one behind the other -> embedding -> blocks, each request attending to its own slot

Plain torch, for any device and type; `lumi.inference.kernels` does the same for one new token a request on CUDA.
q, k, v and gate, up are one matrix each; adapters are merged into theirs.

Shapes: N tokens of all spans, T tokens of one, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn,
V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.inference.cache import SlotCache
from lumi.model import Llama, ModelConfig
from lumi.model.attention import rotate
from lumi.model.llama import Block, RMSNorm, whole
from lumi.model.lora import RowEmbedding

class Span(NamedTuple):
    """New positions of a slot, behind those that it holds."""

    slot: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One layer in the compute type; the gains of the norms are in the matrices behind them."""

    qkv: Tensor  # [(H + 2 K) E, D]
    out: Tensor  # [D, H E]
    gate_up: Tensor  # [2 F, D]
    down: Tensor  # [D, F]


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A model's weights, joined where they are applied together."""

    config: ModelConfig
    dtype: torch.dtype
    embedding_VD: Tensor
    head_VD: Tensor  # with the gain of the last norm
    rotary_2CE: Tensor  # float32
    blocks: list[BlockWeights]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Llama) -> "DecoderWeights":
        """Copy the weights out of a model, adapters merged; all ranks together where they hold shards."""
        dtype, decoder = model.compute_dtype, model.model
        embedding = decoder.embed_tokens
        table = embedding.dense() if isinstance(embedding, RowEmbedding) else whole(embedding.weight)
        blocks = []
        for block in cast(list[Block], decoder.layers):
            attention, mlp = block.self_attn, block.mlp
            qkv = torch.cat([layer.dense() for layer in (attention.q_proj, attention.k_proj, attention.v_proj)])
            gate_up = torch.cat([layer.dense() for layer in (mlp.gate_proj, mlp.up_proj)])
            blocks.append(
                BlockWeights(
                    _behind_norm(qkv, block.input_layernorm).to(dtype),
                    attention.o_proj.dense().to(dtype),
                    _behind_norm(gate_up, block.post_attention_layernorm).to(dtype),
                    mlp.down_proj.dense().to(dtype),
                )
            )
        return cls(
            config=model.config,
            dtype=dtype,
            embedding_VD=table.to(dtype),
            head_VD=_behind_norm(model.lm_head.dense(), decoder.norm).to(dtype),
            rotary_2CE=model.rotary_2TE,
            blocks=blocks,
        )


def _behind_norm(weight_OD: Tensor, norm: RMSNorm) -> Tensor:
    """Return a matrix with the gain of the norm before it taken in, float32."""
    return weight_OD.float() * whole(norm.weight).float()


class Matrix(Protocol):
    """Something to multiply with."""

    def times(self, x_NI: Tensor) -> Tensor:
        """Return x W^T, [N, O]."""
        ...

    def added(self, x_NI: Tensor, to_NO: Tensor) -> Tensor:
        """Return a sum with x W^T, [N, O]."""
        ...


class Dense:
    """A matrix in its own type. On a CPU its transpose is kept: one row by a wide one is then read front to back."""

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight_IO = weight_OI.t() if weight_OI.is_cuda else weight_OI.t().contiguous()

    def times(self, x_NI: Tensor) -> Tensor:
        return x_NI @ self._weight_IO

    def added(self, x_NI: Tensor, to_NO: Tensor) -> Tensor:
        return torch.addmm(to_NO, x_NI, self._weight_IO)


class Int8:
    """A matrix in int8 with a scale for each row, multiplied in bf16: a quarter of the bytes, for a CPU.

    The scale is rounded to bf16 before the row is divided by it, so that its rounding is in no product.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        highest_O = weight_OI.abs().amax(1).clamp(min=1e-8).float()
        self._scale_O = (highest_O / 127).to(torch.bfloat16)
        self._rows_OI = (weight_OI / self._scale_O.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)

    def times(self, x_NI: Tensor) -> Tensor:
        y_NO = torch.ops.aten._weight_int8pack_mm(x_NI.to(torch.bfloat16), self._rows_OI, self._scale_O)
        return cast(Tensor, y_NO).to(x_NI.dtype)

    def added(self, x_NI: Tensor, to_NO: Tensor) -> Tensor:
        return to_NO + self.times(x_NI)


class Decoder:
    """Runs spans of tokens through the model.

    Args:
        weights: of the model.
        cache: what was there before; new positions are added.
        matrix: what multiplies with a weight.
    """

    def __init__(self, weights: DecoderWeights, cache: SlotCache, matrix: Callable[[Tensor], Matrix] = Dense) -> None:
        self.weights, self.cache = weights, cache
        self._head = matrix(weights.head_VD)
        self._matrices = [
            (matrix(block.qkv), matrix(block.out), matrix(block.gate_up), matrix(block.down))
            for block in weights.blocks
        ]

    def logits(self, tokens_N: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return the logits behind each token, float32 [N, V], and keep its keys and values.

        Args:
            tokens_N: the tokens of all spans, one behind the other.
            spans: where they belong.
        """
        x_ND = self._embedded(tokens_N)
        rotary = self._rotary(spans)
        for layer in range(len(self._matrices)):
            x_ND = self._block(layer, x_ND, rotary, spans)
        return self._head.times(self._norm(x_ND)).float()

    def fill(self, tokens_N: Tensor, spans: Sequence[Span]) -> None:
        """Keep the keys and values of tokens; the last layer needs nothing else of them."""
        x_ND = self._embedded(tokens_N)
        rotary = self._rotary(spans)
        last = len(self._matrices) - 1
        for layer in range(last):
            x_ND = self._block(layer, x_ND, rotary, spans)
        _, k_NKE, v_NKE = self._projected(last, x_ND, rotary)
        begin = 0
        for span in spans:
            here = slice(begin, begin := begin + span.length)
            self.cache.extend(last, span.slot, span.start, k_NKE[here], v_NKE[here])

    def _embedded(self, tokens_N: Tensor) -> Tensor:
        return F.embedding(tokens_N, self.weights.embedding_VD)

    def _rotary(self, spans: Sequence[Span]) -> Tensor:
        """Return cosines and sines, [2, N, 1, E]."""
        table = self.weights.rotary_2CE
        if len(spans) == 1:
            return table[:, spans[0].start : spans[0].start + spans[0].length].unsqueeze(2)
        places = [place for span in spans for place in range(span.start, span.start + span.length)]
        return table[:, torch.tensor(places, device=table.device)].unsqueeze(2)

    def _norm(self, x_ND: Tensor) -> Tensor:
        wide = x_ND.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.weights.config.norm_eps)).to(x_ND.dtype)

    def _projected(self, layer: int, x_ND: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.weights.config
        heads, kv_heads = config.n_head, config.num_kv_heads
        all_NHE = self._matrices[layer][0].times(self._norm(x_ND)).view(len(x_ND), -1, config.head_dim)
        turned_NHE = rotate(all_NHE[:, : heads + kv_heads].unsqueeze(2), rotary[0], rotary[1]).squeeze(2)
        return turned_NHE[:, :heads], turned_NHE[:, heads:], all_NHE[:, heads + kv_heads :]

    def _block(self, layer: int, x_ND: Tensor, rotary: Tensor, spans: Sequence[Span]) -> Tensor:
        q_NHE, k_NKE, v_NKE = self._projected(layer, x_ND, rotary)
        mixed, begin = [], 0
        for span in spans:
            here = slice(begin, begin := begin + span.length)
            keys, values = self.cache.extend(layer, span.slot, span.start, k_NKE[here], v_NKE[here])
            mixed.append(_attend(q_NHE[here], keys, values, span))
        _, out, gate_up, down = self._matrices[layer]
        x_ND = out.added(mixed[0] if len(mixed) == 1 else torch.cat(mixed), x_ND)
        gate_NF, up_NF = gate_up.times(self._norm(x_ND)).chunk(2, -1)
        return down.added(F.silu(gate_NF) * up_NF, x_ND)


def _attend(q_THE: Tensor, keys_1KSE: Tensor, values_1KSE: Tensor, span: Span) -> Tensor:
    """Let new positions attend to all of their slot up to themselves, [T, H E]."""
    mask = None
    if span.length > 1 and span.start:
        size = (span.length, keys_1KSE.shape[2])
        mask = torch.ones(size, dtype=torch.bool, device=q_THE.device).tril(span.start)
    mixed_1HTE = F.scaled_dot_product_attention(
        q_THE.transpose(0, 1).unsqueeze(0),
        keys_1KSE,
        values_1KSE,
        attn_mask=mask,
        is_causal=span.length > 1 and mask is None,
        enable_gqa=q_THE.shape[1] != keys_1KSE.shape[1],
    )
    return mixed_1HTE[0].transpose(0, 1).flatten(1)
