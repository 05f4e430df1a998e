"""Segments: what the first pass over the sources leaves on disk for the later ones.

A segment holds the documents of a stretch of one source that no rule dropped, in their order, and beside them in
plain arrays what dedup needs to know of each. Nothing in memory grows with the corpus; a segment that was recorded
is never worked out again.

    staged/00000.jsonl.zst     the documents, as lines of a shard
    staged/00000.digests.npy   sha256 of each text, its first 16 bytes as two uint64
    staged/00000.sizes.npy     bytes and characters of each text, int64 [documents, 2]
    staged/00000.bands.npy     bands of each text's MinHash signature, uint64 [20, documents]
    staged/00000.rejected      rows that could not be used, as lines of rejected/SOURCE.jsonl
    staged/00000.json          the counts, and where the segment ends in its source (a hub stream's position)
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from lumi.artifacts import Workspace
from lumi.corpus.compression import open_any
from lumi.corpus.counts import SourceCounts
from lumi.corpus.minhash import BANDS
from lumi.corpus.outcome import Outcome
from lumi.corpus.quality import HISTOGRAMS
from lumi.corpus.rows import Position

STAGED = "staged"
_FAST = 1  # zstd's level for files that are read once


@dataclass(frozen=True)
class Segment:
    """A recorded segment."""

    folder: Path  # of the workspace
    number: int
    source: str
    rows: int  # rows of the source that it accounts for
    last: bool  # the source ends with it
    counts: SourceCounts
    position: Position | None  # of a hub stream, behind the last row

    def lines(self) -> Iterator[bytes]:
        with open_any(self._path("jsonl.zst")) as file:
            yield from file

    def rejected(self) -> bytes:
        return self._path("rejected").read_bytes()

    def digests(self) -> NDArray[np.uint64]:
        """Return [documents, 2], mapped from disk."""
        array: NDArray[np.uint64] = np.load(self._path("digests.npy"), mmap_mode="r", allow_pickle=False)
        return array

    def sizes(self) -> NDArray[np.int64]:
        """Return bytes and characters, [documents, 2], mapped from disk."""
        array: NDArray[np.int64] = np.load(self._path("sizes.npy"), mmap_mode="r", allow_pickle=False)
        return array

    def bands(self) -> NDArray[np.uint64]:
        """Return [BANDS, documents], mapped from disk; without documents where there is no near-dedup."""
        array: NDArray[np.uint64] = np.load(self._path("bands.npy"), mmap_mode="r", allow_pickle=False)
        return array

    def _path(self, kind: str) -> Path:
        return self.folder / _name(self.number, kind)


def _name(number: int, kind: str) -> str:
    return f"{STAGED}/{number:05d}.{kind}"


_KINDS = ("jsonl.zst", "digests.npy", "sizes.npy", "bands.npy", "rejected", "json")


def recorded_segments(work: Workspace) -> list[Segment]:
    """Return the segments that an earlier, interrupted run finished, in their order."""
    segments: list[Segment] = []
    while all(work.recorded(_name(len(segments), kind)) for kind in _KINDS):
        number = len(segments)
        data = json.loads((work.path / _name(number, "json")).read_text(encoding="utf8"))
        counts = SourceCounts.from_json(data["counts"])
        segments.append(
            Segment(work.path, number, data["source"], data["rows"], data["last"], counts, data["position"])
        )
    return segments


class SegmentWriter:
    """Collects the outcomes of a stretch of a source and records them as a segment."""

    def __init__(self, work: Workspace, number: int, source: str) -> None:
        self.work, self.number, self.source = work, number, source
        self.counts = SourceCounts()
        self.rejected = bytearray()
        self._lines: list[bytes] = []
        self._digests = bytearray()
        self._sizes: list[tuple[int, int]] = []
        self._bands = bytearray()
        self._bins = bytearray()
        self._line_bytes = 0

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        return self._line_bytes + len(self.rejected)

    def add(self, outcome: Outcome) -> None:
        """Count a row, and keep its document where no rule dropped it."""
        counts = self.counts
        counts.read += 1
        counts.cleaned.update(outcome.changed)
        for test_set, excerpt in outcome.cuts:
            counts.count_cut(test_set, excerpt)
        if outcome.bins:
            counts.languages[outcome.language] += 1
            self._bins += outcome.bins
        if outcome.broken:
            counts.broken += 1
            row = {"place": outcome.place, "reason": outcome.broken, "excerpt": outcome.excerpt}
            self.rejected += json.dumps(row, ensure_ascii=False).encode("utf8", "backslashreplace") + b"\n"
        elif outcome.reason:
            counts.drop(outcome.reason, outcome.excerpt)
        else:
            counts.keep(outcome.num_bytes)
            self._lines.append(outcome.line)
            self._line_bytes += len(outcome.line)
            self._digests += outcome.digest[:16]
            self._sizes.append((outcome.num_bytes, outcome.num_characters))
            self._bands += outcome.bands

    def close(self, *, last: bool, position: Position | None = None) -> Segment:
        """Write and record it."""
        bins = np.frombuffer(bytes(self._bins), dtype=np.uint8).reshape(-1, len(HISTOGRAMS))
        for column, (name, edges) in zip(bins.T, HISTOGRAMS.items(), strict=True):
            self.counts.bins[name] = np.bincount(column, minlength=len(edges) - 1).tolist()
        path = self.work.path
        (path / STAGED).mkdir(exist_ok=True)
        text = zstandard.ZstdCompressor(level=_FAST).compress(b"".join(self._lines))
        (path / _name(self.number, "jsonl.zst")).write_bytes(text)
        digests = np.frombuffer(bytes(self._digests), dtype="<u8").reshape(-1, 2)
        np.save(path / _name(self.number, "digests.npy"), digests)
        np.save(path / _name(self.number, "sizes.npy"), np.array(self._sizes, dtype=np.int64).reshape(-1, 2))
        bands = np.frombuffer(bytes(self._bands), dtype="<u8").reshape(-1, BANDS)
        np.save(path / _name(self.number, "bands.npy"), np.ascontiguousarray(bands.T))
        (path / _name(self.number, "rejected")).write_bytes(self.rejected)
        segment = Segment(path, self.number, self.source, self.counts.read, last, self.counts, position)
        data: dict[str, Any] = {
            "source": self.source, "rows": segment.rows, "last": last, "counts": self.counts.to_json(),
            "position": position,
        }  # fmt: skip
        (path / _name(self.number, "json")).write_text(json.dumps(data), encoding="utf8")
        for kind in _KINDS:
            self.work.record(_name(self.number, kind))
        return segment
