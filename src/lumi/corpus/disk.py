"""Whether the disk can hold a corpus, asked before hours of work."""

import shutil
from pathlib import Path

from lumi.corpus.compression import COMPRESSED
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.sources import find_files
from lumi.errors import DataError

_UNPACKED = 3.0  # bytes of text in a byte of a compressed file, about
_STORED = 0.75  # bytes on disk for a byte of text: segments and shards, compressed, at the same time


def require_disk(config: CorpusConfig, partial: Path) -> None:
    """Raise where a corpus surely does not fit.

    Near-duplicate candidates take more while they are verified: 8 bytes for each of their words. How many there
    are shows only then, so that is not asked for here.

    Args:
        config: the corpus.
        partial: the folder it is made in; what an interrupted run has left there need not be written again.

    Raises:
        DataError: too little free disk.
    """
    folder = next(
        path for path in (config.output_dir.absolute(), *config.output_dir.absolute().parents) if path.exists()
    )
    needed = _STORED * sum(_text_bytes(source) for source in config.sources)
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()) if partial.is_dir() else 0
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise DataError(
            f"the corpus needs about {(needed - there) / 1e6:,.0f} MB more at {config.output_dir}, where"
            f" {free / 1e6:,.0f} MB are free",
            "make room, choose another --output_dir, or give the sources a smaller max_bytes",
        )


def _text_bytes(source: SourceConfig) -> float:
    """Return about how much text a source will bring."""
    if source.kind not in ("text", "jsonl", "parquet"):
        return source.max_bytes or 0
    size = sum(path.stat().st_size * _expansion(path, source) for path in find_files(source))
    return min(size, source.max_bytes or size)


def _expansion(path: Path, source: SourceConfig) -> float:
    return _UNPACKED if source.kind == "parquet" or path.suffix in COMPRESSED else 1.0
