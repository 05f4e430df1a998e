"""Perplexity: the summed loss of a text, and the tokens, words and bytes it is divided by.

Held-out rows are scored as they were packed. A text is one stream behind ``<s>``, and a window slides over it:

    window 0   [==========]                 "=" scored, "-" context only: each token is scored once,
    window 1        [-----=====]            with at least window - stride tokens before it
    window 2             [-----=====]

or each of its documents is a stream of its own, cut into windows that do not overlap, as lm-eval does it:

    window 0   [==========]
    window 1             [==========]
    window 2                  [------====]  the last one ends with the document

Bits per byte and word perplexity do not depend on the tokenizer; token perplexity does.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lumi.corpus.compression import COMPRESSED, UNREADABLE, open_any
from lumi.data import ShardedTokenizedDataset
from lumi.errors import DataError
from lumi.evaluation.language_model import LanguageModel
from lumi.model import IGNORE
from lumi.progress import progress
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer

Tokens = NDArray[np.integer]
_PAGE = re.compile(r"(?m)^ = (?!=).*[^=] = *$")  # a WikiText article begins with " = Title = "
_MOST_BLOCKS = 1000  # pieces of a text that its error is reckoned from


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
class Blocks:
    """The loss of a text piece by piece: documents, or runs of neighbouring rows."""

    nats: NDArray[np.float64]
    bytes: NDArray[np.float64]
    pieces: int  # that it is made of, of which some may be joined


@dataclass(frozen=True)
class Rows:
    """Inputs and targets for one forward pass each: tokens [R, T + 1], and which targets are scored, [R, T]."""

    tokens: Tokens
    scored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Targets of each row up to the last one that is scored."""
        backwards = self.scored[:, ::-1].argmax(1)
        return np.where(self.scored.any(1), self.scored.shape[1] - backwards, 0).astype(np.int64)


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
    pieces = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]
    parts = np.split(stream, np.flatnonzero(stream == EOS_ID) + 1)
    documents = tuple(b"".join([pieces[token] for token in part.tolist()]) for part in parts if part.size)
    whole = num_rows == len(dataset)
    text_bytes = dataset.counts["text_bytes"] if whole else sum(map(len, documents))
    return HeldOut(rows, documents, text_bytes)


def read_documents(path: Path) -> list[str]:
    """Read a text file as documents: the rows of JSON lines (their ``text``), the articles of WikiText, else one.

    Any of them may be compressed. Joined, the documents of plain text are the file as it is, but for line ends of
    Windows, which become those of Unix.

    Raises:
        DataError: missing, not UTF-8, damaged, or empty.
    """
    if not path.is_file():
        raise DataError(f"text file {path} does not exist", "check --text_files")
    try:
        with open_any(path) as file:
            text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start:,}", "convert it to UTF-8") from None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}", "replace the file") from None
    plain_name = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    documents = list(_json_texts(path, text)) if plain_name.endswith(".jsonl") else _articles(text)
    if not any(document.strip() for document in documents):
        raise DataError(f"{path} has no text in it", "check --text_files")
    return documents


def _json_texts(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):  # only that ends a row of JSON
        if not line.strip():
            continue
        try:
            found = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str):
            raise DataError(f"{path}:{number}: no JSON object with a `text`", "mend that line, or name plain text")
        if found.strip():
            yield found


def _articles(text: str) -> list[str]:
    starts = [match.start() for match in _PAGE.finditer(text)]
    if len(starts) < 2:
        return [text]
    borders = [0, *starts[1:], len(text)]  # what stands before the first title belongs to it
    return [text[start:end] for start, end in pairwise(borders)]


def sliding_windows(stream: Tokens, window: int, stride: int) -> Rows:
    """Cut a stream into overlapping rows, so that every target is scored exactly once; the last row is padded."""
    num_targets = len(stream) - 1
    num_rows = 1 + max(0, math.ceil((num_targets - window) / stride))
    width = min(window, num_targets)
    rows = Rows(np.full((num_rows, width + 1), PAD_ID, dtype=np.int32), np.zeros((num_rows, width), dtype=bool))
    for row, start in enumerate(range(0, num_rows * stride, stride)):
        piece = stream[start : start + window + 1]
        rows.tokens[row, : len(piece)] = piece
        rows.scored[row, 0 if row == 0 else window - stride : len(piece) - 1] = True
    return rows


def document_windows(documents: Sequence[Tokens], window: int) -> tuple[Rows, NDArray[np.int64]]:
    """Cut documents, each behind its ``<s>``, into rows that do not overlap but for the last of a document.

    Returns:
        the rows, and for each the number of its document.
    """
    cuts = []  # (document, start, first scored target, end)
    for number, document in enumerate(documents):
        num_targets = len(document) - 1
        for done in range(0, num_targets, window):
            end = min(done + window, num_targets)
            start = max(0, end - window)
            cuts.append((number, start, done - start, end))
    width = max(end - start for _, start, _, end in cuts)
    rows = Rows(np.full((len(cuts), width + 1), PAD_ID, dtype=np.int32), np.zeros((len(cuts), width), dtype=bool))
    for row, (number, start, first, end) in enumerate(cuts):
        rows.tokens[row, : end - start + 1] = documents[number][start : end + 1]
        rows.scored[row, first : end - start] = True
    return rows, np.array([number for number, *_ in cuts])


