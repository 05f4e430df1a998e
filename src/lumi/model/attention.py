"""Attention: rotary positions, and one function behind which the kernels are exchanged.

Shapes: B batch, T query positions, S key positions, H query heads, K key/value heads, E width of a head.
"""

import importlib.util
from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.errors import ConfigError

AttentionName = Literal["auto", "flash", "sdpa", "plain"]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class KeyValueCache(Protocol):
    """What a cached forward needs; the caches themselves live in `lumi.inference`."""

    mask_B1TS: Tensor | None
    """True where a query may attend; None means plain causal attention over the given keys."""

    def extend(self, layer: int, key_BKTE: Tensor, value_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer and return all of them ([B, K, S, E] each)."""
        ...


def rotary_table(sequence_length: int, head_dim: int, theta: float) -> Tensor:
    """Return cosines and sines, float32 [2, sequence_length, head_dim] (RoFormer, arXiv:2104.09864).

    The halves-not-pairs layout is transformers' Llama's, so weights carry over unchanged.
    """
    inverse_E2 = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    angle_TE2 = torch.outer(torch.arange(sequence_length).float(), inverse_E2)
    angle_TE = torch.cat([angle_TE2, angle_TE2], dim=-1)
    return torch.stack([angle_TE.cos(), angle_TE.sin()])


def rotate(x_BHTE: Tensor, cos_BTE: Tensor, sin_BTE: Tensor) -> Tensor:
    """Turn queries or keys by their positions; computed in float32, returned in the input's type."""
    x = x_BHTE.float()
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return (x * cos_BTE.unsqueeze(1) + turned * sin_BTE.unsqueeze(1)).to(x_BHTE.dtype)


def plain_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask_B1TS: Tensor | None) -> Tensor:
    """Attention as the formula stands (arXiv:1706.03762): the reference that the kernels are checked against."""
    groups = q_BHTE.shape[1] // k_BKSE.shape[1]
    k = k_BKSE.repeat_interleave(groups, dim=1).float()
    v = v_BKSE.repeat_interleave(groups, dim=1).float()
    scores_BHTS = q_BHTE.float() @ k.transpose(-1, -2) / q_BHTE.shape[-1] ** 0.5
    if mask_B1TS is None:
        mask_B1TS = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=k.device).tril()
    weights_BHTS = scores_BHTS.masked_fill(~mask_B1TS, float("-inf")).softmax(-1)
    out: Tensor = (weights_BHTS @ v).to(q_BHTE.dtype)
    return out


def sdpa_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask_B1TS: Tensor | None) -> Tensor:
    """PyTorch's own kernels (flash, memory-efficient or CPU, as PyTorch sees fit)."""
    return F.scaled_dot_product_attention(
        q_BHTE,
        k_BKSE,
        v_BKSE,
        attn_mask=mask_B1TS,
        is_causal=mask_B1TS is None,
        enable_gqa=q_BHTE.shape[1] != k_BKSE.shape[1],
    )


def flash_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask_B1TS: Tensor | None) -> Tensor:
    """FlashAttention-2 from the `flash-attn` package; masked attention goes to PyTorch's kernels."""
    if mask_B1TS is not None:
        return sdpa_attention(q_BHTE, k_BKSE, v_BKSE, mask_B1TS)
    from flash_attn import flash_attn_func

    out_BTHE: Tensor = flash_attn_func(
        q_BHTE.transpose(1, 2), k_BKSE.transpose(1, 2), v_BKSE.transpose(1, 2), causal=True
    )
    return out_BTHE.transpose(1, 2)


_BACK_ENDS: dict[str, Attend] = {"flash": flash_attention, "sdpa": sdpa_attention, "plain": plain_attention}


def flash_available() -> bool:
    """Say whether FlashAttention can run here: its package and a CUDA card."""
    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def choose_attention(name: AttentionName) -> tuple[str, Attend]:
    """Return the name and function of a back end; ``auto`` is FlashAttention where it is, else PyTorch's.

    Raises:
        ConfigError: ``flash`` was asked for and cannot run here.
    """
    if name == "flash" and not flash_available():
        missing = "the flash-attn package" if torch.cuda.is_available() else "a CUDA card"
        raise ConfigError(f"FlashAttention was asked for, and {missing} is missing here", "use attention = auto")
    chosen = ("flash" if flash_available() else "sdpa") if name == "auto" else name
    return chosen, _BACK_ENDS[chosen]


def document_mask(tokens_BT: Tensor, start_id: int) -> Tensor:
    """Return a causal mask, bool [B, 1, T, T], that is closed between documents.

    A document begins at each ``start_id``; what precedes the first one in a row belongs together.
    """
    document_BT = (tokens_BT == start_id).cumsum(1)
    same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
    return same_BTT.tril().unsqueeze(1)
