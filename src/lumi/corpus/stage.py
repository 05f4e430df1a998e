"""The corpus stage: raw rows in, a clean, deduplicated, documented corpus out.

sources -> rows --(workers: parse, clean, judge, hash)--> outcomes, in order --(here: dedup, shards, counts)--> corpus

Only the order of the rows decides what is kept, so the result does not depend on the number of workers. A run
that was interrupted reads its sources again but writes only the shards that were not finished.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import zstandard

from lumi.artifacts import Manifest, Workspace, package_versions
from lumi.corpus.card import write_card
from lumi.corpus.cleaning import clean
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.document import Document
from lumi.corpus.rules import rules_of
from lumi.corpus.sources import RawRow, read_source, source_inputs
from lumi.errors import DataError
from lumi.progress import Bar, progress, say
from lumi.workers import worker_pool

_CHUNK_BYTES = 1_000_000  # about this much raw text goes to a worker at once
_SHOWN = 3  # broken rows on screen, and examples per rule in the card
_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: a document, or why there is none."""

    place: str
    document: Document | None
    reason: str = ""  # the rule that dropped it
    broken: str = ""  # why the row could not be used at all
    excerpt: str = ""
    changed: tuple[str, ...] = ()
    size: int = 0  # bytes of the cleaned text


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
        with progress(f"corpus {config.name}", unit="MB", scale=1e6) as bar:
            for source in config.sources:
                for document in _kept(config, source, counts[source.name], seen, bar):
                    shards.add(document)
                    lengths.append(len(document.text))
        shards.close()
        _report_rejected(work, counts)
        if not lengths:
            raise DataError("the corpus is empty: every document was dropped", "see the rules in the config")
        totals = _totals(counts)
        for file in write_card(work.path, config, totals, counts, lengths):
            work.record(file)
        manifest = work.publish(counts=totals, versions=package_versions("zstandard"))
    say(f"corpus: {config.output_dir}, {totals['documents']:,} documents, {totals['bytes'] / 1e6:,.1f} MB of text")
    return manifest


def _kept(
    config: CorpusConfig, source: SourceConfig, counts: SourceCounts, seen: set[bytes], bar: Bar
) -> Iterator[Document]:
    """Yield the documents of a source that stay, and count what happens to the others."""
    for outcome in _outcomes(config, source):
        counts.read += 1
        counts.cleaned.update(outcome.changed)
        if outcome.broken:
            counts.broken += 1
            row = {"place": outcome.place, "reason": outcome.broken, "excerpt": outcome.excerpt}
            counts.rejected.append(row)
            if counts.broken <= _SHOWN:
                say(f"set aside {outcome.place}: {outcome.broken}")
            continue
        bar.advance(outcome.size)
        reason = outcome.reason
        if outcome.document is not None:
            key = bytes.fromhex(outcome.document.id)
            if key not in seen:
                seen.add(key)
                counts.kept += 1
                counts.kept_bytes += outcome.size
                yield outcome.document
                if source.max_bytes is not None and counts.kept_bytes >= source.max_bytes:
                    break
                continue
            reason = "exact_duplicate"
        counts.dropped[reason] += 1
        examples = counts.examples.setdefault(reason, [])
        if len(examples) < _SHOWN:
            examples.append(outcome.excerpt)
    if counts.broken > _SHOWN:
        say(f"set aside {counts.broken} broken rows of {source.name} in all; see rejected/{source.name}.jsonl")
    if counts.read == counts.broken:
        raise DataError(
            f"source {source.name} has not one usable row ({counts.read} read, {counts.broken} broken)",
            f"check its kind ({source.kind}) and text_field ({source.text_field!r})",
        )


def _outcomes(config: CorpusConfig, source: SourceConfig) -> Iterator[Outcome]:
    chunks = _chunks(read_source(source))
    work = partial(_process, config=config, source=source)
    first = next(chunks, [])
    second = next(chunks, None)
    every = itertools.chain([first], [second] if second else [], chunks)
    if config.num_workers == 1 or second is None:  # a pool is not worth its start for one chunk
        yield from itertools.chain.from_iterable(map(work, every))
        return
    with worker_pool(config.num_workers) as pool:
        yield from itertools.chain.from_iterable(_bounded_map(pool, work, every, config.num_workers))


def _bounded_map(pool: Any, work: Any, chunks: Iterable[list[RawRow]], num_workers: int) -> Iterator[list[Outcome]]:
    """Map in order with a few chunks in flight: `imap` would read a whole source into memory."""
    waiting: list[Any] = []
    for chunk in chunks:
        waiting.append(pool.apply_async(work, (chunk,)))
        if len(waiting) > 3 * num_workers:
            yield waiting.pop(0).get()
    for result in waiting:
        yield result.get()


def _chunks(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    chunk: list[RawRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += (
            len(row.data)
            if isinstance(row.data, bytes)
            else sum(len(v) for v in row.data.values() if isinstance(v, (str, bytes)))
        )
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _process(rows: list[RawRow], *, config: CorpusConfig, source: SourceConfig) -> list[Outcome]:
    rules = rules_of(config, source)
    return [_judge(row, source, rules) for row in rows]


def _judge(row: RawRow, source: SourceConfig, rules: list[Any]) -> Outcome:
    try:
        values = json.loads(row.data) if isinstance(row.data, bytes) else dict(row.data)
        text = values.pop(source.text_field)
        if isinstance(text, bytes):
            text = text.decode("utf8")
        if not isinstance(text, str):
            raise TypeError
        text.encode()
    except UnicodeError as error:
        return Outcome(row.place, None, broken=f"not UTF-8: {error}", excerpt=_excerpt(row.data))
    except json.JSONDecodeError as error:
        return Outcome(row.place, None, broken=f"not JSON: {error.msg}", excerpt=_excerpt(row.data))
    except (KeyError, TypeError, AttributeError):
        return Outcome(row.place, None, broken=f"no text under {source.text_field!r}", excerpt=_excerpt(row.data))
    text, changed = clean(text, source.drop_lines_with)
    if not text.strip():
        return Outcome(row.place, None, broken="the text is empty", excerpt=_excerpt(row.data))
    data = text.encode()
    document = Document(hashlib.sha256(data).hexdigest()[:32], text, source.name, values)
    reason = next((verdict.reason for rule in rules if not (verdict := rule(document)).keep), "")
    excerpt = text[:_EXCERPT]
    return Outcome(row.place, None if reason else document, reason, "", excerpt, tuple(changed), len(data))


def _excerpt(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else repr(data).encode("utf8", "backslashreplace")
    return raw[:_EXCERPT].decode("utf8", "backslashreplace")


class _ShardWriter:
    """Cuts the stream of documents into shards; those an interrupted run finished are not written again."""

    def __init__(self, work: Workspace, shard_bytes: int) -> None:
        self.work, self.shard_bytes = work, shard_bytes
        self.number = 0
        self.lines: list[bytes] = []
        self.size = 0

    def add(self, document: Document) -> None:
        line = document.to_line()
        self.lines.append(line)
        self.size += len(line)
        if self.size >= self.shard_bytes:
            self.close()

    def close(self) -> None:
        if not self.lines:
            return
        file = f"shard_{self.number:05d}.jsonl.zst"
        if self.work.recorded(file) is None:
            data = zstandard.ZstdCompressor(level=6).compress(b"".join(self.lines))
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
        "kept_by_source": {name: count.kept for name, count in counts.items()},
        "dropped": dict(sorted(dropped.items())),
        "cleaned": dict(sorted(cleaned.items())),
    }
