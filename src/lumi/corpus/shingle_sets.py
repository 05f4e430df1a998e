"""The shingle sets of near-duplicate candidates, on disk: what verifying a pair needs."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumi.corpus.document import Document
from lumi.corpus.minhash import shingle_sets
from lumi.corpus.segments import Segment
from lumi.corpus.words import Words
from lumi.workers import Pool

_CHUNK_BYTES = 1_000_000

Set = NDArray[np.uint64]


def sets_of_lines(lines: Sequence[bytes]) -> list[Set]:
    """Return the shingle set of each document; what workers do."""
    return shingle_sets(Words.of([Document.from_line(line).text for line in lines]))


class ShingleSets:
    """The shingle sets of some texts.

    Args:
        path: the file they are kept in.
        segments: all segments.
        texts: numbers of the texts, over all segments, ascending.
    """

    def __init__(self, path: Path, segments: Sequence[Segment], texts: NDArray[np.int64]) -> None:
        self.path, self.segments, self.texts = path, segments, texts
        self._starts = np.zeros(len(texts) + 1, dtype=np.int64)
        self._data: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def collect(self, pool: Pool, on_done: Callable[[int], None]) -> None:
        """Work them out and write them; ``on_done`` is told how many more there are."""
        number = 0
        with self.path.open("wb") as file:
            for sets in self._sets(pool):
                for one in sets:
                    file.write(one.astype("<u8").tobytes())
                    self._starts[number + 1] = self._starts[number] + len(one)
                    number += 1
                on_done(len(sets))
        self._data = np.memmap(self.path, dtype="<u8", mode="r")

    def of(self, text: int) -> Set:
        """Return the set of a text."""
        at = int(np.searchsorted(self.texts, text))
        return self._data[self._starts[at] : self._starts[at + 1]]

    def discard(self) -> None:
        """Delete the file."""
        self._data = np.zeros(0, dtype=np.uint64)
        self.path.unlink()

    def _sets(self, pool: Pool) -> Iterator[list[Set]]:
        waiting: deque[Future[list[Set]]] = deque()
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
