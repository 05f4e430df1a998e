"""The corpus stage: raw rows in, a clean, deduplicated, documented corpus out.

1. sources -> rows --(workers: parse, clean, judge, hash)--> outcomes, in order --> segments on disk
2. segments' hashes --> duplicates
3. segments, less the duplicates --> shards, counts, card

Only the order of the rows decides what is kept, so the result does not depend on the number of workers. What an
interrupted run had finished of a pass is not worked out again. Memory holds a segment, never the corpus.
"""

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from lumi.artifacts import Manifest, Workspace, package_versions
from lumi.cluster import RayPool
from lumi.corpus.card import write_card
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.counts import SourceCounts
from lumi.corpus.document import Document
from lumi.corpus.exact_duplicates import first_of_each
from lumi.corpus.outcome import Outcome, excerpt_of, outcomes_of
from lumi.corpus.segments import Segment, SegmentWriter, discard_segments, recorded_segments
from lumi.corpus.sources import RawRow, read_source, source_bytes, source_inputs
from lumi.errors import DataError
from lumi.progress import Bar, progress, say
from lumi.workers import Pool, WorkerPool

_CHUNK_BYTES = 1_000_000  # about this much raw text goes to a worker at once,
_CHUNK_ROWS = 2000  # and no more rows than this, however short
_SHOWN = 3  # broken rows on screen
_ZSTD_LEVEL = 3  # level 6 saves 8 % and takes three times as long, in the one process that cannot be spread


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
        segments = _stage(config, work)
        counts = {source.name: SourceCounts() for source in config.sources}
        for segment in segments:
            counts[segment.source].add(segment.counts)
        kept = first_of_each([segment.digests() for segment in segments])
        _write_shards(config, work, segments, kept, counts)
        _write_rejected(work, segments)
        totals = _totals(counts)
        if not totals["documents"]:
            raise DataError("the corpus is empty: every document was dropped", "see the rules in the config")
        sizes = np.concatenate([segment.sizes() for segment in segments])
        for file in write_card(work.path, config, totals, counts, sizes[kept, 1].tolist()):
            work.record(file)
        discard_segments(work, segments)
        manifest = work.publish(counts=totals, versions=package_versions("zstandard", "matplotlib"))
    say(f"corpus: {config.output_dir}, {totals['documents']:,} documents, {totals['bytes'] / 1e6:,.1f} MB of text")
    return manifest


def _stage(config: CorpusConfig, work: Workspace) -> list[Segment]:
    """Read, clean and judge all sources; return their segments, those that were there included."""
    segments = recorded_segments(work)
    with RayPool(config.ray_address) if config.engine == "ray" else WorkerPool(config.num_workers) as pool:
        for source in config.sources:
            done = [segment for segment in segments if segment.source == source.name]
            if not (done and done[-1].last):
                segments += _stage_source(config, source, work, done, len(segments), pool)
    return segments


def _stage_source(
    config: CorpusConfig, source: SourceConfig, work: Workspace, done: Sequence[Segment], number: int, pool: Pool
) -> list[Segment]:
    """Stage the rows of a source that follow on the segments that are done."""
    closed = SourceCounts()  # of all segments so far
    for segment in done:
        closed.add(segment.counts)
    made: list[Segment] = []
    writer = SegmentWriter(work, number, source.name)
    used = _Used(source)

    def wanted() -> float:
        """Return how many bytes of text are still wanted."""
        kept_bytes = closed.kept_bytes + writer.counts.kept_bytes
        return math.inf if source.max_bytes is None else source.max_bytes - kept_bytes

    def close(*, last: bool) -> None:
        made.append(writer.close(last=last))
        closed.add(writer.counts)

    rows = itertools.islice(read_source(source, used.add), closed.read, None)
    with progress(f"corpus {config.name}, {source.name}", unit="MB", scale=1e6) as bar:
        for outcomes in _outcomes(config, source, rows, wanted, pool):
            for outcome in outcomes:
                writer.add(outcome)
                if outcome.broken and closed.broken + writer.counts.broken <= _SHOWN:
                    say(f"set aside {outcome.place}: {outcome.broken}")
                used.tell(bar, outcome.num_bytes, wanted())
                if wanted() <= 0:
                    break
            if wanted() <= 0:
                break
            if writer.size >= config.shard_bytes:
                close(last=False)
                writer = SegmentWriter(work, number + len(made), source.name)
        close(last=True)
    if closed.broken > _SHOWN:
        say(f"set aside {closed.broken} broken rows of {source.name} in all; see rejected/{source.name}.jsonl")
    if closed.read == closed.broken:
        raise DataError(
            f"source {source.name} has not one usable row ({closed.read} read, {closed.broken} broken)",
            f"check its kind ({source.kind}) and text_field ({source.text_field!r})",
        )
    return made


