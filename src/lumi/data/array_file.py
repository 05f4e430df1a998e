"""Open files of rows: read without loading, and watched for changes.

Rows are read from open files, not through a memory map: reading a file that somebody cuts short is then an error
with a name, where a map would end the process.
"""

import hashlib
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lumi.errors import IntegrityError

Tokens = NDArray[np.uint16]


@dataclass
class ArrayFile:
    """One open ``.npy`` file of uint16 rows, and what the file system said of it when its hash was checked."""

    path: Path
    handle: int
    offset: int  # bytes of the .npy header
    sha256: str
    way_out: str
    seen: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, sha256: str, shape: tuple[int, ...], way_out: str) -> Self:
        """Open a file that was hashed.

        Raises:
            IntegrityError: it does not hold rows of this shape.
        """
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.dtype != np.uint16 or mapped.shape != shape:
            raise IntegrityError(f"{path} holds {mapped.dtype} {mapped.shape}, expected uint16 {shape}", way_out)
        handle = os.open(path, os.O_RDONLY)
        file = cls(path, handle, mapped.offset, sha256, way_out, _stamp(handle))
        weakref.finalize(file, os.close, handle)
        return file

    def read(self, start: int, out: Tokens) -> None:
        """Fill ``out`` with the rows from ``start`` on."""
        into, at = out.data.cast("B"), self.offset + start * out.shape[1] * out.itemsize
        while into:  # one call reads at most 2 GiB
            read = os.preadv(self.handle, [into], at)
            if read == 0:
                raise self._changed("it has become shorter")
            into, at = into[read:], at + read

    def require_unchanged(self) -> None:
        """Check that the file is the one that was hashed; hashed again only where its times have changed."""
        stamp = _stamp(self.handle)
        if stamp == self.seen:
            return
        with open(self.handle, "rb", closefd=False) as file:
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                raise self._changed("its sha256 is another one")
        self.seen = stamp

    def _changed(self, how: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path} was changed while it was in use: {how}",
            f"{self.way_out}; then resume from a checkpoint older than the change",
        )


def _stamp(handle: int) -> tuple[int, ...]:
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
