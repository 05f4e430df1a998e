"""Opening files whatever they are compressed with; a file that was cut off is an error, never a shorter file."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
_LARGEST_WINDOW = 1 << 31  # bytes; what `zstd --long=31` makes
_BLOCK = 1 << 20

OnRead = Callable[[int], None]


def ignore(_num_bytes: int) -> None:
    """Take no note of what was read."""


@contextmanager
def open_any(path: Path, on_read: OnRead = ignore) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by its suffix; reading raises one of `UNREADABLE` where it is damaged.

    Args:
        on_read: told how many bytes were read from disk, each time; so far a file has been used up.
    """
    with ExitStack() as stack:
        file: Any = stack.enter_context(io.BufferedReader(_CountedFile(path, on_read), _BLOCK))
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.open(file, "rb"))
        elif path.suffix == ".xz":
            file = stack.enter_context(lzma.open(file, "rb"))
        elif path.suffix == ".bz2":
            file = stack.enter_context(bz2.open(file, "rb"))
        elif path.suffix == ".zst":
            file = stack.enter_context(io.BufferedReader(_ZstdFile(file), _BLOCK))
        yield file


class _CountedFile(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, on_read: OnRead) -> None:
        super().__init__(path, "rb")
        self._on_read = on_read

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = super().readinto(buffer)
        self._on_read(count)
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self._on_read(len(data))
        return data


class _ZstdFile(io.RawIOBase):
    """All frames of a zstd file; unlike the library's own reader, it does not take a cut frame for an end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        self._begun = False  # whether the present frame has had input
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if self._frame.eof:
                rest = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
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
