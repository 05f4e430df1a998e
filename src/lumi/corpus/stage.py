"""The corpus stage: raw rows in, a clean, deduplicated, documented corpus out.

sources -> rows --(workers: parse, clean, judge, hash)--> outcomes, in order --(here: dedup, shards, counts)--> corpus

Only the order of the rows decides what is kept, so the result does not depend on the number of workers. A run
that was interrupted reads its sources again but writes only the shards that were not finished.
"""

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import zstandard

from lumi.artifacts import Manifest, Workspace, package_versions
from lumi.corpus.card import write_card
from lumi.corpus.compression import OnRead
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.outcome import Outcome, outcomes_of
from lumi.corpus.sources import RawRow, read_source, source_bytes, source_inputs
from lumi.errors import DataError
from lumi.progress import progress, say
from lumi.workers import WorkerPool

_CHUNK_BYTES = 1_000_000  # about this much raw text goes to a worker at once
_SHOWN = 3  # broken rows on screen, and examples per rule in the card
_ZSTD_LEVEL = 3  # level 6 saves 8 % and takes three times as long, in the one process that cannot be spread


@dataclass
class SourceCounts:
    """What happened to the rows of one source."""

    read: int = 0
    broken: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    rejected: list[dict[str, str]] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, num_bytes: int) -> None:
        self.kept += 1
        self.kept_bytes += num_bytes

    def drop(self, reason: str, excerpt: str) -> None:
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _SHOWN:
            examples.append(excerpt)

    def summary(self) -> dict[str, Any]:
        """Return the counts as the manifest has them."""
        return {
            "rows_read": self.read,
            "documents": self.kept,
            "bytes": self.kept_bytes,
            "broken": self.broken,
            "dropped": dict(sorted(self.dropped.items())),
            "cleaned": dict(sorted(self.cleaned.items())),
        }


def prepare_corpus(config: CorpusConfig) -> Manifest:
    """Build a corpus, or find it built.

    Raises:
        DataError: a source without one usable row, an empty corpus, an unreadable file.
        IntegrityError: the output folder holds something else.
    """
    inputs = [entry for source in config.sources for entry in source_inputs(source, config.output_dir)]
    with Workspace(config.output_dir, "corpus", config, inputs, fresh=config.fresh) as work:
        if (done := work.finished()) is not None:
            say(f"up to date: {config.output_dir}")
            return done
        work.open()
        shards = _ShardWriter(work, config.shard_bytes)
        seen: set[bytes] = set()
        counts = {source.name: SourceCounts() for source in config.sources}
        lengths: list[int] = []
        for source in config.sources:
            for outcome in _kept(config, source, counts[source.name], seen):
                shards.add(outcome.line)
                lengths.append(outcome.num_characters)
        shards.close()
        _report_rejected(work, counts)
        if not lengths:
            raise DataError("the corpus is empty: every document was dropped", "see the rules in the config")
        totals = _totals(counts)
        for file in write_card(work.path, config, totals, counts, lengths):
            work.record(file)
        manifest = work.publish(counts=totals, versions=package_versions("zstandard", "matplotlib"))
    say(f"corpus: {config.output_dir}, {totals['documents']:,} documents, {totals['bytes'] / 1e6:,.1f} MB of text")
    return manifest


def _kept(config: CorpusConfig, source: SourceConfig, counts: SourceCounts, seen: set[bytes]) -> Iterator[Outcome]:
    """Yield the documents of a source that stay, and count what happens to the others."""
    used = _Used(source)
    with progress(f"corpus {config.name}, {source.name}", unit="MB", scale=1e6) as bar:
        for outcome in _outcomes(config, source, counts, used.add):
            counts.read += 1
            counts.cleaned.update(outcome.changed)
            if outcome.broken:
                _set_aside(outcome, counts)
                continue
            reason = outcome.reason or ("exact_duplicate" if outcome.digest in seen else "")
            if reason:
                counts.drop(reason, outcome.excerpt)
            else:
                seen.add(outcome.digest)
                counts.keep(outcome.num_bytes)
            if share := used.share(counts.kept_bytes):
                bar.expect((bar.done + outcome.num_bytes) / share)
            bar.advance(outcome.num_bytes)
            if reason:
                continue
            yield outcome
            if source.max_bytes is not None and counts.kept_bytes >= source.max_bytes:
                break
    if counts.broken > _SHOWN:
        say(f"set aside {counts.broken} broken rows of {source.name} in all; see rejected/{source.name}.jsonl")
    if counts.read == counts.broken:
        raise DataError(
            f"source {source.name} has not one usable row ({counts.read} read, {counts.broken} broken)",
            f"check its kind ({source.kind}) and text_field ({source.text_field!r})",
        )


def _set_aside(outcome: Outcome, counts: SourceCounts) -> None:
    counts.broken += 1
    counts.rejected.append({"place": outcome.place, "reason": outcome.broken, "excerpt": outcome.excerpt})
    if counts.broken <= _SHOWN:
        say(f"set aside {outcome.place}: {outcome.broken}")


