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
        """Take the weights of a model, adapters merged; all ranks together where they hold shards."""
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
    """A matrix in its own type.

    On a CPU memory is what a row waits for: each thread gets outputs of its own, in the order in which it reads them.
    """

    def __init__(self, weight_OI: Tensor) -> None:
        outputs, inputs = weight_OI.shape
        threads = 1 if weight_OI.is_cuda or outputs % torch.get_num_threads() else torch.get_num_threads()
        self._weight_TIO = weight_OI.view(threads, -1, inputs).transpose(1, 2)
        if not weight_OI.is_cuda:
            self._weight_TIO = self._weight_TIO.contiguous()

    def times(self, x_NI: Tensor) -> Tensor:
        threads, rows = len(self._weight_TIO), len(x_NI)
        if threads == 1:
            return x_NI @ self._weight_TIO[0]
        y_TNO = torch.bmm(x_NI.expand(threads, -1, -1), self._weight_TIO)
        return y_TNO.view(1, -1) if rows == 1 else y_TNO.transpose(0, 1).reshape(rows, -1)

    def added(self, x_NI: Tensor, to_NO: Tensor) -> Tensor:
        threads, rows = len(self._weight_TIO), len(x_NI)
        if threads == 1:
            return torch.addmm(to_NO, x_NI, self._weight_TIO[0])
        if rows == 1:
            to_T1O = to_NO.view(threads, 1, -1)
            return torch.baddbmm(to_T1O, x_NI.expand(threads, -1, -1), self._weight_TIO).view(1, -1)
        return to_NO + self.times(x_NI)


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
        # not the weights: what multiplies has its own layout of them, and they must not stand there twice
        self.config, self.dtype, self.device = weights.config, weights.dtype, weights.head_VD.device
        self.cache, self._embedding_VD = cache, weights.embedding_VD
        cos_CE, sin_CE = weights.rotary_2CE
        half = sin_CE.shape[1] // 2  # the other half comes in with a sign: the table has it, so that no step must
        self._turn_2CE = torch.stack([cos_CE, torch.cat([-sin_CE[:, :half], sin_CE[:, half:]], 1)])
        self._head = matrix(weights.head_VD)
        self._matrices = [
            (matrix(block.qkv), matrix(block.out), matrix(block.gate_up), matrix(block.down))
            for block in weights.blocks
        ]

    def logits(self, tokens_N: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return the logits behind each token, float32 [N, V], and keep its keys and values.

        Args:
            tokens_N: the tokens of all spans, one behind the other.
            spans: where they belong; those that begin their slots come first.
        """
        places = self._placed(spans)
        x_ND = self._embedded(tokens_N)
        for layer in range(len(self._matrices)):
            x_ND = self._block(layer, x_ND, places)
        return self._head.times(self._norm(x_ND)).float()

    def fill(self, tokens_N: Tensor, spans: Sequence[Span]) -> None:
        """Keep the keys and values of tokens; the last layer needs nothing else of them."""
        places = self._placed(spans)
        x_ND = self._embedded(tokens_N)
        last = len(self._matrices) - 1
        for layer in range(last):
            x_ND = self._block(layer, x_ND, places)
        _, k_NKE, v_NKE = self._projected(last, x_ND, places)
        if places.at is None:
            for span, here in places.parts:
                self.cache.extend(last, span.slot, span.start, k_NKE[here], v_NKE[here])

    def _placed(self, spans: Sequence[Span]) -> "Places":
        """Work out once what every layer needs to know of the spans."""
        table, device = self._turn_2CE, self.device
        parts, begin = [], 0
        for span in spans:
            parts.append((span, slice(begin, begin := begin + span.length)))
        if device.type == "cpu" and len(spans) == 1:
            span = spans[0]
            return Places(parts, table[:, span.start : span.start + span.length].unsqueeze(2))
        places_N = torch.cat([torch.arange(span.start, span.start + span.length) for span in spans]).to(device)
        rotary_2N1E = table[:, places_N].unsqueeze(2)
        if device.type == "cpu":
            return Places(parts, rotary_2N1E)
        slots_N = torch.cat([torch.full((span.length,), span.slot) for span in spans]).to(device)
        fresh = next((number for number, span in enumerate(spans) if span.start), len(spans))
        unfit = self.dtype == torch.float32 or self.config.head_dim % 8  # for the kernel
        if unfit or not fresh:
            return Places(parts, rotary_2N1E, (slots_N, places_N))
        borders = torch.tensor([0, *(here.stop for _, here in parts[:fresh])], dtype=torch.int32, device=device)
        longest = max(span.length for span in spans[:fresh])
        together = _Fresh(borders, longest, parts[fresh - 1][1].stop)
        return Places(parts[fresh:], rotary_2N1E, (slots_N, places_N), together)

    def _embedded(self, tokens_N: Tensor) -> Tensor:
        return F.embedding(tokens_N, self._embedding_VD)

    def _norm(self, x_ND: Tensor) -> Tensor:
        return F.rms_norm(x_ND.float(), x_ND.shape[1:], None, self.config.norm_eps).to(x_ND.dtype)

    def _projected(self, layer: int, x_ND: Tensor, places: "Places") -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, turned; stored already where all are stored at once."""
        all_NHE = self._matrices[layer][0].times(self._norm(x_ND)).view(len(x_ND), -1, self.config.head_dim)
        return self._turned(layer, all_NHE, places)

    def _turned(self, layer: int, all_NHE: Tensor, places: "Places") -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads = self.config.n_head, self.config.num_kv_heads
        qk_NHE = all_NHE[:, : heads + kv_heads].float()
        cos_N1E, sin_N1E = places.rotary_2N1E
        turned_NHE = torch.addcmul(qk_NHE * cos_N1E, qk_NHE.roll(qk_NHE.shape[2] // 2, 2), sin_N1E).to(all_NHE.dtype)
        k_NKE, v_NKE = turned_NHE[:, heads:], all_NHE[:, heads + kv_heads :]
        if places.at is not None:
            self.cache.put(layer, *places.at, k_NKE, v_NKE)
        return turned_NHE[:, :heads], k_NKE, v_NKE

    def _gated(self, gate_up_NF: Tensor) -> Tensor:
        gate_NF, up_NF = gate_up_NF.chunk(2, -1)
        return F.silu(gate_NF) * up_NF

    def _block(self, layer: int, x_ND: Tensor, places: "Places") -> Tensor:
        q_NHE, k_NKE, v_NKE = self._projected(layer, x_ND, places)
        mixed = []
        if (fresh := places.fresh) is not None:
            mixed.append(_attend_fresh(q_NHE[: fresh.end], k_NKE[: fresh.end], v_NKE[: fresh.end], fresh))
        for span, here in places.parts:
            if places.at is None:
                keys, values = self.cache.extend(layer, span.slot, span.start, k_NKE[here], v_NKE[here])
            else:
                keys, values = self.cache.read(layer, span.slot, span.start + span.length)
            mixed.append(_attend(q_NHE[here], keys, values, span))
        _, out, gate_up, down = self._matrices[layer]
        x_ND = out.added(mixed[0] if len(mixed) == 1 else torch.cat(mixed), x_ND)
        return down.added(self._gated(gate_up.times(self._norm(x_ND))), x_ND)


class RowDecoder(Decoder):
    """The same on a CPU; a single token goes through with as few calls as can be: they take a third of its time."""

    def logits(self, tokens_N: Tensor, spans: Sequence[Span]) -> Tensor:
        if len(tokens_N) > 1:
            return super().logits(tokens_N, spans)
        config, (slot, place, _) = self.config, spans[0]
        heads, both, e = config.n_head, config.n_head + config.num_kv_heads, config.head_dim
        grouped = heads != config.num_kv_heads
        cos_E, sin_E = self._turn_2CE[:, place]
        keys_LKCE, values_LKCE = self.cache.keys[:, slot], self.cache.values[:, slot]
        x_1D = self._embedded(tokens_N)
        for (qkv, out, gate_up, down), keys_KCE, values_KCE in zip(
            self._matrices, keys_LKCE.unbind(), values_LKCE.unbind(), strict=True
        ):
            all_HE = qkv.times(self._scaled(x_1D)).view(-1, e)
            qk_HE = all_HE[:both]
            turned_HE = torch.addcmul(qk_HE * cos_E, qk_HE.roll(e // 2, 1), sin_E)
            keys_KCE[:, place], values_KCE[:, place] = turned_HE[heads:], all_HE[both:]
            mixed_1H1E = F.scaled_dot_product_attention(
                turned_HE[:heads].view(1, heads, 1, e),
                keys_KCE[None, :, : place + 1],
                values_KCE[None, :, : place + 1],
                enable_gqa=grouped,
            )
            x_1D = out.added(mixed_1H1E.view(1, -1), x_1D)
            gate_1F, up_1F = gate_up.times(self._scaled(x_1D)).chunk(2, 1)
            x_1D = down.added(F.silu(gate_1F) * up_1F, x_1D)
        return self._head.times(self._scaled(x_1D))

    def _scaled(self, x_1D: Tensor) -> Tensor:
        x_D = x_1D[0]
        mean = float(torch.dot(x_D, x_D)) / len(x_D)
        return x_1D * float((mean + self.config.norm_eps) ** -0.5)


class _Fresh(NamedTuple):
    """Spans that begin their slots, attended to in one call."""

    borders: Tensor  # int32: where each begins, and the end of the last
    longest: int
    end: int


class Places(NamedTuple):
    """Where the tokens of a forward pass belong."""

    parts: list[tuple[Span, slice]]  # one by one: those that are not fresh
    rotary_2N1E: Tensor
    at: tuple[Tensor, Tensor] | None = None  # slot and position of each, to store all at once; None: one by one
    fresh: _Fresh | None = None


def _attend_fresh(q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, fresh: _Fresh) -> Tensor:
    """Let spans that begin their slots attend to themselves, [N, H E]."""
    from torch.nn.attention.varlen import varlen_attn

    groups = q_NHE.shape[1] // k_NKE.shape[1]
    k, v = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (k_NKE, v_NKE))
    ends, longest = fresh.borders, fresh.longest
    mixed_NHE = varlen_attn(q_NHE, k, v, ends, ends, longest, longest, window_size=(-1, 0))
    assert isinstance(mixed_NHE, Tensor)  # a pair only where the sums are asked for too
    return mixed_NHE.flatten(1)


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
