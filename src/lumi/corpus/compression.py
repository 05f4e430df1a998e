"""Opening files whatever they are compressed with; a file that was cut off is an error, never a shorter file."""

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import IO

import zstandard

COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zstandard.ZstdError)


def open_any(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed by its suffix; reading raises one of `UNREADABLE` where it is damaged."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """All frames of a zstd file; unlike the library's own reader, it does not take a cut frame for an end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False  # whether the present frame has had input
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if self._frame.eof:
                rest = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._begun = False
            else:
                rest = b""
            data = rest or self._file.read(1 << 17)
            if not data:
                if self._begun:
                    raise EOFError("compressed file ended in the middle of a frame")
                return 0
            self._begun = True
            self._ready = self._frame.decompress(data)
        taken = self._ready[: len(buffer)]
        buffer[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)

    def close(self) -> None:
        self._file.close()
        super().close()
