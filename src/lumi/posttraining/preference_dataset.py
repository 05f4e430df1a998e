"""Preferences as training data: pairs of conversations, packed into rows of two lines.

    line 0  | chosen 1   | rejected 2 | chosen 3 | padding |      the sides of a pair stand in different lines,
    line 1  | rejected 1 | chosen 2   | rejected 3         |      each whole, the longer one in the shorter line

A side is a line's worth of tokens at most, so that no pair is lost for being two. With each row travel the
reference's log-probabilities of its answers, where they were worked out before.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lumi.data.array_file import Tokens
from lumi.data.dataset import Split
from lumi.posttraining.conversation_files import ConversationFiles
from lumi.posttraining.packing import Row, pack_lengths
from lumi.tokenizer import PAD_ID

PREFERENCES = "preferences"
LINES = 2
TOKENS, SIDES, REFERENCE = range(3)  # what a line holds


class PreferenceDataset:
    """One split of a folder made by 02_prepare_dpo_corpus.py.

    A row is uint16 [2 lines, 3, sequence_length + 1]: tokens; for those that bear loss 2 k + 1 in the chosen and
    2 k + 2 in the rejected answer of the row's pair k, else 0; in the first line the bits of the reference's
    log-probabilities, float32 [pairs, 2] (zeros where there are none).

    Args:
        data_dir: the folder; every byte is hashed against its manifest.
        split: ``train`` or ``val``.
        seed: of the packing.
        check: hash the files; False where this process, or another of this machine, has just done so.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete, damaged, or its files do not fit its manifest.
    """

    def __init__(self, data_dir: Path, split: Split, *, seed: int = 0, check: bool = True) -> None:
        self.files = ConversationFiles(data_dir, PREFERENCES, split, script="02_prepare_dpo_corpus.py", check=check)
        self.path, self.split = data_dir, split
        self.name = data_dir.resolve().name
        self.manifest_sha256 = self.files.manifest_sha256
        self.tokenizer_sha256, self.template = self.files.tokenizer_sha256, self.files.template
        self.sequence_length, self.counts = self.files.sequence_length, self.files.counts
        self.held_out_by = self.files.held_out_by
        self.lengths: NDArray[np.int64] = self.files.lengths.reshape(-1, 2)  # of chosen and rejected
        self.reference: NDArray[np.float32] | None = None  # log-probabilities of chosen and rejected
        self._rows: list[Row] = pack_lengths(self.lengths.max(1), self.sequence_length + 1, seed)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (LINES, 3, self.sequence_length + 1)

    @property
    def tokens_per_row(self) -> int:
        return LINES * self.sequence_length

    def documents_per_row(self) -> int:
        """Return how many pairs stand in a row at most; a line holds one side of each."""
        return max(map(len, self._rows))

    def pairs_in(self, row: int) -> list[int]:
        """Return the pairs that stand in a row, in their order."""
        found: list[int] = self._rows[row].tolist()
        return found

    def rows(self, indices: NDArray[np.int64]) -> Tokens:
        """Return rows, uint16 [len(indices), 2, 3, sequence_length + 1]; what is left over is padding."""
        out = np.zeros((len(indices), *self.row_shape), dtype=np.uint16)
        out[:, :, TOKENS] = PAD_ID
        for row, index in zip(out, np.asarray(indices).tolist(), strict=True):
            pairs = self.pairs_in(index)
            filled = [0, 0]
            for number, pair in enumerate(pairs):
                sides = [self.files[2 * pair], self.files[2 * pair + 1]]
                longer = int(len(sides[1].ids) > len(sides[0].ids))
                line_of_longer = int(filled[1] < filled[0])
                for side, rendered in enumerate(sides):
                    line = line_of_longer if side == longer else 1 - line_of_longer
                    here = slice(filled[line], filled[line] + len(rendered.ids))
                    row[line, TOKENS, here] = rendered.ids
                    row[line, SIDES, here] = rendered.loss * np.uint16(2 * number + side + 1)
                    filled[line] = here.stop
            if self.reference is not None:
                bits = np.ascontiguousarray(self.reference[pairs]).view(np.uint16).ravel()
                row[0, REFERENCE, : len(bits)] = bits
        return out

    def require_unchanged(self) -> None:
        """Check that the open files are still those that were hashed.

        Raises:
            IntegrityError: one was written to.
        """
        self.files.require_unchanged()
