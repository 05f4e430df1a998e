"""A document, the one currency of the corpus stage, and the shards it is kept in."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumi.artifacts import verify
from lumi.corpus.compression import open_any
from lumi.errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its origin; ``id`` is made of the text's own sha256."""

    id: str
    text: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """Return the document as a line of a shard; ValueError or TypeError where ``metadata`` are not JSON."""
        record = {"id": self.id, "text": self.text, "source": self.source, "metadata": self.metadata}
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Document":
        """Return the document that a line of a shard holds."""
        return cls(**json.loads(line))


def read_shard(path: Path) -> Iterator[Document]:
    """Yield the documents of one ``.jsonl.zst`` shard."""
    with open_any(path) as file:
        for line in file:
            yield Document.from_line(line)


def read_shard_lines(path: Path, chunk_bytes: int) -> Iterator[list[bytes]]:
    """Yield the lines of a shard in lists of about this size, for workers that parse them."""
    with open_any(path) as file:
        while lines := file.readlines(chunk_bytes):
            yield lines


def read_documents(corpus_dir: Path) -> Iterator[Document]:
    """Yield all documents of a corpus, after hashing every file of it.

    Raises:
        DataError: no such corpus.
        IntegrityError: incomplete or damaged.
    """
    if not corpus_dir.is_dir():
        raise DataError(f"no corpus at {corpus_dir}", "prepare it first (scripts/01_prepare_corpus.py)")
    manifest = verify(
        corpus_dir, "corpus", f"prepare it again: scripts/01_prepare_corpus.py ... --output_dir {corpus_dir}"
    )
    for out in manifest.files(prefix="shard_", suffix=".jsonl.zst"):
        yield from read_shard(corpus_dir / out.file)