class _Used:
    """How far a source is used up, for the progress bar: by its bytes on disk or by its budget."""

    def __init__(self, source: SourceConfig) -> None:
        self.disk_bytes = source_bytes(source)
        self.max_bytes = source.max_bytes
        self.read_bytes = 0

    def add(self, num_bytes: int) -> None:
        self.read_bytes += num_bytes

    def share(self, kept_bytes: int) -> float:
        """Return the share done, 0 where it cannot be told."""
        of_disk = self.read_bytes / self.disk_bytes if self.disk_bytes else 0.0
        of_budget = kept_bytes / self.max_bytes if self.max_bytes else 0.0
        return min(1.0, max(of_disk, of_budget))


def _outcomes(config: CorpusConfig, source: SourceConfig, counts: SourceCounts, on_read: OnRead) -> Iterator[Outcome]:
    """Yield what becomes of each row, in order; ``counts`` tell how much text is still wanted."""

    def wanted() -> float:
        return math.inf if source.max_bytes is None else source.max_bytes - counts.kept_bytes

    chunks = _chunks(read_source(source, on_read), min(_CHUNK_BYTES, wanted()))
    work = partial(outcomes_of, config=config, source=source)
    for chunk in itertools.islice(chunks, 1 if config.num_workers > 1 else None):
        yield from work(chunk.rows)
    if (following := next(chunks, None)) is None:  # a pool is not worth its start for one chunk
        return
    rest = itertools.chain([following], chunks)
    with WorkerPool(config.num_workers) as pool:
        yield from _map_ahead(partial(pool.submit, work), rest, 3 * config.num_workers, wanted)


def _map_ahead(
    submit: Callable[[list[RawRow]], Future[list[Outcome]]],
    chunks: Iterable["_Chunk"],
    max_waiting: int,
    wanted: Callable[[], float],
) -> Iterator[Outcome]:
    """Map in order with some chunks under way, but no more text than is wanted: `imap` would read everything."""
    waiting: deque[tuple[Future[list[Outcome]], int]] = deque()
    under_way = 0
    for chunk in chunks:
        waiting.append((submit(chunk.rows), chunk.size))
        under_way += chunk.size
        while waiting and (len(waiting) > max_waiting or under_way >= wanted()):
            result, size = waiting.popleft()
            yield from result.result()
            under_way -= size
    for result, _ in waiting:
        yield from result.result()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows that go to a worker together, and the raw bytes in them."""

    rows: list[RawRow]
    size: int


def _chunks(rows: Iterator[RawRow], chunk_bytes: float) -> Iterator[_Chunk]:
    chunk: list[RawRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        values = [row.data] if isinstance(row.data, bytes) else row.data.values()
        size += sum(len(value) for value in values if isinstance(value, (str, bytes)))
        if size >= chunk_bytes:
            yield _Chunk(chunk, size)
            chunk, size = [], 0
    if chunk:
        yield _Chunk(chunk, size)


class _ShardWriter:
    """Cuts the stream of documents into shards; those an interrupted run finished are not written again."""

    def __init__(self, work: Workspace, shard_bytes: int) -> None:
        self.work, self.shard_bytes = work, shard_bytes
        self.number = 0
        self.lines: list[bytes] = []
        self.size = 0

    def add(self, line: bytes) -> None:
        self.lines.append(line)
        self.size += len(line)
        if self.size >= self.shard_bytes:
            self.close()

    def close(self) -> None:
        if not self.lines:
            return
        file = f"shard_{self.number:05d}.jsonl.zst"
        if self.work.recorded(file) is None:
            data = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(self.lines))
            (self.work.path / file).write_bytes(data)
            self.work.record(file, rows=len(self.lines))
        self.number += 1
        self.lines, self.size = [], 0


def _report_rejected(work: Workspace, counts: dict[str, SourceCounts]) -> None:
    for name, count in counts.items():
        if count.rejected:
            file = f"rejected/{name}.jsonl"
            (work.path / file).parent.mkdir(exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in count.rejected)
            (work.path / file).write_text(lines, encoding="utf8")
            work.record(file, rows=len(count.rejected))


def _totals(counts: dict[str, SourceCounts]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    cleaned: Counter[str] = Counter()
    for count in counts.values():
        dropped.update(count.dropped)
        cleaned.update(count.cleaned)
        if count.broken:
            dropped["broken_row"] += count.broken
    return {
        "documents": sum(count.kept for count in counts.values()),
        "bytes": sum(count.kept_bytes for count in counts.values()),
        "rows_read": sum(count.read for count in counts.values()),
        "sources": {name: count.summary() for name, count in counts.items()},
        "dropped": dict(sorted(dropped.items())),
        "cleaned": dict(sorted(cleaned.items())),
    }
