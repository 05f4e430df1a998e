"""Packing: a corpus and a tokenizer in, fixed-length rows of tokens out.

corpus shard --(workers: encode, frame <s> ... </s>, split by content)--> one flat token file per split
flat files in shard order --(cut: row i + 1 starts with row i's last token)--> train_00000.npy ... val_00000.npy

A document's split depends on its text alone, so no document is in both and adding documents moves none.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lumi.artifacts import Manifest, OutputFile, Workspace, artifact_input, package_versions, read_manifest, verify
from lumi.config import Config
from lumi.corpus import Document, read_shard_lines
from lumi.data.array_file import Tokens
from lumi.data.dataset import PACKED
from lumi.errors import ConfigError, DataError
from lumi.progress import progress, say
from lumi.randomness import unit_interval
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer, require_same_tokenizer
from lumi.workers import WorkerPool

_SPLITS = ("train", "val")
_SHARD_BYTES = 64_000_000
_CHUNK_BYTES = 1_000_000  # a worker gets about this much of a shard at once
_BYTES_WORTH_A_WORKER = 10_000_000  # a process encodes about as much in the time that it takes to start


class PackConfig(Config):
    """Tokenize a corpus and pack it into rows of fixed length."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"description", "corpus_dir", "tokenizer_path", "output_dir", "num_workers", "fresh"}
    )

    description: str = ""
    """What this data set is for."""
    corpus_dir: Path
    """A corpus (01_prepare_corpus.py)."""
    tokenizer_path: Path = Path("data/tokenizer")
    """The frozen tokenizer: its folder or its .model file."""
    output_dir: Path
    """Where the packed data go."""
    sequence_length: int = Field(default=1024, gt=1, le=1 << 20)
    """Targets in a row; a row holds one token more."""
    val_fraction: float = Field(default=0.005, gt=0, lt=1)
    """Share of documents held out, chosen by the hash of their text."""
    max_tokens: int | None = Field(default=None, gt=0)
    """The training split ends after exactly this many tokens; default: all."""
    rows_per_shard: int | None = Field(default=None, gt=0)
    """Rows in one file; default: as many as make about 64 MB."""
    seed: int = Field(default=0, ge=0)
    """Names the choice of held-out documents."""
    num_workers: int = Field(default_factory=multiprocessing.cpu_count, gt=0)
    """CPUs that tokenize; does not change the result."""
    fresh: bool = False
    """Pack anew although the output is there; it is replaced at the very end."""


