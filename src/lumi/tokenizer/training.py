"""Training the tokenizer, once: byte-fallback BPE by SentencePiece, then frozen.

corpora -> a sample by content hash -> parts of documents -> SentencePiece -> NAME.model, transformers' files, card
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from lumi.artifacts import Manifest, Workspace, artifact_input, package_versions, read_manifest
from lumi.config import Config, FileOnly
from lumi.corpus import CorpusConfig, prepare_corpus, read_documents
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.progress import progress, say
from lumi.randomness import unit_interval
from lumi.tokenizer.ids import BOS_ID, CONTROL_SYMBOLS, EOS_ID, PAD_ID, UNK_ID
from lumi.tokenizer.report import measure, write_card
from lumi.tokenizer.sentencepiece_process import TrainerError, train_sentencepiece
from lumi.tokenizer.tokenizer import TOKENIZER, Tokenizer
from lumi.tokenizer.transformers_files import TRANSFORMERS_FILES, write_transformers_files

_PART_CHARACTERS = 1 << 16  # what the trainer gets at once
_BORDER = "\ufdd0"  # no piece crosses it: a character of Unicode that is none
_LINE_START = re.compile(r"(?<=\n)(?!\n)")
_LONGEST_SENTENCE = 4 * _PART_CHARACTERS  # bytes; SentencePiece drops longer ones without a word


class SampleConfig(Config):
    """A corpus that is prepared to learn the tokenizer from."""

    corpus: Path
    """Config of the corpus stage."""
    output_dir: Path
    """Where the sample goes."""
    max_bytes: int = Field(gt=0)
    """About this much text of it."""


class TokenizerConfig(Config):
    """Train the one tokenizer that everything later uses."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"description", "samples", "corpus_dirs", "output_dir", "fresh"}  # corpora count by their contents
    )

    description: str = ""
    """What this tokenizer is for."""
    samples: Annotated[tuple[SampleConfig, ...], FileOnly] = ()
    """Corpora to learn from, prepared first."""
    corpus_dirs: tuple[Path, ...] = ()
    """Corpora to learn from that are there already (01_prepare_corpus.py)."""
    output_dir: Path = Path("data/tokenizer")
    """Where the tokenizer goes."""
    name: str = Field(default="spm32k", pattern=r"^[A-Za-z0-9_-]+$")
    """The model's file is NAME.model."""
    vocab_size: int = Field(default=32768, ge=300, le=65536)
    """Pieces, the control symbols and the 256 bytes included."""
    max_bytes: int = Field(default=500_000_000, gt=0)
    """Learn from about this much text in all; less where a corpus is too small for its weight."""
    corpus_weights: tuple[float, ...] | None = None
    """Share of the text that each corpus gives, samples first, then corpus_dirs; default: their sizes."""
    character_coverage: float = Field(default=0.9995, ge=0.98, le=1)
    """Share of characters that get a piece of their own; the rest is spelled in bytes."""
    fresh: bool = False
    """Replace the tokenizer; everything made with the old one then has to be made again."""

    @property
    def corpora(self) -> tuple[Path, ...]:
        """All corpora to learn from."""
        return (*(sample.output_dir for sample in self.samples), *self.corpus_dirs)

    @model_validator(mode="after")
    def _corpora_and_a_weight_for_each(self) -> Self:
        if not self.corpora:
            raise ValueError("corpus_dirs is missing (or samples): there is nothing to learn from")
        weights = self.corpus_weights
        if weights is not None and (len(weights) != len(self.corpora) or min(weights) <= 0):
            raise ValueError("corpus_weights needs one number above zero per corpus, in their order")
        return self


