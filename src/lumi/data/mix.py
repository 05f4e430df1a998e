"""A training mix: the data sets of one run, each with its exact share of the run's token budget.

corpus configs --> corpora, as much text as the share needs --> packed data sets of exactly the share's tokens
"""

from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from lumi.artifacts import Manifest
from lumi.config import Config, FileOnly
from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.data.packing import PackConfig, pack_dataset
from lumi.progress import say
from lumi.tokenizer import Tokenizer


class MixPart(Config):
    """One data set of a mix."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """Name of its corpus; the packed data set's name says vocabulary and sequence length too."""
    corpus: Path
    """Config of the corpus stage."""
    weight: float = Field(gt=0)
    """Share of the tokens, against the other parts' weights."""


class MixConfig(Config):
    """Prepare the corpora of a training run and pack exactly its token budget of them."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"description"})

    description: str = ""
    """What this mix is for."""
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """Name of its folders below data/corpus and data/processed."""
    token_budget: int = Field(gt=0)
    """Tokens of all parts together."""
    parts: Annotated[tuple[MixPart, ...], FileOnly] = Field(min_length=1)
    """Its data sets."""
    bytes_per_token: float = Field(default=5.0, gt=0)
    """Text that is prepared for each token; English has 4 to 4.5, the rest is for duplicates and held-out text."""
    sequence_length: int = Field(default=1024, gt=1)
    """Targets in a row."""
    val_fraction: float = Field(default=0.005, gt=0, lt=1)
    """Share of documents held out."""
    tokenizer_path: Path = Path("data/tokenizer")
    """The frozen tokenizer."""
    data_dir: Path = Path("data")
    """Everything is written below its folders corpus/ and processed/."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [part.name for part in self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two parts have the name {twice[0]}")
        return self

    @property
    def shares(self) -> list[int]:
        """Tokens of each part: their sum is the budget, and none is off its weight by a token."""
        weights = [Fraction(str(part.weight)) for part in self.parts]
        exact = [self.token_budget * weight / sum(weights) for weight in weights]
        shares = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda part: (shares[part] - exact[part], part))
        for part in by_remainder[: self.token_budget - sum(shares)]:
            shares[part] += 1
        return shares


def prepare_mix(config: MixConfig) -> list[Manifest]:
    """Prepare and pack every part of a mix; what is done already is found done.

    Raises:
        TokenizerMissing: there is no tokenizer.
        DataError: as the corpus stage and packing.
    """
    vocabulary = Tokenizer.load(config.tokenizer_path).vocab_size
    manifests, folders = [], []
    for part, share in zip(config.parts, config.shares, strict=True):
        corpus_dir = config.data_dir / "corpus" / config.name / part.name
        corpus = CorpusConfig.load(part.corpus, output_dir=str(corpus_dir))
        prepare_corpus(corpus.within(round(share * config.bytes_per_token)))
        shape = f"{vocabulary >> 10}k_{config.sequence_length}"
        packing = PackConfig(
            corpus_dir=corpus_dir,
            tokenizer_path=config.tokenizer_path,
            output_dir=config.data_dir / "processed" / config.name / f"{part.name}_{shape}",
            sequence_length=config.sequence_length,
            val_fraction=config.val_fraction,
            max_tokens=share,
        )
        manifests.append(pack_dataset(packing))
        folders.append(packing.output_dir)
        if (found := manifests[-1].counts["train"]["tokens"]) < share:
            say(f"{part.name} has {found:,} of its {share:,} tokens: training will see it {share / found:.1f} times")
    weights = " ".join(f"{part.weight:g}" for part in config.parts)
    say(f"train on it: --data_dirs {' '.join(map(str, folders))} --data_weights {weights}")
    return manifests
