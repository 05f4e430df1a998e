"""What a corpus is made from and how: sources, cleaning, rules."""

import multiprocessing
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.config import Config, FileOnly


class SourceConfig(Config):
    """One origin of text, with its licence."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """Written into each document, and the name of its file of rejected rows; unique in a corpus."""
    kind: Literal["package", "text", "jsonl", "parquet", "synthetic"]
    """package: the embedded text; text: plain files; jsonl: one JSON object per line (plain, .gz, .xz, .zst);
    parquet; synthetic: seeded grammar text."""
    files: tuple[str, ...] = ()
    """Paths, folders or globs (text, jsonl, parquet)."""
    text_field: str = "text"
    """Key or column of the text."""
    separator: str | None = Field(default=None, min_length=1)
    """text: documents are split at this string; default: a file is one document."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Stop after about this much kept text (UTF-8); required for synthetic."""
    drop_where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Drop documents whose metadata have one of these values, e.g. {"title": ["IRONCLAD WARSHIP"]}."""
    drop_lines_with: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Drop lines in which one of these strings stands."""
    seed: int = 0
    """synthetic: names the text."""
    licence: str = Field(min_length=1)
    """As the source states it."""
    citation: str = ""
    """Where it comes from."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind in ("text", "jsonl", "parquet") and not self.files:
            raise ValueError(f"source {self.name}: files is missing for kind {self.kind}")
        if self.kind == "synthetic" and self.max_bytes is None:
            raise ValueError(f"source {self.name}: max_bytes is missing for kind synthetic")
        return self


class CorpusConfig(Config):
    """Turn raw text into a clean corpus: read, clean, judge, drop exact duplicates, write shards and a card."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"description", "output_dir", "num_workers", "engine", "ray_address", "fresh"}
    )

    description: str = ""
    """What this corpus is for; stands in its card."""
    name: str = Field(min_length=1)
    """Name of the corpus."""
    sources: Annotated[tuple[SourceConfig, ...], FileOnly] = Field(min_length=1)
    """Read in this order."""
    min_characters: int = Field(default=1, gt=0)
    """Shorter documents are dropped."""
    max_characters: int = Field(default=20_000_000, gt=0)
    """Longer documents are dropped."""
    shard_bytes: int = Field(default=64_000_000, gt=0)
    """Text in one shard, about; as much is in memory, and is lost by an interruption."""
    output_dir: Path
    """Where the corpus goes."""
    num_workers: int = Field(default_factory=multiprocessing.cpu_count, gt=0)
    """Processes that parse and clean; does not change the result."""
    engine: Literal["native", "ray"] = "native"
    """native: processes on this machine; ray: a Ray cluster. The result is the same, byte for byte."""
    ray_address: str | None = None
    """ray: the running cluster (auto, HOST:PORT); default: one is started on this machine."""
    fresh: bool = False
    """Build anew although the output is there; it is replaced at the very end."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources have the name {twice[0]}: rows are counted by it")
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters {self.min_characters} is above max_characters {self.max_characters}")
        return self
