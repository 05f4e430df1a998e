"""Attention: rotary positions, and one function behind which the kernels are exchanged.

Shapes: B batch, T query positions, S key positions, H query heads, K key/value heads, E width of a head.
"""

import importlib.util
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.errors import ConfigError

AttentionName = Literal["auto", "flash", "sdpa", "plain"]


class Documents(NamedTuple):
    """Attention inside of documents, causal, over rows that lie one behind the other: where each document begins.

    int32, ascending from 0 to the number of all positions, which may stand several times at the end.
    """

    borders_N: Tensor


Mask = Tensor | Documents | None  # Tensor: bool [B, 1, T, S], True where a query may attend; None: causal
Attend = Callable[[Tensor, Tensor, Tensor, Mask], Tensor]


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


def plain_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Mask) -> Tensor:
    """Attention as the formula stands (arXiv:1706.03762): the reference that the kernels are checked against."""
    groups = q_BHTE.shape[1] // k_BKSE.shape[1]
    k = k_BKSE.repeat_interleave(groups, dim=1).float()
    v = v_BKSE.repeat_interleave(groups, dim=1).float()
    scores_BHTS = q_BHTE.float() @ k.transpose(-1, -2) / q_BHTE.shape[-1] ** 0.5
    if mask is None:
        mask = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=k.device).tril()
    elif isinstance(mask, Documents):
        mask = dense_mask(mask, q_BHTE.shape[0], q_BHTE.shape[2])
    weights_BHTS = scores_BHTS.masked_fill(~mask, float("-inf")).softmax(-1)
    out: Tensor = (weights_BHTS @ v).to(q_BHTE.dtype)
    return out


def sdpa_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Mask) -> Tensor:
    """PyTorch's own kernels (flash, memory-efficient or CPU, as PyTorch sees fit)."""
    if isinstance(mask, Documents):
        return document_attention(q_BHTE, k_BKSE, v_BKSE, mask)
    return F.scaled_dot_product_attention(
        q_BHTE,
        k_BKSE,
        v_BKSE,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=q_BHTE.shape[1] != k_BKSE.shape[1],
    )


def document_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, documents: Documents) -> Tensor:
    """PyTorch's FlashAttention over sequences of several lengths: nothing is computed across documents."""
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, length, width = q_BHTE.shape
    groups = heads // k_BKSE.shape[1]
    q, k, v = (
        x.transpose(1, 2).reshape(batch * length, heads, width)
        for x in (q_BHTE, k_BKSE.repeat_interleave(groups, 1), v_BKSE.repeat_interleave(groups, 1))
    )
    borders = documents.borders_N
    out = varlen_attn(q, k, v, borders, borders, length, length, window_size=(-1, 0))
    assert isinstance(out, Tensor)  # a pair only where the sums are asked for too
    return out.view(batch, length, heads, width).transpose(1, 2)


def flash_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Mask) -> Tensor:
    """FlashAttention-2 from the `flash-attn` package; masked attention goes to PyTorch's kernels."""
    if mask is not None:
        return sdpa_attention(q_BHTE, k_BKSE, v_BKSE, mask)
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


def documents_of(tokens_BT: Tensor, start_id: int, most: int) -> Documents:
    """Return the same as `document_mask` by the documents' borders, for kernels that need no mask.

    Args:
        tokens_BT: token ids.
        start_id: begins a document; so does each row.
        most: documents in a row, at most; with more the result would be wrong.
    """
    begins_BT = tokens_BT == start_id
    begins_BT[:, 0] = True
    count = tokens_BT.numel()
    places = torch.arange(count, dtype=torch.int32, device=tokens_BT.device)
    borders = torch.where(begins_BT.flatten(), places, count).sort().values
    return Documents(borders[: tokens_BT.shape[0] * most + 1])


def dense_mask(documents: Documents, batch: int, length: int) -> Tensor:
    """Return documents as a mask, bool [B, 1, T, T]."""
    places = torch.arange(batch * length, device=documents.borders_N.device)
    document_BT = torch.bucketize(places, documents.borders_N, right=True).view(batch, length)
    same_BTT = document_BT.unsqueeze(2) == document_BT.unsqueeze(1)
    return same_BTT.tril().unsqueeze(1)


def mask_documents(tokens_BT: Tensor, start_id: int, most: int, dtype: torch.dtype) -> Mask:
    """Keep attention inside documents, by the form that the kernels for this device and type take."""
    if tokens_BT.is_cuda and dtype in (torch.float16, torch.bfloat16):
        return documents_of(tokens_BT, start_id, most)
    return document_mask(tokens_BT, start_id)
