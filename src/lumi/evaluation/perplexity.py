"""Perplexity: the summed loss of a text, and the tokens, words and bytes it is divided by.

Held-out rows are scored as they were packed. A text file is one stream behind ``<s>``, and a window slides over it:

    window 0   [==========]                 "=" scored, "-" context only: each token is scored once,
    window 1        [-----=====]            with at least window - stride tokens before it
    window 2             [-----=====]

Bits per byte and word perplexity do not depend on the tokenizer; token perplexity does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumi.data import ShardedTokenizedDataset
from lumi.errors import DataError
from lumi.model import IGNORE, Llama, next_token_losses
from lumi.progress import progress
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from lumi.training import next_token_labels

Tokens = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Score:
    """The summed loss of a text and what it is made of."""

    nats: float
    tokens: int  # scored targets
    words: int  # separated by whitespace
    bytes: int  # UTF-8

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    def perplexity(self, units: int) -> float | None:
        """Return exp(nats per unit); None where there are no units or no float can hold it."""
        mean = self.nats / units if units else math.inf
        return math.exp(mean) if mean < 700 else None


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents as tokens and as text."""

    rows: Tokens  # [rows, sequence_length + 1], as packed
    documents: tuple[bytes, ...]  # UTF-8, read back from the tokens
    text_bytes: int

    @cached_property
    def stream(self) -> Tokens:
        return join_rows(self.rows)

    @cached_property
    def words(self) -> int:
        return sum(len(document.decode("utf8", errors="replace").split()) for document in self.documents)


def join_rows(rows: Tokens) -> Tokens:
    """Return packed rows as one stream of framed documents, padding left out."""
    stream = np.concatenate([rows[:1, 0], rows[:, 1:].ravel()])
    framed: Tokens = stream[stream != PAD_ID]
    return framed


def read_held_out(dataset: ShardedTokenizedDataset, tokenizer: Tokenizer, max_tokens: int | None = None) -> HeldOut:
    """Read a split, or its first rows with about ``max_tokens`` tokens, and turn it back into documents."""
    num_rows = len(dataset)
    if max_tokens is not None:
        num_rows = min(num_rows, max(1, max_tokens // dataset.sequence_length))
    rows = dataset.rows(np.arange(num_rows))
    stream = join_rows(rows)
    pieces = piece_table(tokenizer)
    parts = np.split(stream, np.flatnonzero(stream == EOS_ID) + 1)
    documents = tuple(_text(part, pieces) for part in parts if part.size)
    whole = num_rows == len(dataset)
    text_bytes = dataset.counts["text_bytes"] if whole else sum(map(len, documents))
    return HeldOut(rows, documents, text_bytes)


def read_text(path: Path) -> str:
    """Read a text file as it is, line ends included.

    Raises:
        DataError: missing, not UTF-8, or empty.
    """
    if not path.is_file():
        raise DataError(f"text file {path} does not exist", "check --text_files")
    try:
        text = path.read_bytes().decode("utf8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start:,}", "convert it to UTF-8") from None
    if not text.strip():
        raise DataError(f"{path} has no text in it", "check --text_files")
    return text


def sliding_windows(stream: Tokens, window: int, stride: int) -> tuple[Tokens, NDArray[np.int64]]:
    """Cut a stream into overlapping rows of inputs and targets.

    Returns:
        rows [R, window + 1], the last one padded; and for each row the first target that is scored, so that
        every target of the stream is scored exactly once.
    """
    num_targets = len(stream) - 1
    num_rows = 1 + max(0, math.ceil((num_targets - window) / stride))
    rows = np.full((num_rows, min(window, num_targets) + 1), PAD_ID, dtype=np.uint16)
    for row, start in enumerate(range(0, num_rows * stride, stride)):
        piece = stream[start : start + window + 1]
        rows[row, : len(piece)] = piece
    first_scored = np.full(num_rows, window - stride, dtype=np.int64)
    first_scored[0] = 0
    return rows, first_scored


@torch.inference_mode()
def score_rows(
    model: Llama,
    rows: Tokens,
    first_scored: NDArray[np.int64] | None = None,
    *,
    batch_size: int,
    label: str = "scoring",
) -> tuple[float, int]:
    """Return the summed loss in nats and how many targets it is of; ``<s>`` and padding are never scored.

    Args:
        model: on its device.
        rows: [R, T + 1] tokens.
        first_scored: per row, the first target that counts; default: all.
        batch_size: rows in one forward pass.
        label: for the progress bar.

    Raises:
        DataError: the model gives no finite loss.
    """
    device = model.lm_head.weight.device
    nats = torch.zeros((), dtype=torch.float64, device=device)
    scored = torch.zeros((), dtype=torch.int64, device=device)
    targets_T = torch.arange(rows.shape[1] - 1, device=device)
    with progress(label, total=rows.shape[0] * (rows.shape[1] - 1), unit="tokens") as bar:
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(rows[start : start + batch_size].astype(np.int64)).to(device)
            tokens_BT, labels_BT = next_token_labels(batch)
            labels_BT = labels_BT.masked_fill(labels_BT == BOS_ID, IGNORE)
            if first_scored is not None:
                first_B1 = torch.from_numpy(first_scored[start : start + batch_size]).to(device).unsqueeze(1)
                labels_BT = labels_BT.masked_fill(targets_T < first_B1, IGNORE)
            nats += next_token_losses(model, tokens_BT, labels_BT).double().sum()
            scored += (labels_BT != IGNORE).sum()
            bar.advance(tokens_BT.numel())
    if not math.isfinite(float(nats)):
        raise DataError(
            f"{label}: the model's loss is {float(nats)}", "its weights are broken; use an earlier checkpoint"
        )
    return float(nats), int(scored)


def score_held_out(model: Llama, held_out: HeldOut, *, batch_size: int, label: str) -> Score:
    """Score held-out rows; ends of documents count, their beginnings do not."""
    nats, tokens = score_rows(model, held_out.rows, batch_size=batch_size, label=label)
    return Score(nats, tokens, held_out.words, held_out.text_bytes)


def score_text(
    model: Llama,
    tokenizer: Tokenizer,
    text: str,
    *,
    window: int,
    stride: int,
    max_tokens: int | None,
    batch_size: int,
    label: str,
) -> Score:
    """Score a text as one stream behind ``<s>``, without an end."""
    ids = tokenizer.encode(text)
    if max_tokens is not None and max_tokens < len(ids):
        ids = ids[:max_tokens]
        text = tokenizer.decode(ids)
    rows, first_scored = sliding_windows(np.array([BOS_ID, *ids], dtype=np.uint16), window, stride)
    nats, tokens = score_rows(model, rows, first_scored, batch_size=batch_size, label=label)
    return Score(nats, tokens, len(text.split()), len(text.encode()))


def piece_table(tokenizer: Tokenizer) -> list[bytes]:
    """Return the bytes of every piece by id."""
    return [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]


def _text(tokens: Tokens, pieces: Sequence[bytes]) -> bytes:
    return b"".join([pieces[token] for token in tokens.tolist()])
