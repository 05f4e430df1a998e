"""Training the tokenizer, once: byte-fallback BPE by SentencePiece, then frozen.

corpus -> a deterministic sample -> lines -> SentencePiece -> NAME.model, transformers' files, card
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lumi.artifacts import Manifest, Workspace, artifact_input, package_versions
from lumi.config import Config
from lumi.corpus import read_documents
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.progress import progress, say
from lumi.randomness import unit_interval
from lumi.tokenizer.ids import BOS_ID, CONTROL_SYMBOLS, EOS_ID, PAD_ID, UNK_ID
from lumi.tokenizer.report import measure, write_card
from lumi.tokenizer.tokenizer import TOKENIZER, TRANSFORMERS_FILES, Tokenizer

_LONGEST_LINE = 1 << 20  # bytes; SentencePiece drops longer sentences without a word


class TokenizerConfig(Config):
    """Train the one tokenizer that everything later uses."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"description", "corpus_dirs", "output_dir", "fresh"})

    description: str = ""
    """What this tokenizer is for."""
    corpus_dirs: tuple[Path, ...] = Field(min_length=1)
    """Corpora to learn from (01_prepare_corpus.py)."""
    output_dir: Path = Path("data/tokenizer")
    """Where the tokenizer goes."""
    name: str = Field(default="spm32k", pattern=r"[A-Za-z0-9_-]+")
    """The model's file is NAME.model."""
    vocab_size: int = Field(default=32768, ge=300, le=65536)
    """Pieces, the control symbols and the 256 bytes included."""
    max_bytes: int = Field(default=500_000_000, gt=0)
    """Learn from about this much text, taken from the corpora by their sizes."""
    character_coverage: float = Field(default=0.9995, gt=0.9, le=1)
    """Share of characters that get a piece of their own; the rest is spelled in bytes."""
    fresh: bool = False
    """Replace the tokenizer; everything made with the old one then has to be made again."""


def train_tokenizer(config: TokenizerConfig) -> Manifest:
    """Train the tokenizer, or find it trained.

    Raises:
        IntegrityError: another tokenizer stands there (it is frozen), or a corpus is damaged.
        DataError: the text does not support the vocabulary.
    """
    inputs = [artifact_input(_existing(path), config.output_dir) for path in config.corpus_dirs]
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
    """Yield documents: all of them, or those whose content hash falls under the share that is wanted."""
    from lumi.artifacts import read_manifest

    sizes = [read_manifest(path, "corpus", "prepare it again").counts["bytes"] for path in config.corpus_dirs]
    share = min(1.0, config.max_bytes / max(1, sum(sizes)))
    with progress("tokenizer: reading", total=sum(sizes) * share, unit="MB", scale=1e6) as bar:
        for path in config.corpus_dirs:
            for document in read_documents(path):
                data = document.text.encode()
                if share == 1.0 or unit_interval(0, "tokenizer sample", data) < share:
                    bar.advance(len(data))
                    yield document.text


def _lines(documents: list[str]) -> Iterator[str]:
    for text in documents:
        for line in text.split("\n"):
            for start in range(0, len(line), _LONGEST_LINE // 4):
                yield line[start : start + _LONGEST_LINE // 4]


def _train(config: TokenizerConfig, documents: list[str]) -> bytes:
    from sentencepiece import SentencePieceTrainer

    if not any(documents):
        raise DataError("there is no text to learn a tokenizer from", "prepare a corpus with documents in it")
    say(f"tokenizer: training {config.vocab_size} pieces on {len(documents):,} documents")
    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(documents),
            model_writer=written,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            # a newline is a piece of its own, not the byte <0x0A>; lines are what the trainer sees
            user_defined_symbols=["\n"],
            control_symbols=list(CONTROL_SYMBOLS[3:]),
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            pad_piece="<pad>",
            max_sentence_length=_LONGEST_LINE,
            num_threads=1,  # the result must not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        if "ocab" in str(error):  # "Vocabulary size is too high ... Please set it to a value <= N", or its BPE cousin
            raise ConfigError(
                f"vocab_size {config.vocab_size} is larger than the text supports: {str(error).rsplit(chr(10), 1)[-1]}",
                "use a smaller --vocab_size, or more text",
            ) from None
        raise
    return written.getvalue()


def write_transformers_files(folder: Path, model: bytes) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` beside a SentencePiece model.

    transformers gives the same ids as we do when called with ``split_special_tokens=True``.
    """
    import tempfile

    from transformers import AutoTokenizer

    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "tokenizer.model").write_bytes(model)
        (Path(scratch) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf8")
        AutoTokenizer.from_pretrained(scratch).save_pretrained(scratch)
        (folder / "tokenizer.json").write_bytes((Path(scratch) / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf8")
