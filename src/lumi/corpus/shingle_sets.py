"""The shingle sets and sketches of near-duplicate candidates, on disk: what verifying a pair needs."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumi.corpus.document import Document
from lumi.corpus.minhash import SKETCH, shingle_sets, sketches_of
from lumi.corpus.segments import Segment
from lumi.corpus.words import Words
from lumi.workers import Pool

_CHUNK_BYTES = 1_000_000

Set = NDArray[np.uint64]


def sets_of_lines(lines: Sequence[bytes]) -> tuple[list[Set], NDArray[np.uint16]]:
    """Return the shingle set and the sketch of each document; what workers do."""
    words = Words.of([Document.from_line(line).text for line in lines])
    return shingle_sets(words), sketches_of(words).astype("<u2")


class ShingleSets:
    """The shingle sets and sketches of some texts, in two files.

    Args:
        folder: where the files are kept.
        segments: all segments.
        texts: numbers of the texts, over all segments, ascending.
    """

    def __init__(self, folder: Path, segments: Sequence[Segment], texts: NDArray[np.int64]) -> None:
        self.segments, self.texts = segments, texts
        self._files = folder / "shingles", folder / "sketches"
        self._starts = np.zeros(len(texts) + 1, dtype=np.int64)
        self._data: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._sketches: NDArray[np.uint16] = np.zeros((0, SKETCH), dtype=np.uint16)

    def collect(self, pool: Pool, on_done: Callable[[int], None]) -> None:
        """Work them out and write them; ``on_done`` is told how many more there are."""
        number = 0
        with self._files[0].open("wb") as shingles, self._files[1].open("wb") as sketches:
            for sets, rows in self._sets(pool):
                for one in sets:
                    shingles.write(one.astype("<u8").tobytes())
                    self._starts[number + 1] = self._starts[number] + len(one)
                    number += 1
                sketches.write(rows.tobytes())
                on_done(len(sets))
        self._data = np.memmap(self._files[0], dtype="<u8", mode="r")
        self._sketches = np.memmap(self._files[1], dtype="<u2", mode="r").reshape(-1, SKETCH)

    def of(self, text: int) -> Set:
        """Return the set of a text."""
        at = int(np.searchsorted(self.texts, text))
        return self._data[self._starts[at] : self._starts[at + 1]]

    def sketches(self, texts: Sequence[int]) -> NDArray[np.uint16]:
        """Return the sketches of texts, [texts, SKETCH]."""
        return self._sketches[np.searchsorted(self.texts, texts)]

    def discard(self) -> None:
        """Delete the files."""
        self._data, self._sketches = self._data[:0].copy(), self._sketches[:0].copy()
        for file in self._files:
            file.unlink()

    def _sets(self, pool: Pool) -> Iterator[tuple[list[Set], NDArray[np.uint16]]]:
        waiting: deque[Future[tuple[list[Set], NDArray[np.uint16]]]] = deque()
        chunks = self._chunks()
        for chunk in itertools.islice(chunks, 1):  # processes are not worth their start for one chunk
            yield sets_of_lines(chunk)
        for chunk in chunks:
            waiting.append(pool.submit(sets_of_lines, chunk))
            if len(waiting) > 3 * pool.num_workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    def _chunks(self) -> Iterator[list[bytes]]:
        start = 0
        chunk: list[bytes] = []
        size = 0
        for segment in self.segments:
            end = start + len(segment.sizes())
            chosen = self.texts[np.searchsorted(self.texts, start) : np.searchsorted(self.texts, end)] - start
            wanted = np.zeros(end - start, dtype=np.bool_)
            wanted[chosen] = True
            if len(chosen):
                for line in itertools.compress(segment.lines(), wanted.tolist()):
                    chunk.append(line)
                    size += len(line)
                    if size >= _CHUNK_BYTES:
                        yield chunk
                        chunk, size = [], 0
            start = end
        if chunk:
            yield chunk
