"""Conversations as training data: ids and loss mask from disk, packed into rows of fixed length."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumi.conversation import Rendered
from lumi.data.array_file import Tokens
from lumi.data.dataset import Split
from lumi.posttraining.conversation_files import ConversationFiles
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
        self._files = ConversationFiles(data_dir, CONVERSATIONS, split, script="02_prepare_sft_corpus.py", check=check)
        self.path, self.split = data_dir, split
        self.name = data_dir.resolve().name
        self.manifest_sha256 = self._files.manifest_sha256
        self.tokenizer_sha256, self.template = self._files.tokenizer_sha256, self._files.template
        self.sequence_length, self.counts = self._files.sequence_length, self._files.counts
        self.held_out_by, self.lengths = self._files.held_out_by, self._files.lengths
        places = self.sequence_length + 1
        self._rows: list[Row] = (
            pack_lengths(self.lengths, places, seed) if packing else list(np.arange(len(self.lengths))[:, None])
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (2, self.sequence_length + 1)

    @property
    def tokens_per_row(self) -> int:
        return self.sequence_length

    def documents_per_row(self) -> int:
        """Return how many conversations stand in a row at most."""
        return max(map(len, self._rows))

    def conversations_in(self, row: int) -> list[int]:
        """Return the conversations that stand in a row, in their order."""
        found: list[int] = self._rows[row].tolist()
        return found

    def conversation(self, index: int) -> Rendered:
        """Return one conversation."""
        return self._files[index]

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
        self._files.require_unchanged()
