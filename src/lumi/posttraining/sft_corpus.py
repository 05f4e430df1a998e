"""Stage 1 of SFT: data sets of conversations in, conversations as ids and loss mask out.

1. sources -> corpus stage, with conversations judged in the place of texts -> data/corpus/sft/NAME
2. its shards --(workers: render with template and tokenizer, cut behind the last whole answer that fits, split)-->
   train_00000.tokens.npy (uint16 [tokens, 2]: id, bears loss), train_00000.starts.npy, val_...

A conversation's split depends on its first question alone, so that the same question is never in both.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumi.artifacts import Manifest, OutputFile, Workspace, artifact_input, package_versions, verify
from lumi.config import Config
from lumi.conversation import Rendered, find_template, render
from lumi.corpus import Document, prepare_corpus, read_shard_lines
from lumi.data.dataset import Split
from lumi.errors import DataError
from lumi.posttraining.conversations import ConversationsConfig, conversation_outcomes, messages_in, normal
from lumi.posttraining.sft_card import Shown, write_sft_card
from lumi.posttraining.sft_dataset import CONVERSATIONS
from lumi.progress import progress, say
from lumi.randomness import unit_interval
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.workers import WorkerPool

SPLITS: tuple[Split, ...] = ("train", "val")
_CHUNK_BYTES = 1_000_000
_BYTES_WORTH_A_WORKER = 10_000_000


class SftCorpusConfig(ConversationsConfig):
    """Prepare conversations for SFT: read, check, clean, deduplicate, decontaminate, render, split."""

    not_identity: ClassVar[frozenset[str]] = ConversationsConfig.not_identity | {"corpus_dir", "tokenizer_path"}

    template: str = "chatml"
    """How conversations are written down: chatml, instruct, chat or alpaca (docs/templates.md)."""
    tokenizer_path: Path = Path("data/tokenizer")
    """The frozen tokenizer: its folder or its .model file."""
    sequence_length: int = Field(default=1024, gt=1, le=1 << 20)
    """A conversation is cut behind the last whole answer within this many tokens; one without any is dropped."""
    val_fraction: float = Field(default=0.02, gt=0, lt=1)
    """Share of conversations held out, chosen by the hash of their first question."""
    seed: int = Field(default=0, ge=0)
    """Names the choice of held-out conversations."""
    corpus_dir: Path | None = None
    """Where the conversations as text go; default: data/corpus/sft/NAME."""

    def corpus(self) -> ConversationsConfig:
        """Return the part of it that knows neither tokenizer nor template."""
        values = {name: getattr(self, name) for name in ConversationsConfig.model_fields}
        return ConversationsConfig(**{**values, "output_dir": self.corpus_dir or Path("data/corpus/sft") / self.name})


class _RenderConfig(Config):
    """What decides ids and loss mask, beside corpus and tokenizer."""

    template: dict[str, Any]
    sequence_length: int
    val_fraction: float
    seed: int


def prepare_sft_corpus(config: SftCorpusConfig) -> Manifest:
    """Prepare conversations, or find them prepared.

    Raises:
        ConfigError: no such template.
        TokenizerMissing: there is no tokenizer.
        DataError: a source without one usable row; nothing is left; a split without a conversation.
        IntegrityError: something is damaged; an output folder holds something else.
    """
    template = find_template(config.template)
    tokenizer = Tokenizer.load(config.tokenizer_path)
    corpus_config = config.corpus()
    prepare_corpus(corpus_config, conversation_outcomes)
    corpus_dir = corpus_config.output_dir
    corpus = verify(corpus_dir, "corpus", "pass --fresh to prepare it again")
    made = _RenderConfig(
        template=template.to_json(),
        sequence_length=config.sequence_length,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )
    inputs = [artifact_input(corpus_dir, config.output_dir), tokenizer.as_input(config.output_dir)]
    with Workspace(config.output_dir, CONVERSATIONS, made, inputs, fresh=config.fresh) as work:
        if (done := work.finished()) is not None:
            say(f"up to date: {config.output_dir}")
            return done
        work.open()
        outcome = _render_all(config, corpus_dir, corpus, work, tokenizer.sha256)
        counts: dict[str, Any] = {
            "tokenizer_sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "template": template.to_json(),
            "too_long": outcome.too_long,
            "shortened": outcome.shortened,
            **{split: outcome.summary(split) for split in SPLITS},
        }
        _require_both(config, outcome)
        for file in write_sft_card(work.path, config, corpus, counts, outcome.lengths, outcome.shown, tokenizer):
            work.record(file)
        manifest = work.publish(counts=counts, versions=package_versions("sentencepiece", "kitoken", "numpy"))
    train, val = counts["train"], counts["val"]
    say(
        f"conversations: {config.output_dir}, {train['conversations']:,} for training ({train['tokens']:,} tokens,"
        f" {train['loss_tokens']:,} of answers), {val['conversations']:,} held out"
    )
    return manifest


def _require_both(config: SftCorpusConfig, outcome: "_Outcome") -> None:
    for split in SPLITS:
        if not outcome.conversations[split]:
            raise DataError(
                f"the {split} split is empty: {config.val_fraction:.1%} of the conversations are held out, and"
                f" {outcome.too_long:,} did not fit into {config.sequence_length} tokens",
                "use another --val_fraction, a larger --sequence_length, or more data",
            )


@dataclass
class _Outcome:
    """What rendering found, over all shards."""

    conversations: Counter[str] = field(default_factory=Counter)  # by split, as the others
    tokens: Counter[str] = field(default_factory=Counter)
    loss_tokens: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)  # of all conversations, in tokens
    too_long: int = 0
    shortened: int = 0
    shown: list[Shown] = field(default_factory=list)

    def summary(self, split: Split) -> dict[str, int]:
        names = ("conversations", "tokens", "loss_tokens", "answers")
        return {name: getattr(self, name)[split] for name in names}


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some conversations, rendered, in their order."""

    split: dict[Split, list[Rendered]]
    too_long: int
    shortened: int
    shown: Shown | None


