"""The last pass of the corpus stage: segments, less the duplicates, become shards; broken rows become a file."""

import itertools
from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from lumi.artifacts import Workspace
from lumi.corpus.card import LENGTH_EDGES, TwinExample
from lumi.corpus.config import CorpusConfig
from lumi.corpus.counts import EXAMPLES, SourceCounts
from lumi.corpus.document import Document
from lumi.corpus.near_duplicates import Clusters
from lumi.corpus.outcome import excerpt_of
from lumi.corpus.segments import Segment
from lumi.progress import progress

_ZSTD_LEVEL = 3  # level 6 saves 8 % and takes three times as long, in the one process that cannot be spread


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


def write_shards(
    config: CorpusConfig,
    work: Workspace,
    segments: Sequence[Segment],
    kept: NDArray[np.bool_],
    clusters: Clusters,
    counts: dict[str, SourceCounts],
) -> tuple[NDArray[np.int64], list[TwinExample]]:
    """Write the documents that stay, and count those that go after all.

    Returns:
        How many characters the documents have, in the bins of `LENGTH_EDGES`; some near duplicates with their twins.
    """
    twins = {duplicate.text for duplicate in clusters.duplicates}
    shown = clusters.duplicates[:EXAMPLES]
    excerpts = dict.fromkeys([number for duplicate in shown for number in (duplicate.text, duplicate.kept)], "")
    lengths = np.zeros(len(LENGTH_EDGES) - 1, dtype=np.int64)
    shards = _ShardWriter(work, config.shard_bytes)
    total = sum(count.kept_bytes for count in counts.values())
    place = 0
    with progress(f"corpus {config.name}: writing", total=total, unit="MB", scale=1e6) as bar:
        for segment in segments:
            sizes = segment.sizes()
            stays = kept[place : place + len(sizes)].copy()
            for offset, ((num_bytes, _), line) in enumerate(zip(sizes.tolist(), segment.lines(), strict=True), place):
                near = offset in twins
                if offset in excerpts:
                    excerpts[offset] = excerpt_of(Document.from_line(line).text)
                if near or not kept[offset]:
                    excerpt = excerpt_of(Document.from_line(line).text)
                    reason = "near_duplicate" if near else "exact_duplicate"
                    counts[segment.source].take_back(num_bytes, reason, excerpt)
                    stays[offset - place] = False
                else:
                    shards.add(line)
                bar.advance(num_bytes)
            place += len(sizes)
            lengths += np.histogram(np.clip(sizes[stays, 1], 1, LENGTH_EDGES[-1]), bins=LENGTH_EDGES)[0]
        shards.close()
    return lengths, [TwinExample(excerpts[twin.kept], excerpts[twin.text], twin.jaccard) for twin in shown]


def write_rejected(work: Workspace, segments: Sequence[Segment]) -> None:
    """Write the rows that could not be used, a file for each source."""
    for name, parts in itertools.groupby(segments, key=lambda segment: segment.source):
        lines = b"".join(segment.rejected() for segment in parts)
        if lines:
            file = f"rejected/{name}.jsonl"
            (work.path / file).parent.mkdir(exist_ok=True)
            (work.path / file).write_bytes(lines)
            work.record(file, rows=lines.count(b"\n"))
