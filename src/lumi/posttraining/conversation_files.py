"""Conversations on disk, as ids and loss mask.

SPLIT_00000.tokens.npy   uint16 [tokens, 2]: id, and 1 where it bears loss
SPLIT_00000.starts.npy   int64: where each conversation begins, and the end
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumi.artifacts import MANIFEST, Manifest, Workspace, read_manifest, sha256_file, verify
from lumi.conversation import Rendered, Template
from lumi.data.array_file import ArrayFile
from lumi.data.dataset import Split
from lumi.errors import DataError


class ConversationFiles:
    """One split of a folder of rendered conversations; nothing is loaded but those that are asked for.

    Args:
        folder: every byte is hashed against its manifest.
        kind: of the artifact.
        split: ``train`` or ``val``.
        script: what makes such a folder.
        check: hash the files; False where this process, or another of this machine, has just done so.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete, damaged, or its files do not fit its manifest.
    """

    def __init__(self, folder: Path, kind: str, split: Split, *, script: str, check: bool) -> None:
        if not folder.is_dir():
            raise DataError(f"no {kind} at {folder}", f"prepare them first (scripts/{script})")
        way_out = f"prepare them again: scripts/{script} ... --output_dir {folder} --fresh"
        read = verify if check else read_manifest
        manifest: Manifest = read(folder, kind, way_out)
        self.path = folder
        self.manifest_sha256 = sha256_file(folder / MANIFEST)
        self.tokenizer_sha256: str = manifest.counts["tokenizer_sha256"]
        self.template = Template.from_json(manifest.counts["template"])
        self.sequence_length: int = manifest.config["sequence_length"]
        self.held_out_by: tuple[float, int] = manifest.config["val_fraction"], manifest.config["seed"]
        self.counts: dict[str, Any] = manifest.counts[split]
        self._files = [
            ArrayFile.open(folder / out.file, out.sha256, (out.rows or 0, 2), way_out)
            for out in manifest.files(prefix=f"{split}_", suffix=".tokens.npy")
        ]
        starts = [
            np.load(folder / out.file, allow_pickle=False)
            for out in manifest.files(prefix=f"{split}_", suffix=".starts.npy")
        ]
        self._starts = np.concatenate([part[:-1] for part in starts])
        self._file_of = np.repeat(np.arange(len(starts)), [len(part) - 1 for part in starts])
        self.lengths: NDArray[np.int64] = np.concatenate([np.diff(part) for part in starts])

    def __getitem__(self, index: int) -> Rendered:
        tokens = np.empty((int(self.lengths[index]), 2), dtype=np.uint16)
        self._files[self._file_of[index]].read(int(self._starts[index]), tokens)
        return Rendered(tokens[:, 0], tokens[:, 1].astype(np.bool_), ())

    def require_unchanged(self) -> None:
        """Check that the open files are still those that were hashed.

        Raises:
            IntegrityError: one was written to.
        """
        for file in self._files:
            file.require_unchanged()


def write_conversations(work: Workspace, name: str, rendered: Sequence[Rendered]) -> None:
    """Write conversations as one part of a split, and record its files."""
    starts = np.cumsum([0, *(len(one.ids) for one in rendered)], dtype=np.int64)
    tokens = np.empty((int(starts[-1]), 2), dtype=np.uint16)
    for one, start in zip(rendered, starts, strict=False):
        here = slice(int(start), int(start) + len(one.ids))
        tokens[here, 0], tokens[here, 1] = one.ids, one.loss
    np.save(work.path / f"{name}.tokens.npy", tokens)
    np.save(work.path / f"{name}.starts.npy", starts)
    work.record(f"{name}.tokens.npy", rows=len(tokens))
    work.record(f"{name}.starts.npy", rows=len(starts))