def _render_all(
    config: SftCorpusConfig, corpus_dir: Path, corpus: Manifest, work: Workspace, tokenizer_sha256: str
) -> _Outcome:
    """Render every shard of the corpus; those that an interrupted run finished are rendered again, they are quick."""
    outcome = _Outcome()
    shards = corpus.files(prefix="shard_", suffix=".jsonl.zst")
    with progress(f"render {config.name}", total=corpus.counts["documents"], unit="conversations") as bar:
        for number, shard in enumerate(shards):
            rendered: dict[Split, list[Rendered]] = {split: [] for split in SPLITS}
            for chunk in _chunks(config, corpus_dir, shard, tokenizer_sha256):
                for split in SPLITS:
                    rendered[split] += chunk.split[split]
                outcome.too_long += chunk.too_long
                outcome.shortened += chunk.shortened
                if chunk.shown and not outcome.shown:
                    outcome.shown.append(chunk.shown)
                bar.advance(sum(map(len, chunk.split.values())) + chunk.too_long)
            for split in SPLITS:
                _save(work, f"{split}_{number:05d}", rendered[split])
                _count(outcome, split, rendered[split])
    return outcome


def _save(work: Workspace, name: str, rendered: list[Rendered]) -> None:
    starts = np.cumsum([0, *(len(one.ids) for one in rendered)], dtype=np.int64)
    tokens = np.empty((int(starts[-1]), 2), dtype=np.uint16)
    for one, start in zip(rendered, starts, strict=False):
        here = slice(int(start), int(start) + len(one.ids))
        tokens[here, 0], tokens[here, 1] = one.ids, one.loss
    np.save(work.path / f"{name}.tokens.npy", tokens)
    np.save(work.path / f"{name}.starts.npy", starts)
    work.record(f"{name}.tokens.npy", rows=len(tokens))
    work.record(f"{name}.starts.npy", rows=len(starts))


def _count(outcome: _Outcome, split: Split, rendered: list[Rendered]) -> None:
    outcome.conversations[split] += len(rendered)
    outcome.tokens[split] += sum(len(one.ids) for one in rendered)
    outcome.loss_tokens[split] += sum(int(one.loss.sum()) for one in rendered)
    outcome.answers[split] += sum(len(one.ends) for one in rendered)
    outcome.lengths.append(np.array([len(one.ids) for one in rendered], dtype=np.int64))


def _chunks(config: SftCorpusConfig, corpus_dir: Path, shard: OutputFile, tokenizer_sha256: str) -> Iterator[_Chunk]:
    work_on = partial(_render_chunk, config=config, tokenizer_sha256=tokenizer_sha256)
    chunks = read_shard_lines(corpus_dir / shard.file, _CHUNK_BYTES)
    workers = min(config.num_workers, shard.bytes // (_BYTES_WORTH_A_WORKER // 4))  # compressed to about a quarter
    if workers <= 1:
        yield from map(work_on, chunks)
        return
    with WorkerPool(workers) as pool:
        yield from pool.imap(work_on, chunks)


def _render_chunk(lines: list[bytes], *, config: SftCorpusConfig, tokenizer_sha256: str) -> _Chunk:
    tokenizer = _tokenizer(config.tokenizer_path, tokenizer_sha256)
    template = find_template(config.template)
    split: dict[Split, list[Rendered]] = {name: [] for name in SPLITS}
    too_long = shortened = 0
    shown = None
    for line in lines:
        messages = messages_in(Document.from_line(line))
        whole = render(messages, template, tokenizer)
        fitting = whole.shortened(config.sequence_length + 1)
        if not len(fitting.ids):
            too_long += 1
            continue
        shortened += len(fitting.ids) < len(whole.ids)
        first = next(message.content for message in messages if message.role == "user")
        held_out = unit_interval(config.seed, "held out", normal(first).encode()) < config.val_fraction
        split["val" if held_out else "train"].append(fitting)
        shown = shown or Shown(fitting.ids.tolist(), fitting.loss.tolist())
    return _Chunk(split, too_long, shortened, shown)


@cache
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    """Load a tokenizer once a process; the sha256 keeps a later one at the same path apart."""
    tokenizer = Tokenizer.load(path)
    require_same_tokenizer(sha256, tokenizer.sha256, str(path))
    return tokenizer
