"""Packing: a corpus and a tokenizer in, fixed-length rows of tokens out.

corpus shard --(workers: encode, frame <s> ... </s>, split by content)--> one flat token file per split
flat files in shard order --(cut: row i + 1 starts with row i's last token)--> train_00000.npy ... val_00000.npy

A document's split depends on its text alone, so no document is in both and adding documents moves none.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lumi.artifacts import Manifest, OutputFile, Workspace, artifact_input, package_versions, read_manifest, verify
from lumi.config import Config
from lumi.corpus import read_shard
from lumi.data.dataset import PACKED, Tokens
from lumi.errors import ConfigError, DataError
from lumi.progress import progress, say
from lumi.randomness import unit_interval
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from lumi.workers import worker_pool

_SPLITS = ("train", "val")
_SHARD_BYTES = 64_000_000
_BATCH = 256  # documents encoded at once


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
        _tokenize(config, work, shards, corpus.counts["bytes"])
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


def _tokenize(config: PackConfig, work: Workspace, shards: list[OutputFile], total_bytes: int) -> None:
    """Write one flat token file per corpus shard and split; those an interrupted run finished are kept."""
    todo = [shard for shard in shards if any(work.recorded(_flat_name(split, shard)) is None for split in _SPLITS)]
    job = partial(_tokenize_shard, config=config, folder=work.path)
    with progress("tokenizing", total=total_bytes, unit="MB", scale=1e6) as bar:
        for shard in shards:
            if shard not in todo:
                done = [work.recorded(_flat_name(split, shard)) for split in _SPLITS]
                bar.advance(sum(record.counts["text_bytes"] for record in done if record))
        for shard, counts in _in_order(job, todo, config.num_workers):
            for split in _SPLITS:
                work.record(_flat_name(split, shard), counts=counts[split])
            bar.advance(sum(counts[split]["text_bytes"] for split in _SPLITS))


def _in_order(job: Any, shards: list[OutputFile], num_workers: int) -> Iterator[tuple[OutputFile, Any]]:
    """Run the job on each shard: a process a shard, and threads within where CPUs outnumber the shards."""
    workers = min(num_workers, len(shards))
    job = partial(job, num_threads=num_workers // max(1, workers))
    if workers <= 1:
        yield from ((shard, job(shard)) for shard in shards)
        return
    with worker_pool(workers) as pool:
        yield from zip(shards, pool.imap(job, shards), strict=True)


def _tokenize_shard(
    shard: OutputFile, *, config: PackConfig, folder: Path, num_threads: int
) -> dict[str, dict[str, int]]:
    tokenizer = Tokenizer.load(config.tokenizer_path)
    frame_start, frame_end = np.array([BOS_ID], dtype=np.uint16), np.array([EOS_ID], dtype=np.uint16)
    parts: dict[str, list[Tokens]] = {split: [np.empty(0, dtype=np.uint16)] for split in _SPLITS}
    counts = {split: {"documents": 0, "text_bytes": 0, "tokens": 0} for split in _SPLITS}
    for texts in _batches(document.text for document in read_shard(config.corpus_dir / shard.file)):
        for text, ids in zip(texts, tokenizer.encode_batch(texts, num_threads=num_threads), strict=True):
            data = text.encode()
            split = "val" if unit_interval(config.seed, "held out", data) < config.val_fraction else "train"
            parts[split] += (frame_start, ids, frame_end)
            counts[split]["documents"] += 1
            counts[split]["text_bytes"] += len(data)
            counts[split]["tokens"] += len(ids) + 2
    for split in _SPLITS:
        np.save(folder / _flat_name(split, shard), np.concatenate(parts[split]))
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


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
