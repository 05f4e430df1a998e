"""What a corpus is made from and how: sources, cleaning, rules, decontamination, near-dedup."""

import multiprocessing
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.config import Config, FileOnly
from lumi.corpus.cleaning import CleaningConfig
from lumi.corpus.contamination import DecontaminationConfig
from lumi.corpus.embedded import PackageName
from lumi.corpus.near_duplicates import NearDuplicatesConfig
from lumi.corpus.quality import QualityConfig


class SourceConfig(Config):
    """One origin of text, with its licence."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """Written into each document, and the name of its file of rejected rows; unique in a corpus."""
    kind: Literal["package", "text", "jsonl", "parquet", "hub", "synthetic"]
    """package: the embedded text; text: plain files; jsonl: one JSON object per line, or an array of them (plain,
    .gz, .xz, .zst); parquet; hub: a Hugging Face data set, streamed; synthetic: seeded grammar text."""
    package: PackageName = "texts"
    """package, synthetic: which part (see `lumi.corpus.embedded`)."""
    files: tuple[str, ...] = ()
    """Paths, folders or globs (text, jsonl, parquet). hub: where a copy is looked for first, of whatever form."""
    dataset: str | None = Field(default=None, min_length=1)
    """hub: name of the data set, e.g. wikimedia/wikipedia, or a local folder in the layout of one."""
    subset: str | None = None
    """hub: its configuration, e.g. 20231101.en."""
    split: str = "train"
    """hub: its split."""
    revision: str = "main"
    """hub: branch, tag or commit; which commit it was stands in the manifest."""
    text_field: str = "text"
    """Key or column of the text."""
    separator: str | None = Field(default=None, min_length=1)
    """text: documents are split at this string; default: a file is one document."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Stop after about this much text (UTF-8) that the rules keep, before dedup; required for synthetic."""
    group_by: str | None = None
    """Rows in a row that have the same value under this key become one, as a tree of messages (OASST1)."""
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

    @property
    def layout(self) -> str:
        """What of a row is read, for messages."""
        return f"text_field ({self.text_field!r})"

    def wants_column(self, name: str, kind: Any) -> bool:
        """Say whether a column of a hub data set is read: the text, and what holds one value a row.

        Args:
            name: of the column.
            kind: its type in Arrow.
        """
        from pyarrow import types

        single = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating,
                  types.is_temporal)  # fmt: skip
        return name == self.text_field or any(is_(kind) for is_ in single)

    def missing_column(self, columns: Collection[str]) -> str | None:
        """Return the column that a hub data set lacks, or None."""
        return None if self.text_field in columns else self.text_field

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind in ("text", "jsonl", "parquet") and not self.files:
            raise ValueError(f"source {self.name}: files is missing for kind {self.kind}")
        if self.kind == "synthetic" and self.max_bytes is None:
            raise ValueError(f"source {self.name}: max_bytes is missing for kind synthetic")
        if self.kind == "synthetic" and self.package == "questions":
            raise ValueError(f"source {self.name}: kind synthetic has texts, conversations and preferences")
        if self.kind == "hub" and self.dataset is None:
            raise ValueError(f"source {self.name}: dataset is missing for kind hub")
        if self.kind != "hub" and self.dataset is not None:
            raise ValueError(f"source {self.name}: dataset is for kind hub, this source is of kind {self.kind}")
        return self


class CorpusConfig(Config):
    """Turn raw text into a clean corpus: read, clean, judge, decontaminate, deduplicate, write shards and a card."""

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
    cleaning: CleaningConfig = CleaningConfig()
    """What is mended in a text."""
    quality: QualityConfig = QualityConfig()
    """Which texts are not worth training on."""
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] = ()
    """Keep texts in these languages alone (ISO 639 codes as fastText has them, e.g. en); empty: all."""
    language_confidence: float = Field(default=0.65, ge=0, le=1)
    """With languages: the least confidence of the identification; FineWeb (arXiv:2406.17557) has 0.65."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What test sets have too is cut."""
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """Texts that are almost an earlier one go."""
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

    def within(self, max_bytes: int) -> Self:
        """Return the same corpus with no more than about this much text, an equal part from each source."""
        part = -(-max_bytes // len(self.sources))
        sources = [
            source.model_copy(update={"max_bytes": min(part, source.max_bytes or part)}) for source in self.sources
        ]
        return self.model_copy(update={"sources": tuple(sources)})
