"""The corpus stage: raw rows in, a clean, deduplicated, documented corpus out.

1. sources -> rows --(workers: parse, clean, judge, decontaminate, hash)--> outcomes, in order --> segments on disk
2. segments' hashes --> exact duplicates; MinHash bands --> candidates --(workers)--> verified near duplicates
3. segments, less the duplicates --> shards, counts, card

The rows alone decide what is kept, so the result does not depend on the number of workers. What an interrupted run
had finished of the first and the last pass is not worked out again. Memory holds a segment and what near-duplicate
candidates share, never the corpus.
"""

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import Input, Manifest, Workspace, package_versions
from lumi.cluster import RayPool
from lumi.corpus.card import write_card
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.contamination import Decontaminator, ScoredTexts, read_scored_texts
from lumi.corpus.counts import SourceCounts
from lumi.corpus.disk import require_disk
from lumi.corpus.exact_duplicates import first_of_each
from lumi.corpus.near_duplicates import Clusters, candidates, near_duplicates
from lumi.corpus.outcome import Outcome, outcomes_of
from lumi.corpus.rows import Position, RawRow
from lumi.corpus.segments import STAGED, Segment, SegmentWriter, recorded_segments
from lumi.corpus.shards import write_rejected, write_shards
from lumi.corpus.shingle_sets import ShingleSets
from lumi.corpus.sources import at_hand, read_source, source_bytes, source_inputs
from lumi.errors import DataError
from lumi.progress import Bar, progress, say
from lumi.workers import Pool, Shared, WorkerPool

_CHUNK_BYTES = 1_000_000  # about this much raw text goes to a worker at once,
_CHUNK_ROWS = 2000  # and no more rows than this, however short
_SHOWN = 3  # broken rows on screen


class Judge(Protocol):
    """Says what becomes of rows: of texts (`outcomes_of`), or of conversations; runs in workers."""

    def __call__(
        self,
        rows: Sequence[RawRow],
        *,
        config: Any,
        source: Any,
        decontaminator: Shared[Decontaminator] | None = None,
    ) -> list[Outcome]:
        """Return what becomes of each row, in order."""
        ...


def prepare_corpus(config: CorpusConfig, judge: Judge = outcomes_of) -> Manifest:
    """Build a corpus, or find it built.

    Raises:
        DataError: a source without one usable row, an empty corpus, an unreadable file.
        IntegrityError: the output folder holds something else.
    """
    config = config.model_copy(update={"sources": tuple(at_hand(source) for source in config.sources)})
    tests = read_scored_texts(config.decontamination)
    inputs = {source.name: source_inputs(source, config.output_dir) for source in config.sources}
    everything = [*itertools.chain.from_iterable(inputs.values()), *tests.inputs]
    with Workspace(config.output_dir, "corpus", config, everything, fresh=config.fresh) as work:
        if (done := work.finished()) is not None:
            say(f"up to date: {config.output_dir}")
            return done
        require_disk(config, work.path)
        tests.tell()
        work.open()
        with RayPool(config.ray_address) if config.engine == "ray" else WorkerPool(config.num_workers) as pool:
            segments = _stage(config, work, inputs, tests, pool, judge)
            kept = first_of_each([segment.digests() for segment in segments])
            clusters = _near_duplicates(config, work, segments, kept, pool)
        counts = {source.name: SourceCounts() for source in config.sources}
        for segment in segments:
            counts[segment.source].add(segment.counts)
        lengths, examples = write_shards(config, work, segments, kept, clusters, counts)
        write_rejected(work, segments)
        totals = _totals(counts)
        totals["near_duplicates"] = clusters.summary()
        totals["decontamination"] = tests.summary(totals["cut"])
        if not totals["documents"]:
            raise DataError("the corpus is empty: every document was dropped", _commonest(totals["dropped"]))
        for file in write_card(work.path, config, totals, counts, lengths, examples):
            work.record(file)
        versions = package_versions("zstandard", "matplotlib", "ftfy")
        manifest = work.publish(counts=totals, versions=versions, scratch=STAGED)
    say(f"corpus: {config.output_dir}, {totals['documents']:,} documents, {totals['bytes'] / 1e6:,.1f} MB of text")
    return manifest


def _commonest(dropped: dict[str, int]) -> str:
    rules = sorted(dropped, key=lambda rule: -dropped[rule])[:3]
    return f"see the rules in the config; most went by {', '.join(f'{rule} ({dropped[rule]:,})' for rule in rules)}"


def _stage(
    config: CorpusConfig,
    work: Workspace,
    inputs: Mapping[str, Sequence[Input]],
    tests: ScoredTexts,
    pool: Pool,
    judge: Judge,
) -> list[Segment]:
    """Read, clean and judge all sources; return their segments, those that were there included."""
    segments = recorded_segments(work)
    decontaminator = pool.share(tests.decontaminator()) if tests.texts else None
    for source in config.sources:
        done = [segment for segment in segments if segment.source == source.name]
        if not (done and done[-1].last):
            work_on = partial(judge, config=config, source=source, decontaminator=decontaminator)
            segments += _stage_source(config, source, inputs[source.name], work, done, len(segments), pool, work_on)
        _require_usable(source, [segment for segment in segments if segment.source == source.name])
    return segments