def pack_dataset(config: PackConfig) -> Manifest:
    """Pack a corpus, or find it packed.

    Raises:
        TokenizerMissing: there is no tokenizer.
        DataError: an empty corpus, or a split without a document.
        IntegrityError: corpus or tokenizer is damaged; the output folder holds something else.
    """
    tokenizer = Tokenizer.load(config.tokenizer_path)
    if tokenizer.vocab_size > 1 << 16:
        raise ConfigError(f"a vocabulary of {tokenizer.vocab_size} does not fit 16 bits", "train one of at most 65536")
    corpus = verify(config.corpus_dir, "corpus", "prepare it first (scripts/01_prepare_corpus.py)")
    if not corpus.counts["documents"]:
        raise DataError(f"the corpus {config.corpus_dir} has no document", "prepare it from other sources")
    inputs = [artifact_input(config.corpus_dir, config.output_dir), tokenizer.as_input(config.output_dir)]
    with Workspace(config.output_dir, PACKED, config, inputs, fresh=config.fresh) as work:
        if (done := work.finished()) is not None:
            say(f"up to date: {config.output_dir}")
            return done
        work.open()
        shards = corpus.files(suffix=".jsonl.zst")
        _tokenize(config, work, shards, corpus.counts["bytes"], tokenizer.sha256)
        counts: dict[str, Any] = {"tokenizer_sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size}
        for split in _SPLITS:
            counts[split] = _cut_rows(config, work, split, shards)
        for shard in shards:
            for split in _SPLITS:
                work.discard(_flat_name(split, shard))
        manifest = work.publish(counts=counts, versions=package_versions("sentencepiece", "kitoken", "numpy"))
    train, val = counts["train"], counts["val"]
    say(f"packed: {config.output_dir}, {train['tokens']:,} training tokens in {train['rows']:,} rows,"
        f" {val['tokens']:,} held out")  # fmt: skip
    return manifest


class ReencodeConfig(Config):
    """Pack a data set's corpus again with the present tokenizer."""

    data_dir: Path
    """The packed data set; it is replaced once the new one is complete."""
    tokenizer_path: Path = Path("data/tokenizer")
    """The present tokenizer."""
    num_workers: int = Field(default_factory=multiprocessing.cpu_count, gt=0)
    """CPUs that tokenize."""


def reencode_dataset(config: ReencodeConfig) -> Manifest:
    """Pack again what a data set was packed from, with its own settings.

    Raises:
        IntegrityError: there is no packed data, or its corpus is gone or damaged.
        DataError, TokenizerMissing: as `pack_dataset`.
    """
    old = read_manifest(config.data_dir, PACKED, f"there is nothing to encode again in {config.data_dir}")
    corpus_dir = (config.data_dir / old.inputs[0].path).resolve()
    values = {
        **old.config,
        "corpus_dir": str(corpus_dir),
        "tokenizer_path": str(config.tokenizer_path),
        "output_dir": str(config.data_dir),
        "num_workers": config.num_workers,
        "fresh": True,
    }
    return pack_dataset(PackConfig.from_values(values, where=str(config.data_dir)))


def _flat_name(split: str, shard: OutputFile) -> str:
    return f"tokens_{split}_{shard.file.split('.')[0]}.npy"


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Some documents of one split, framed and joined; text in UTF-8 bytes."""

    documents: int
    text_bytes: int
    tokens: Tokens


def _tokenize(
    config: PackConfig, work: Workspace, shards: list[OutputFile], corpus_bytes: int, tokenizer_sha256: str
) -> None:
    """Write one flat token file per corpus shard and split; those an interrupted run finished are kept."""
    todo = [shard for shard in shards if any(work.recorded(_flat_name(split, shard)) is None for split in _SPLITS)]
    with progress("tokenizing", total=corpus_bytes, unit="MB", scale=1e6) as bar:
        for shard in shards:
            if shard not in todo:
                done = [work.recorded(_flat_name(split, shard)) for split in _SPLITS]
                bar.advance(sum(record.counts["text_bytes"] for record in done if record))
        for shard, chunks in groupby(_encoded_chunks(config, todo, corpus_bytes, tokenizer_sha256), key=itemgetter(0)):
            parts: dict[str, list[_Encoded]] = {split: [] for split in _SPLITS}
            for _, chunk in chunks:
                for split in _SPLITS:
                    parts[split].append(chunk[split])
                bar.advance(sum(part.text_bytes for part in chunk.values()))
            for split in _SPLITS:
                _save_flat(work, _flat_name(split, shard), parts[split])


def _save_flat(work: Workspace, file: str, parts: list[_Encoded]) -> None:
    tokens = np.concatenate([part.tokens for part in parts])
    np.save(work.path / file, tokens)
    documents, text_bytes = sum(part.documents for part in parts), sum(part.text_bytes for part in parts)
    work.record(file, counts={"documents": documents, "text_bytes": text_bytes, "tokens": len(tokens)})


def _encoded_chunks(
    config: PackConfig, shards: list[OutputFile], corpus_bytes: int, tokenizer_sha256: str
) -> Iterator[tuple[OutputFile, dict[str, _Encoded]]]:
    """Yield each shard's documents encoded, in their order, a chunk at a time."""
    chunks = ((shard, lines) for shard in shards
              for lines in read_shard_lines(config.corpus_dir / shard.file, _CHUNK_BYTES))  # fmt: skip
    encode = partial(_encode_chunk, config=config, tokenizer_sha256=tokenizer_sha256)
    workers = min(config.num_workers, corpus_bytes // _BYTES_WORTH_A_WORKER)
    if workers <= 1:
        yield from map(encode, chunks)
        return
    with WorkerPool(workers) as pool:
        yield from pool.imap(encode, chunks)


def _encode_chunk(
    chunk: tuple[OutputFile, list[bytes]], *, config: PackConfig, tokenizer_sha256: str
) -> tuple[OutputFile, dict[str, _Encoded]]:
    shard, lines = chunk
    texts: dict[str, list[str]] = {split: [] for split in _SPLITS}
    text_bytes = dict.fromkeys(_SPLITS, 0)
    for line in lines:
        text = Document.from_line(line).text
        data = text.encode()
        split = "val" if unit_interval(config.seed, "held out", data) < config.val_fraction else "train"
        texts[split].append(text)
        text_bytes[split] += len(data)
    tokenizer = _tokenizer(config.tokenizer_path, tokenizer_sha256)
    return shard, {
        split: _Encoded(len(texts[split]), text_bytes[split], _framed(tokenizer.encode_batch(texts[split])))
        for split in _SPLITS
    }


@cache
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    """Load a tokenizer once a process; the sha256 keeps a later one at the same path apart."""
    tokenizer = Tokenizer.load(path)
    require_same_tokenizer(sha256, tokenizer.sha256, str(path))
    return tokenizer


def _framed(documents: list[Tokens]) -> Tokens:
    """Join documents, each between its <s> and its </s>."""
    start, end = np.array([BOS_ID], dtype=np.uint16), np.array([EOS_ID], dtype=np.uint16)
    parts = [part for ids in documents for part in (start, ids, end)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)


def _cut_rows(config: PackConfig, work: Workspace, split: str, shards: list[OutputFile]) -> dict[str, int]:
    """Cut the stream of a split into row shards; return its counts."""
    flats = [work.recorded(_flat_name(split, shard)) for shard in shards]
    totals = {key: sum(flat.counts[key] for flat in flats if flat) for key in ("documents", "text_bytes", "tokens")}
    if not totals["documents"]:
        raise DataError(
            f"the {split} split is empty: {config.val_fraction:.2%} of the documents are held out",
            "use a larger --val_fraction, or a corpus with more documents" if split == "val"
            else "use a smaller --val_fraction",
        )  # fmt: skip
    if split == "train" and config.max_tokens is not None and config.max_tokens < totals["tokens"]:
        totals = {"tokens": config.max_tokens, **_whole_documents(config, work, flats)}
    length = config.sequence_length
    rows_per_shard = config.rows_per_shard or max(1, _SHARD_BYTES // (2 * (length + 1)))
    stream = np.empty(0, dtype=np.uint16)
    number = rows = 0
    for piece in _limited(work, flats, totals["tokens"]):
        stream = np.concatenate([stream, piece])
        while len(stream) > rows_per_shard * length:
            rows += _save_rows(work, f"{split}_{number:05d}.npy", stream[: rows_per_shard * length + 1], length)
            stream, number = stream[rows_per_shard * length :], number + 1
    if len(stream) > 1:
        rows += _save_rows(work, f"{split}_{number:05d}.npy", stream, length)
    return {"rows": rows, **totals}


def _limited(work: Workspace, flats: list[OutputFile | None], limit: int) -> Iterator[Tokens]:
    for flat in flats:
        if flat is not None and limit > 0:
            tokens = np.load(work.path / flat.file, mmap_mode="r", allow_pickle=False)[:limit]
            limit -= len(tokens)
            yield tokens


def _whole_documents(config: PackConfig, work: Workspace, flats: list[OutputFile | None]) -> dict[str, int]:
    """Count what a token budget keeps: documents that begin inside it; their bytes, decoded from the tokens."""
    tokenizer = Tokenizer.load(config.tokenizer_path)
    sizes = np.array([len(tokenizer.piece_bytes(token)) for token in range(tokenizer.vocab_size)])
    documents = text_bytes = 0
    for piece in _limited(work, flats, config.max_tokens or 0):
        documents += int((piece == BOS_ID).sum())
        text_bytes += int(sizes[piece].sum())
    return {"documents": documents, "text_bytes": text_bytes}


def _save_rows(work: Workspace, file: str, stream: Tokens, length: int) -> int:
    """Write a stream of n * length + 1 tokens (the last row padded) as rows that overlap by one token."""
    rows = -(-(len(stream) - 1) // length)
    padded = np.full(rows * length + 1, PAD_ID, dtype=np.uint16)
    padded[: len(stream)] = stream
    view = np.lib.stride_tricks.as_strided(padded, (rows, length + 1), (length * 2, 2), writeable=False)
    np.save(work.path / file, np.ascontiguousarray(view))
    work.record(file, rows=rows)
    return rows
