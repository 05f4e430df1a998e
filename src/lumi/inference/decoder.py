"""The model as it decodes: weights laid out once for many short forward passes over slots of a cache.

    tokens of several requests, one behind the other -> embedding -> blocks, each request attending to its own slot

Plain torch, for any device and type, and what the others are checked against: `card.decoder` and `cpu.decoder`
do the same with kernels of their own, on CUDA and on a CPU.
q, k, v and gate, up are one matrix each; adapters are merged into theirs.

Shapes: N tokens of all spans, T tokens of one, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.inference.cache import SlotCache
from lumi.inference.sampling import Sampling, sample
from lumi.model import Llama, ModelConfig
from lumi.model.llama import Block, RMSNorm, whole
from lumi.model.lora import RowEmbedding


class Span(NamedTuple):
    """New positions of a slot, behind those that it holds; a slot is in one span of a pass."""

    slot: int
    start: int
    length: int


class Places(NamedTuple):
    """Where the tokens of a forward pass belong."""

    parts: list[tuple[Span, slice]]
    turn_2N1E: Tensor


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


class Decoder:
    """Runs spans of tokens through the model.

    Args:
        weights: of the model.
        cache: what was there before; new positions are added.
    """

    def __init__(self, weights: DecoderWeights, cache: SlotCache) -> None:
        self.config, self.device, self.cache = weights.config, weights.head_VD.device, cache
        self._embedding_VD, self._head_VD, self._blocks = weights.embedding_VD, weights.head_VD, weights.blocks
        cos_CE, sin_CE = weights.rotary_2CE
        half = sin_CE.shape[1] // 2  # the other half comes in with a sign: the table has it, so that no step must
        self._turn_2CE = torch.stack([cos_CE, torch.cat([-sin_CE[:, :half], sin_CE[:, half:]], 1)])

    def logits(self, tokens_N: Tensor, spans: Sequence[Span]) -> Tensor:
        """Return the logits behind each token, float32 [N, V], and keep its keys and values.

        Args:
            tokens_N: the tokens of all spans, one behind the other.
            spans: where they belong.
        """
        places = self._placed(spans)
        x_ND = self._embedded(tokens_N)
        for layer in range(self.config.n_layer):
            x_ND = self._block(layer, x_ND, places)
        return F.linear(self._norm(x_ND), self._matrix("head")).float()

    def warm_up(self) -> None:
        """Do beforehand what else the first step would wait for."""

    def sample(self, logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
        """Return one token id per row, see `lumi.inference.sampling.sample`."""
        return sample(logits_BV, uniform_B, sampling)

    def fill(self, tokens_N: Tensor, spans: Sequence[Span]) -> None:
        """Keep the keys and values of tokens; the last layer needs nothing else of them."""
        places = self._placed(spans)
        x_ND = self._embedded(tokens_N)
        last = self.config.n_layer - 1
        for layer in range(last):
            x_ND = self._block(layer, x_ND, places)
        self._projected(last, x_ND, places)

    def _placed(self, spans: Sequence[Span]) -> Places:
        """Work out once what every layer needs to know of the spans."""
        parts, begin = [], 0
        for span in spans:
            parts.append((span, slice(begin, begin := begin + span.length)))
        turns = [self._turn_2CE[:, span.start : span.start + span.length] for span in spans]
        return Places(parts, torch.cat(turns, 1).unsqueeze(2))

    def _block(self, layer: int, x_ND: Tensor, places: Places) -> Tensor:
        mixed_ND = self._attend(layer, self._projected(layer, x_ND, places), places)
        x_ND = torch.addmm(x_ND, mixed_ND, self._matrix("out", layer).t())
        gated_NF = self._gated(F.linear(self._norm(x_ND), self._matrix("gate_up", layer)))
        return torch.addmm(x_ND, gated_NF, self._matrix("down", layer).t())

    def _projected(self, layer: int, x_ND: Tensor, places: Places) -> Tensor:
        """Return queries, keys and values, the first two turned, [N, H + 2 K, E]; the last two are kept."""
        all_ND = F.linear(self._norm(x_ND), self._matrix("qkv", layer))
        all_NHE = all_ND.view(len(x_ND), -1, self.config.head_dim)
        self._keep(layer, all_NHE, places)
        return all_NHE

    def _matrix(self, name: str, layer: int | None = None) -> Tensor:
        """Return a matrix of a layer, or the head, in the type that is computed in."""
        return self._head_VD if layer is None else cast(Tensor, getattr(self._blocks[layer], name))

    def _embedded(self, tokens_N: Tensor) -> Tensor:
        return F.embedding(tokens_N, self._embedding_VD)

    def _norm(self, x_ND: Tensor) -> Tensor:
        return F.rms_norm(x_ND.float(), x_ND.shape[1:], None, self.config.norm_eps).to(x_ND.dtype)

    def _keep(self, layer: int, all_NHE: Tensor, places: Places) -> None:
        """Turn queries and keys by their positions, where they are; keep keys and values."""
        heads, both = self.config.n_head, self.config.n_head + self.config.num_kv_heads
        qk_NHE = all_NHE[:, :both].float()
        cos_N1E, sin_N1E = places.turn_2N1E
        all_NHE[:, :both] = torch.addcmul(qk_NHE * cos_N1E, qk_NHE.roll(qk_NHE.shape[2] // 2, 2), sin_N1E)
        for span, here in places.parts:
            self.cache.put(layer, span.slot, span.start, all_NHE[here, heads:both], all_NHE[here, both:])

    def _attend(self, layer: int, all_NHE: Tensor, places: Places) -> Tensor:
        """Let new positions attend to all of their slots up to themselves, [N, H E]."""
        heads = self.config.n_head
        mixed = []
        for span, here in places.parts:
            end, mask = span.start + span.length, None
            if span.length > 1 and span.start:
                mask = torch.ones((span.length, end), dtype=torch.bool, device=self.device).tril(span.start)
            mixed_1HTE = F.scaled_dot_product_attention(
                all_NHE[here, :heads].transpose(0, 1).unsqueeze(0),
                *self.cache.read(layer, span.slot, end),
                attn_mask=mask,
                is_causal=span.length > 1 and mask is None,
                enable_gqa=heads != self.config.num_kv_heads,
            )
            mixed.append(mixed_1HTE[0].transpose(0, 1).flatten(1))
        return torch.cat(mixed)

    def _gated(self, gate_up_NF: Tensor) -> Tensor:
        gate_NF, up_NF = gate_up_NF.chunk(2, -1)
        return F.silu(gate_NF) * up_NF
