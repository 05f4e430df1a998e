"""The model: a Llama whose parameter names are transformers', so checkpoints need no renaming anywhere.

    tokens -> embedding -> n_layer x (x + attention(norm(x)); x + swiglu(norm(x))) -> norm -> head

Weights stay in float32 and are cast to ``compute_dtype`` in each forward. Where the projections q/k/v (gate/up)
are all plain `Linear`, they run as one matmul over weights concatenated during that cast; a LoRA layer in
their place is called as it is.

Shapes: B batch, T positions, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumi.model.attention import Attend, Mask, choose_attention, rotary_table, rotate, sdpa_attention
from lumi.model.config import ModelConfig
from lumi.randomness import torch_generator


def whole(parameter: Tensor) -> Tensor:
    """Return the values of a parameter, gathered from the ranks where they hold it in shards."""
    values = parameter.detach()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.tensor import DTensor

        if isinstance(values, DTensor):
            return values.full_tensor()
    return values


class Linear(nn.Linear):
    """y = x W^T in x's type, whatever type W is kept in."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Leave the weights as they are: they are drawn by `create_model`, or loaded."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))

    def dense(self) -> Tensor:
        """Return the one matrix that does what this layer does, whatever it is made of; all ranks together."""
        return whole(self.weight)

    @staticmethod
    def together(x: Tensor, layers: Sequence[Any]) -> tuple[Tensor, ...]:
        """Apply layers of this very class to one input as one matmul.

        Without a cast there is nothing to hide the copy of the weights behind, so they run one by one.
        """
        if layers[0].weight.dtype == x.dtype:
            return tuple(layer(x) for layer in layers)
        weight = torch.cat([layer.weight for layer in layers]).to(x.dtype)
        return torch.split(F.linear(x, weight), [layer.out_features for layer in layers], dim=-1)


def project_together(x: Tensor, *projections: nn.Module) -> tuple[Tensor, ...]:
    """Apply several projections to one input, as one matmul where their class says how.

    Only layers of one class that has a ``together`` of its own may be joined: a layer that wraps another (PEFT's
    LoRA) also has a ``weight``, and concatenating that would silently leave out what it adds.
    """
    kinds = {type(layer) for layer in projections}
    if len(kinds) == 1 and "together" in vars(kind := kinds.pop()):
        outputs: tuple[Tensor, ...] = kind.together(x, projections)  # type: ignore[attr-defined]
        return outputs
    return tuple(layer(x) for layer in projections)


class RMSNorm(nn.Module):
    """Root mean square normalisation (arXiv:1910.07467), computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped key/value heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        d_query, d_kv = config.n_head * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, d_query)
        self.k_proj = Linear(config.d_model, d_kv)
        self.v_proj = Linear(config.d_model, d_kv)
        self.o_proj = Linear(d_query, config.d_model)
        self.attend: Attend = sdpa_attention

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        batch, length, _ = x_BTD.shape
        q, k, v = (
            part.view(batch, length, -1, self.head_dim).transpose(1, 2)
            for part in project_together(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        mixed_BHTE = self.attend(q, k, v, mask)
        out: Tensor = self.o_proj(mixed_BHTE.transpose(1, 2).reshape(batch, length, -1))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.d_model, config.d_ffn)
        self.up_proj = Linear(config.d_model, config.d_ffn)
        self.down_proj = Linear(config.d_ffn, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = project_together(x_BTD, self.gate_proj, self.up_proj)
        out: Tensor = self.down_proj(F.silu(gate_BTF) * up_BTF)
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, mask)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Decoder(nn.Module):
    """Embedding, blocks and final norm: everything under transformers' ``model.`` prefix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.d_model, config.norm_eps)


class Llama(nn.Module):
    """A decoder with a language-model head; build it with `create_model`.

    Attributes:
        compute_dtype: type of activations and matmuls; parameters keep their own.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
    """

    rotary_2TE: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        table = rotary_table(config.sequence_length, config.head_dim, config.rope_theta)
        self.register_buffer("rotary_2TE", table, persistent=False)
        self.compute_dtype = torch.float32
        self.checkpoint_activations = False

    def use_attention(self, attend: Attend) -> None:
        """Exchange the attention kernel of every layer."""
        for block in self.model.layers:
            block.self_attn.attend = attend  # type: ignore[union-attr]

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask = None,
    ) -> Tensor:
        """Return the final normed hidden states, [B, T, D] in ``compute_dtype``.

        Args:
            tokens_BT: token ids.
            positions_BT: rotary position of each token; default 0..T-1.
            mask: what each query may attend to; default causal.
        """
        if positions_BT is None:
            cos, sin = self.rotary_2TE[:, : tokens_BT.shape[1]].unsqueeze(1)
        else:
            cos, sin = self.rotary_2TE[:, positions_BT]
        x_BTD = self.model.embed_tokens(tokens_BT).to(self.compute_dtype)
        for block in self.model.layers:
            if self.checkpoint_activations and torch.is_grad_enabled():
                x_BTD = checkpoint(block, x_BTD, (cos, sin), mask, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, (cos, sin), mask)
        out: Tensor = self.model.norm(x_BTD)
        return out

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Mask = None,
    ) -> Tensor:
        """Return the logits, [B, T, V] in float32; arguments as `hidden`."""
        hidden = self.hidden(tokens_BT, positions_BT=positions_BT, mask=mask)
        logits: Tensor = self.lm_head(hidden).float()
        return logits


def create_model(config: ModelConfig, *, seed: int = 0, attention: str = "auto") -> Llama:
    """Build a model with freshly drawn weights; the same config and seed give the same weights everywhere.

    Matrices and embeddings are normal with deviation 0.02; the two projections that write into the residual
    stream are smaller by sqrt(2 n_layer), so that the stream's variance does not grow with depth (GPT-2).
    """
    model = Llama(config)
    draw = torch_generator(seed, "model weights")
    residual = 0.02 / (2 * config.n_layer) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                deviation = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                parameter.normal_(0.0, deviation, generator=draw)
    model.use_attention(choose_attention(attention)[1])  # type: ignore[arg-type]
    return model
