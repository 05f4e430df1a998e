"""Packed rows on disk, read through the memory map: nothing is loaded but the rows that are asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import MANIFEST, Manifest, sha256_file, verify
from lumi.errors import DataError, IntegrityError
from lumi.tokenizer import EOS_ID, PAD_ID

PACKED = "packed data"
Split = Literal["train", "val"]
Tokens = NDArray[np.uint16]


class ShardedTokenizedDataset:
    """One split of a packed data set: rows of ``sequence_length + 1`` tokens, uint16.

    Row i + 1 starts with the last token of row i, so that each token is a target once.

    Args:
        data_dir: a folder made by 03_pack_dataset.py; every byte is hashed against its manifest.
        split: ``train`` or ``val``.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete, damaged, or its files do not fit its manifest.
    """

    def __init__(self, data_dir: Path, split: Split) -> None:
        if not data_dir.is_dir():
            raise DataError(f"no packed data at {data_dir}", "pack a corpus first (scripts/03_pack_dataset.py)")
        self.path, self.split = data_dir, split
        manifest: Manifest = verify(data_dir, PACKED, f"pack it again: make reencode-dataset DIR={data_dir}")
        self.name = data_dir.resolve().name
        self.manifest_sha256 = sha256_file(data_dir / MANIFEST)
        self.tokenizer_sha256: str = manifest.counts["tokenizer_sha256"]
        self.vocab_size: int = manifest.counts["vocab_size"]
        self.sequence_length: int = manifest.config["sequence_length"]
        self.tokenizer_path = (data_dir / manifest.inputs[1].path).resolve()
        self.counts: dict[str, Any] = manifest.counts[split]
        files = manifest.files(prefix=f"{split}_", suffix=".npy")
        self._shards = [np.load(data_dir / out.file, mmap_mode="r", allow_pickle=False) for out in files]
        for out, shard in zip(files, self._shards, strict=True):
            if shard.dtype != np.uint16 or shard.shape != (out.rows, self.sequence_length + 1):
                raise IntegrityError(
                    f"{data_dir / out.file} holds {shard.dtype} {shard.shape}, expected uint16"
                    f" ({out.rows}, {self.sequence_length + 1})",
                    f"pack it again: make reencode-dataset DIR={data_dir}",
                )
        self._starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, indices: NDArray[np.int64]) -> Tokens:
        """Return rows, uint16 [len(indices), sequence_length + 1], in the order asked for."""
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), self.sequence_length + 1), dtype=np.uint16)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(shard_of):
            chosen = shard_of == number
            out[chosen] = self._shards[number][indices[chosen] - self._starts[number]]
        return out

    def documents(self) -> Iterator[Tokens]:
        """Yield the tokens of each document without ``<s>`` and ``</s>``; one cut by a budget, as far as it goes."""
        rest = np.empty(0, dtype=np.uint16)
        for number, shard in enumerate(self._shards):
            stream = shard[:, 1:].ravel() if number else np.concatenate([shard[0, :1], shard[:, 1:].ravel()])
            stream = np.concatenate([rest, stream[stream != PAD_ID]])
            *whole, rest = np.split(stream, np.flatnonzero(stream == EOS_ID) + 1)
            for document in whole:
                yield document[1:-1]
        if len(rest):
            yield rest[1:]