def train_tokenizer(config: TokenizerConfig) -> Manifest:
    """Train the tokenizer, or find it trained.

    Raises:
        IntegrityError: another tokenizer stands there (it is frozen), or a corpus is damaged.
        DataError: the text does not support the vocabulary.
    """
    for sample in config.samples:
        corpus = CorpusConfig.load(sample.corpus, output_dir=str(sample.output_dir))
        prepare_corpus(corpus.within(sample.max_bytes))
    inputs = [artifact_input(_existing(path), config.output_dir) for path in config.corpora]
    with Workspace(config.output_dir, TOKENIZER, config, inputs, fresh=config.fresh) as work:
        try:
            done = work.finished()
        except IntegrityError as error:
            raise IntegrityError(
                f"the tokenizer is frozen: {error.fact}",
                f"use the one in {config.output_dir}, or delete it on purpose (make tokenizer-reset)",
            ) from None
        if done is not None:
            say(f"up to date: {config.output_dir}")
            return done
        work.open()
        documents = list(_sample(config))
        model = _train(config, documents)
        file = f"{config.name}.model"
        (work.path / file).write_bytes(model)
        write_transformers_files(work.path, model)
        tokenizer = Tokenizer(model, work.path, work.path / file)
        report = measure(tokenizer, documents)
        (work.path / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf8")
        write_card(work.path / "TOKENIZER_CARD.md", config.name, tokenizer, report)
        for name in (file, *TRANSFORMERS_FILES, "report.json", "TOKENIZER_CARD.md"):
            work.record(name)
        counts = {"sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size, **report}
        manifest = work.publish(counts=counts, versions=package_versions("sentencepiece", "transformers"))
    say(f"tokenizer: {config.output_dir / file}, {tokenizer.vocab_size} pieces, sha256 {tokenizer.sha256}")
    return manifest


def _existing(path: Path) -> Path:
    if not (path / "manifest.json").is_file():
        raise DataError(f"no finished corpus at {path}", "prepare it first (scripts/01_prepare_corpus.py)")
    return path


def _sample(config: TokenizerConfig) -> Iterator[str]:
    """Yield documents: all of them, or those whose content hash falls under the share wanted of their corpus."""
    sizes = [read_manifest(path, "corpus", "prepare it again").counts["bytes"] for path in config.corpora]
    weights = config.corpus_weights or [max(1, size) for size in sizes]
    per_weight = min(config.max_bytes / sum(weights), *(size / w for size, w in zip(sizes, weights, strict=True)))
    wanted = [per_weight * weight for weight in weights]
    with progress("tokenizer: reading", total=sum(wanted), unit="MB", scale=1e6) as bar:
        for path, size, share in zip(config.corpora, sizes, wanted, strict=True):
            for document in read_documents(path):
                data = document.text.encode()
                if share >= size or unit_interval(0, "tokenizer sample", data) < share / size:
                    bar.advance(len(data))
                    yield document.text


def _parts(documents: list[str]) -> Iterator[str]:
    """Yield the text in parts that the trainer takes, newlines within: they then join into pieces as they occur.

    Pieces such as two newlines, or a full stop and a newline, save 2 % of the tokens of prose and 7 % of code
    against a newline that stands alone. No piece goes on behind a newline: what a template writes before an answer
    ends with one, and is then encoded alike with the answer and without (`lumi.conversation`).
    """
    for text in documents:
        text = text.replace("\u2585", "").replace(_BORDER, "")  # the trainer's own mark: it skips whatever holds one
        text = _LINE_START.sub(_BORDER, text)
        for start in range(0, len(text), _PART_CHARACTERS):
            yield text[start : start + _PART_CHARACTERS]


def _train(config: TokenizerConfig, documents: list[str]) -> bytes:
    if not any(documents):
        raise DataError("there is no text to learn a tokenizer from", "prepare a corpus with documents in it")
    settings = {
        "model_type": "bpe",
        "vocab_size": config.vocab_size,
        "character_coverage": config.character_coverage,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "pretokenization_delimiter": _BORDER,
        "required_chars": "\n",  # a piece in any case, never the byte <0x0A>
        "control_symbols": list(CONTROL_SYMBOLS[3:]),
        "unk_id": UNK_ID,
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "pad_id": PAD_ID,
        "pad_piece": "<pad>",
        "max_sentence_length": _LONGEST_SENTENCE,
        "num_threads": 1,  # the result must not depend on the machine
    }
    try:
        return train_sentencepiece(_parts(documents), settings)
    except TrainerError as error:
        if found := re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", str(error)):
            raise ConfigError(
                f"vocab_size {config.vocab_size} is larger than the text supports; it supports {found[1]}",
                f"use --vocab_size {found[1]} or less, or more text",
            ) from None
        if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            raise ConfigError(
                f"vocab_size {config.vocab_size} does not hold the bytes and characters of the text: {found[1]} pieces",
                f"use more than --vocab_size {found[1]}, or a smaller --character_coverage",
            ) from None
        raise DataError(
            f"SentencePiece could not train a tokenizer: {error}", "use a smaller --max_bytes, or another text"
        ) from None