class _Used:
    """How far a source is used up, for the progress bar: by its bytes on disk or by its budget."""

    def __init__(self, source: SourceConfig) -> None:
        self.disk_bytes = source_bytes(source)
        self.max_bytes = source.max_bytes
        self.read_bytes = 0

    def add(self, num_bytes: int) -> None:
        self.read_bytes += num_bytes

    def tell(self, bar: Bar, num_bytes: int, wanted: float) -> None:
        """Count text as done, and estimate from the share done how much there will be."""
        of_disk = self.read_bytes / self.disk_bytes if self.disk_bytes else 0.0
        of_budget = 1 - wanted / self.max_bytes if self.max_bytes else 0.0
        if share := min(1.0, max(of_disk, of_budget)):
            bar.expect((bar.done + num_bytes) / share)
        bar.advance(num_bytes)


def _outcomes(
    config: CorpusConfig,
    source: SourceConfig,
    rows: Iterator[RawRow],
    wanted: Callable[[], float],
    pool: Pool,
) -> Iterator[list[Outcome]]:
    """Yield what becomes of the rows, a chunk at a time and in order."""
    chunks = _chunks(rows, min(_CHUNK_BYTES, wanted()))
    work = partial(outcomes_of, config=config, source=source)
    for chunk in itertools.islice(chunks, 1 if pool.num_workers > 1 else None):
        yield work(chunk.rows)
    if (following := next(chunks, None)) is None:  # processes are not worth their start for one chunk
        return
    yield from _map_ahead(
        partial(pool.submit, work), itertools.chain([following], chunks), 3 * pool.num_workers, wanted
    )


def _map_ahead(
    submit: Callable[[list[RawRow]], Future[list[Outcome]]],
    chunks: Iterable["_Chunk"],
    max_waiting: int,
    wanted: Callable[[], float],
) -> Iterator[list[Outcome]]:
    """Map in order with some chunks under way, but no more text than is wanted."""
    waiting: deque[tuple[Future[list[Outcome]], int]] = deque()
    under_way = 0
    for chunk in chunks:
        waiting.append((submit(chunk.rows), chunk.size))
        under_way += chunk.size
        while waiting and (len(waiting) > max_waiting or under_way >= wanted()):
            result, size = waiting.popleft()
            yield result.result()
            under_way -= size
    for result, _ in waiting:
        yield result.result()


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
        if size >= chunk_bytes or len(chunk) == _CHUNK_ROWS:
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


def _write_shards(
    config: CorpusConfig,
    work: Workspace,
    segments: Sequence[Segment],
    kept: NDArray[np.bool_],
    counts: dict[str, SourceCounts],
) -> None:
    """Write the documents that stay, and count those that go after all."""
    shards = _ShardWriter(work, config.shard_bytes)
    total = sum(count.kept_bytes for count in counts.values())
    place = 0
    with progress(f"corpus {config.name}: writing", total=total, unit="MB", scale=1e6) as bar:
        for segment in segments:
            for (num_bytes, _), line in zip(segment.sizes().tolist(), segment.lines(), strict=True):
                if kept[place]:
                    shards.add(line)
                else:
                    excerpt = excerpt_of(Document.from_line(line).text)
                    counts[segment.source].take_back(num_bytes, "exact_duplicate", excerpt)
                bar.advance(num_bytes)
                place += 1
        shards.close()


def _write_rejected(work: Workspace, segments: Sequence[Segment]) -> None:
    for name, parts in itertools.groupby(segments, key=lambda segment: segment.source):
        lines = b"".join(segment.rejected() for segment in parts)
        if lines:
            file = f"rejected/{name}.jsonl"
            (work.path / file).parent.mkdir(exist_ok=True)
            (work.path / file).write_bytes(lines)
            work.record(file, rows=lines.count(b"\n"))


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
