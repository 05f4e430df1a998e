"""Conversations as training data: ids and loss mask from disk, packed into rows of fixed length."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import MANIFEST, Manifest, read_manifest, sha256_file, verify
from lumi.conversation import Rendered, Template
from lumi.data.array_file import ArrayFile, Tokens
from lumi.data.dataset import Split
from lumi.errors import DataError
from lumi.posttraining.packing import Row, pack_lengths
from lumi.tokenizer import PAD_ID

CONVERSATIONS = "conversations"


class SFTDataset:
    """One split of a folder made by 02_prepare_sft_corpus.py, as rows of tokens and loss mask.

    A row is uint16 [2, sequence_length + 1]: tokens, and 1 where a token bears loss. Conversations are never cut.

    Args:
        data_dir: the folder; every byte is hashed against its manifest.
        split: ``train`` or ``val``.
        packing: several conversations to a row; else each has one of its own.
        seed: of the packing.
        check: hash the files; False where this process, or another of this machine, has just done so.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete, damaged, or its files do not fit its manifest.
    """

    def __init__(
        self, data_dir: Path, split: Split, *, packing: bool = True, seed: int = 0, check: bool = True
    ) -> None:
        if not data_dir.is_dir():
            raise DataError(f"no conversations at {data_dir}", "prepare them first (scripts/02_prepare_sft_corpus.py)")
        self.path, self.split = data_dir, split
        way_out = f"prepare them again: scripts/02_prepare_sft_corpus.py ... --output_dir {data_dir} --fresh"
        read = verify if check else read_manifest
        manifest: Manifest = read(data_dir, CONVERSATIONS, way_out)
        self.name = data_dir.resolve().name
        self.manifest_sha256 = sha256_file(data_dir / MANIFEST)
        self.tokenizer_sha256: str = manifest.counts["tokenizer_sha256"]
        self.tokenizer_path = (data_dir / manifest.inputs[1].path).resolve()
        self.template = Template.from_json(manifest.counts["template"])
        self.sequence_length: int = manifest.config["sequence_length"]
        self.counts: dict[str, Any] = manifest.counts[split]
        self._files = [
            ArrayFile.open(data_dir / out.file, out.sha256, (out.rows or 0, 2), way_out)
            for out in manifest.files(prefix=f"{split}_", suffix=".tokens.npy")
        ]
        starts = [
            np.load(data_dir / out.file, allow_pickle=False)
            for out in manifest.files(prefix=f"{split}_", suffix=".starts.npy")
        ]
        self._starts = np.concatenate([part[:-1] for part in starts])
        self.lengths: NDArray[np.int64] = np.concatenate([np.diff(part) for part in starts])
        self._file_of = np.repeat(np.arange(len(starts)), [len(part) - 1 for part in starts])
        places = self.sequence_length + 1
        self._rows: list[Row] = (
            pack_lengths(self.lengths, places, seed) if packing else list(np.arange(len(self.lengths))[:, None])
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (2, self.sequence_length + 1)

    def documents_per_row(self) -> int:
        """Return how many conversations stand in a row at most."""
        return max(map(len, self._rows))

    def conversations_in(self, row: int) -> list[int]:
        """Return the conversations that stand in a row, in their order."""
        found: list[int] = self._rows[row].tolist()
        return found

    def conversation(self, index: int) -> Rendered:
        """Return one conversation."""
        tokens = np.empty((int(self.lengths[index]), 2), dtype=np.uint16)
        self._files[self._file_of[index]].read(int(self._starts[index]), tokens)
        return Rendered(tokens[:, 0], tokens[:, 1].astype(np.bool_), ())

    def rows(self, indices: NDArray[np.int64]) -> Tokens:
        """Return rows, uint16 [len(indices), 2, sequence_length + 1]; what is left over is padding."""
        out = np.zeros((len(indices), *self.row_shape), dtype=np.uint16)
        out[:, 0] = PAD_ID
        for row, index in zip(out, np.asarray(indices).tolist(), strict=True):
            place = 0
            for conversation in self.conversations_in(index):
                rendered = self.conversation(conversation)
                here = slice(place, place + len(rendered.ids))
                row[0, here], row[1, here] = rendered.ids, rendered.loss
                place = here.stop
        return out

    def require_unchanged(self) -> None:
        """Check that the open files are still those that were hashed.

        Raises:
            IntegrityError: one was written to.
        """
        for file in self._files:
            file.require_unchanged()
