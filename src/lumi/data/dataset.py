"""Packed rows on disk: nothing is loaded but the rows that are asked for."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import MANIFEST, Manifest, read_manifest, sha256_file, verify
from lumi.data.array_file import ArrayFile, Tokens
from lumi.errors import DataError
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID

PACKED = "packed data"
_ROWS_AT_ONCE = 4096
Split = Literal["train", "val"]


class Rows(Protocol):
    """A data set of packed rows, of text or of conversations."""

    name: str
    path: Path
    manifest_sha256: str
    sequence_length: int

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        ...

    @property
    def tokens_per_row(self) -> int:
        """Tokens of a row that go through the model."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: NDArray[np.int64]) -> Tokens:
        """Return rows, uint16 [len(indices), *row_shape], in the order asked for."""
        ...

    def documents_per_row(self) -> int:
        """Return how many documents stand in a row at most, begun ones included."""
        ...

    def require_unchanged(self) -> None:
        """Check that the open files are still those that were hashed.

        Raises:
            IntegrityError: one was written to.
        """
        ...


class ShardedTokenizedDataset:
    """One split of a packed data set: rows of ``sequence_length + 1`` tokens, uint16.

    Row i + 1 starts with the last token of row i, so that each token is a target once.

    Args:
        data_dir: a folder made by 03_pack_dataset.py; every byte is hashed against its manifest.
        split: ``train`` or ``val``.
        check: hash the files; False where this process, or another of this machine, has just done so.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete, damaged, or its files do not fit its manifest.
    """

    def __init__(self, data_dir: Path, split: Split, *, check: bool = True) -> None:
        if not data_dir.is_dir():
            raise DataError(f"no packed data at {data_dir}", "pack a corpus first (scripts/03_pack_dataset.py)")
        self.path, self.split = data_dir, split
        read = verify if check else read_manifest
        way_out = f"pack it again: make reencode-dataset DIR={data_dir}"
        manifest: Manifest = read(data_dir, PACKED, way_out)
        self.name = data_dir.resolve().name
        self.manifest_sha256 = sha256_file(data_dir / MANIFEST)
        self.tokenizer_sha256: str = manifest.counts["tokenizer_sha256"]
        self.vocab_size: int = manifest.counts["vocab_size"]
        self.sequence_length: int = manifest.config["sequence_length"]
        self.tokenizer_path = (data_dir / manifest.inputs[1].path).resolve()
        self.counts: dict[str, Any] = manifest.counts[split]
        files = manifest.files(prefix=f"{split}_", suffix=".npy")
        self._shards = [
            ArrayFile.open(data_dir / out.file, out.sha256, (out.rows or 0, self.sequence_length + 1), way_out)
            for out in files
        ]
        self._starts = np.cumsum([0] + [out.rows or 0 for out in files])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.sequence_length + 1,)

    @property
    def tokens_per_row(self) -> int:
        return self.sequence_length

    def rows(self, indices: NDArray[np.int64]) -> Tokens:
        """Return rows, uint16 [len(indices), sequence_length + 1], in the order asked for."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.sequence_length + 1), dtype=np.uint16)
        borders = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        for first, end in itertools.pairwise(borders):  # runs of neighbours are read at once
            if first < end:
                self._read_run(int(indices[first]), out[first:end])
        return out

    def _read_run(self, start: int, out: Tokens) -> None:
        """Fill ``out`` with the rows from ``start`` on, which may lie in several shards."""
        while len(out):
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            here = min(len(out), int(self._starts[number + 1]) - start)
            self._shards[number].read(start - int(self._starts[number]), out[:here])
            start, out = start + here, out[here:]

    def documents_per_row(self) -> int:
        """Return how many documents stand in a row at most, begun ones included; every row is read."""
        most = 0
        for start in range(0, len(self), _ROWS_AT_ONCE):
            rows = self.rows(np.arange(start, min(start + _ROWS_AT_ONCE, len(self))))
            most = max(most, int((rows[:, 1:-1] == BOS_ID).sum(1).max()) + 1)
        return most

    def require_unchanged(self) -> None:
        """Check that the open files are still those that were hashed.

        Raises:
            IntegrityError: one was written to.
        """
        for shard in self._shards:
            shard.require_unchanged()

    def documents(self) -> Iterator[Tokens]:
        """Yield the tokens of each document without ``<s>`` and ``</s>``; one cut by a budget, as far as it goes."""
        rest = np.empty(0, dtype=np.uint16)
        for number, (start, stop) in enumerate(itertools.pairwise(self._starts.tolist())):
            shard = self.rows(np.arange(start, stop))
            stream = shard[:, 1:].ravel() if number else np.concatenate([shard[0, :1], shard[:, 1:].ravel()])
            stream = np.concatenate([rest, stream[stream != PAD_ID]])
            *whole, rest = np.split(stream, np.flatnonzero(stream == EOS_ID) + 1)
            for document in whole:
                yield document[1:-1]
        if len(rest):
            yield rest[1:]


def names_of(datasets: Sequence[Rows]) -> list[str]:
    """Return what data sets are called: their names, or their paths where two share a name."""
    names = [dataset.name for dataset in datasets]
    return names if len(set(names)) == len(names) else [str(dataset.path) for dataset in datasets]