def packed_rows(rows: Tokens) -> Rows:
    """Return packed rows to be scored: ends of documents count, their beginnings and padding do not."""
    targets = rows[:, 1:]
    return Rows(rows.astype(np.int32), (targets != BOS_ID) & (targets != PAD_ID))


@torch.inference_mode()
def score_rows(model: LanguageModel, rows: Rows, *, batch_size: int = 8, label: str = "scoring") -> NDArray[np.float64]:
    """Return the summed loss of each row in nats.

    Args:
        model: on its device.
        rows: what is scored.
        batch_size: rows in one forward pass.
        label: for the progress bar and for errors.

    Raises:
        DataError: the loss is not a finite number.
    """
    order = np.argsort(-rows.lengths, kind="stable")
    nats = np.zeros(len(rows))
    with progress(label, total=int(rows.lengths.sum()), unit="tokens") as bar:
        for first in range(0, len(rows), batch_size):
            batch = order[first : first + batch_size]
            length = int(rows.lengths[batch[0]])
            if length == 0:
                break
            tokens = torch.from_numpy(rows.tokens[batch, : length + 1].astype(np.int64)).to(model.device)
            scored = torch.from_numpy(rows.scored[batch, :length]).to(model.device)
            labels_BT = tokens[:, 1:].masked_fill(~scored, IGNORE)
            found_BT = model.losses(tokens[:, :-1], labels_BT)
            nats[batch] = found_BT.double().sum(1).cpu().numpy()
            bar.advance(int(rows.lengths[batch].sum()))
    if not np.isfinite(nats).all():
        raise DataError(
            f"{label}: the model's loss is {nats.sum()}", "its weights are broken; use an earlier checkpoint"
        )
    return nats


def score_held_out(model: LanguageModel, held_out: HeldOut, *, batch_size: int, label: str) -> tuple[Score, Blocks]:
    """Score held-out rows; ends of documents count, their beginnings do not."""
    rows = packed_rows(held_out.rows)
    nats = score_rows(model, rows, batch_size=batch_size, label=label)
    score = Score(float(nats.sum()), int(rows.scored.sum()), held_out.words, held_out.text_bytes)
    return score, _by_runs(nats, rows.scored.sum(1), held_out.text_bytes)


def score_stream(
    model: LanguageModel,
    text: str,
    *,
    window: int,
    stride: int,
    max_tokens: int | None = None,
    batch_size: int = 8,
    label: str = "scoring",
) -> tuple[Score, Blocks]:
    """Score a text as one stream behind ``<s>``, without an end."""
    ids = model.encode(text)
    if max_tokens is not None and max_tokens < len(ids):
        ids = ids[:max_tokens]
        text = model.decode(ids)
    rows = sliding_windows(np.array([model.prefix, *ids], dtype=np.int32), window, stride)
    nats = score_rows(model, rows, batch_size=batch_size, label=label)
    score = Score(float(nats.sum()), int(rows.scored.sum()), len(text.split()), len(text.encode()))
    return score, _by_runs(nats, rows.scored.sum(1), score.bytes)


def score_documents(
    model: LanguageModel,
    documents: Sequence[str],
    *,
    window: int,
    max_tokens: int | None = None,
    batch_size: int = 8,
    label: str = "scoring",
) -> tuple[Score, Blocks]:
    """Score each document on its own behind ``<s>``, without an end; ``max_tokens`` takes whole documents."""
    streams: list[Tokens] = []
    texts = []
    for document in documents:
        ids = model.encode(document)
        if streams and max_tokens is not None and sum(map(len, streams)) + len(ids) > max_tokens:
            break
        streams.append(np.array([model.prefix, *ids], dtype=np.int32))
        texts.append(document)
    rows, owners = document_windows(streams, window)
    by_row = score_rows(model, rows, batch_size=batch_size, label=label)
    nats: NDArray[np.float64] = np.bincount(owners, by_row, len(streams)).astype(np.float64)
    sizes = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    words = sum(len(text.split()) for text in texts)
    score = Score(float(nats.sum()), int(rows.scored.sum()), words, int(sizes.sum()))
    return score, _merged(Blocks(nats, sizes, len(sizes)))


def _by_runs(nats: NDArray[np.float64], tokens: NDArray[np.integer], text_bytes: int) -> Blocks:
    """Make blocks of rows; the bytes of a row are reckoned from its tokens, as tokens are of about one length."""
    share = text_bytes / max(int(tokens.sum()), 1)
    return _merged(Blocks(nats, tokens.astype(np.float64) * share, len(nats)))


def _merged(blocks: Blocks) -> Blocks:
    """Join neighbours, so that there are not too many."""
    every = -(-len(blocks.nats) // _MOST_BLOCKS)
    starts = np.arange(0, len(blocks.nats), every)
    nats, sizes = (np.add.reduceat(values, starts) for values in (blocks.nats, blocks.bytes))
    return Blocks(nats, sizes, blocks.pieces)