def _require_usable(source: SourceConfig, segments: Sequence[Segment]) -> None:
    """Check that a source brought at least one row that is not broken, whenever it was read."""
    read = sum(segment.counts.read for segment in segments)
    broken = sum(segment.counts.broken for segment in segments)
    if read > broken:
        return
    rejected = b"".join(segment.rejected() for segment in segments).splitlines()[:_SHOWN]
    reasons = [f"\n  {row['place']}: {row['reason']}" for row in map(json.loads, rejected)]
    raise DataError(
        f"source {source.name} has not one usable row ({read} read, {broken} broken)" + "".join(reasons),
        f"check its kind ({source.kind}), {source.layout} and encoding (UTF-8)",
    )


def _stage_source(
    config: CorpusConfig,
    source: SourceConfig,
    inputs: Sequence[Input],
    work: Workspace,
    done: Sequence[Segment],
    number: int,
    pool: Pool,
    work_on: Callable[[list[RawRow]], list[Outcome]],
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

    def close(*, last: bool, position: Position | None = None) -> None:
        made.append(writer.close(last=last, position=position))
        closed.add(writer.counts)

    position = done[-1].position if done else None
    rows = read_source(source, used.add, inputs=inputs, skip=closed.read, position=position)
    with progress(f"corpus {config.name}, {source.name}", unit="MB", scale=1e6) as bar:
        for chunk, outcomes in _outcomes(rows, work_on, wanted, pool):
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
                close(last=False, position=chunk.rows[-1].position)
                writer = SegmentWriter(work, number + len(made), source.name)
        close(last=True)
    if _SHOWN < closed.broken < closed.read:
        say(f"set aside {closed.broken} broken rows of {source.name} in all; see rejected/{source.name}.jsonl")
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
    rows: Iterator[RawRow],
    work_on: Callable[[list[RawRow]], list[Outcome]],
    wanted: Callable[[], float],
    pool: Pool,
) -> Iterator[tuple["_Chunk", list[Outcome]]]:
    """Yield the rows, a chunk at a time and in order, with what becomes of them."""
    chunks = _chunks(rows, _CHUNK_BYTES)
    for chunk in itertools.islice(chunks, 1 if pool.num_workers > 1 else None):
        yield chunk, work_on(chunk.rows)
    if (following := next(chunks, None)) is None:  # processes are not worth their start for one chunk
        return
    yield from _map_ahead(
        partial(pool.submit, work_on), itertools.chain([following], chunks), 3 * pool.num_workers, wanted
    )


def _map_ahead(
    submit: Callable[[list[RawRow]], Future[list[Outcome]]],
    chunks: Iterable["_Chunk"],
    max_waiting: int,
    wanted: Callable[[], float],
) -> Iterator[tuple["_Chunk", list[Outcome]]]:
    """Map in order with some chunks under way, but no more text than is wanted."""
    waiting: deque[tuple[Future[list[Outcome]], _Chunk]] = deque()
    under_way = 0
    for chunk in chunks:
        waiting.append((submit(chunk.rows), chunk))
        under_way += chunk.size
        while waiting and (len(waiting) > max_waiting or under_way >= wanted()):
            result, first = waiting.popleft()
            yield first, result.result()
            under_way -= first.size
    for result, first in waiting:
        yield first, result.result()


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


def _near_duplicates(
    config: CorpusConfig, work: Workspace, segments: Sequence[Segment], kept: NDArray[np.bool_], pool: Pool
) -> Clusters:
    """Find the near duplicates among the documents that are no exact ones."""
    if not config.near_duplicates.drop_near_duplicates:
        return Clusters()
    found = candidates([segment.bands() for segment in segments], kept)
    texts = found.distinct
    if not len(texts):
        return Clusters()
    sets = ShingleSets(work.path / STAGED, segments, texts)
    with progress(f"corpus {config.name}: near duplicates", total=2 * len(texts), unit="documents") as bar:
        sets.collect(pool, bar.advance)
        order = _in_order_of_id(config, segments, texts)
        clusters = near_duplicates(found, order, sets, config.near_duplicates.jaccard, bar.advance)
    sets.discard()
    return clusters


def _in_order_of_id(config: CorpusConfig, segments: Sequence[Segment], texts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the texts in the order of their sources, then ids: the order of files in a source has no say."""
    numbers = {source.name: number for number, source in enumerate(config.sources)}
    source = np.zeros(len(texts), dtype=np.int64)
    ids = np.zeros((len(texts), 2), dtype=np.uint64)
    start = 0
    for segment in segments:
        digests = segment.digests()
        here = slice(np.searchsorted(texts, start), np.searchsorted(texts, start + len(digests)))
        ids[here] = digests[texts[here] - start].byteswap()  # an id is the digest's bytes, first byte first
        source[here] = numbers[segment.source]
        start += len(digests)
    return texts[np.lexsort((ids[:, 1], ids[:, 0], source))]


def _totals(counts: dict[str, SourceCounts]) -> dict[str, Any]:
    dropped: Counter[str] = Counter()
    cleaned: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for count in counts.values():
        dropped.update(count.dropped)
        cleaned.update(count.cleaned)
        cut.update(count.cut)
        languages.update(count.languages)
        if count.broken:
            dropped["broken_row"] += count.broken
    return {
        "documents": sum(count.kept for count in counts.values()),
        "bytes": sum(count.kept_bytes for count in counts.values()),
        "rows_read": sum(count.read for count in counts.values()),
        "sources": {name: count.summary() for name, count in counts.items()},
        "dropped": dict(sorted(dropped.items())),
        "cleaned": dict(sorted(cleaned.items())),
        "cut": dict(sorted(cut.items())),
        "languages": dict(languages.most_common()),
    }
