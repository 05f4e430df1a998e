"""From conversations as text to ids and loss mask: what the data stages of SFT and DPO have in common.

    shards of the corpus --(workers: render with template and tokenizer, split by the first question)--> files

A conversation's split depends on its first question alone, so that the same question is never in both.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumi.artifacts import Manifest, OutputFile, Workspace
from lumi.config import Config
from lumi.conversation import Encoder, Message, Rendered, Template, find_template
from lumi.corpus import Document, read_shard_lines
from lumi.data.dataset import Split
from lumi.errors import DataError
from lumi.posttraining.conversation_files import write_conversations
from lumi.posttraining.conversations import MessagesConfig, messages_in, normal
from lumi.progress import progress
from lumi.randomness import unit_interval
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.workers import WorkerPool

SPLITS: tuple[Split, ...] = ("train", "val")
_CHUNK_BYTES = 1_000_000
_BYTES_WORTH_A_WORKER = 10_000_000


class RenderedConfig(MessagesConfig):
    """Messages prepared for one tokenizer and one template."""

    not_identity: ClassVar[frozenset[str]] = MessagesConfig.not_identity | {"corpus_dir", "tokenizer_path"}

    template: str = "chatml"
    """How conversations are written down: chatml, instruct, chat or alpaca (docs/templates.md)."""
    tokenizer_path: Path = Path("data/tokenizer")
    """The frozen tokenizer: its folder or its .model file."""
    sequence_length: int = Field(default=1024, gt=1, le=1 << 20)
    """Most tokens of a conversation."""
    val_fraction: float = Field(default=0.02, gt=0, lt=1)
    """Share of conversations held out, chosen by the hash of their first question."""
    seed: int = Field(default=0, ge=0)
    """Names the choice of held-out conversations."""
    corpus_dir: Path | None = None
    """Where the conversations as text go; default: a folder of data/corpus."""


class RenderingConfig(Config):
    """What decides ids and loss mask, beside corpus and tokenizer."""

    template: dict[str, Any]
    sequence_length: int
    val_fraction: float
    seed: int

    @classmethod
    def of(cls, config: RenderedConfig) -> "RenderingConfig":
        """Return that part of a config.

        Raises:
            ConfigError: no such template.
        """
        return cls(
            template=find_template(config.template).to_json(),
            sequence_length=config.sequence_length,
            val_fraction=config.val_fraction,
            seed=config.seed,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a document: conversations that belong together, or none and why."""

    conversations: Sequence[Rendered]
    remark: str = ""  # counted


Write = Callable[[Document, Template, Encoder, int], Written]  # the last: most tokens


@dataclass
class RenderOutcome:
    """What rendering found, over all shards; counted by split."""

    documents: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    loss_tokens: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, list[NDArray[np.int64]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    shown: list[Sequence[Rendered]] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)  # digests

    def is_new(self, document: Sequence[Rendered]) -> bool:
        """Return whether a document differs from all before; those that were cut may have become the same."""
        digest = hashlib.blake2b(b"".join(one.ids.tobytes() + b"|" for one in document), digest_size=16).digest()
        if digest in self.seen:
            self.remarks["same_after_cutting"] += 1
            return False
        self.seen.add(digest)
        return True

    def require_both(self, config: RenderedConfig) -> None:
        """Check that neither split is empty.

        Raises:
            DataError: one is.
        """
        for split in SPLITS:
            if not self.documents[split]:
                left_out = sum(self.remarks.values())
                raise DataError(
                    f"the {split} split is empty: {config.val_fraction:.1%} of the conversations are held out, and"
                    f" {left_out:,} did not fit into {config.sequence_length} tokens",
                    "use another --val_fraction, a larger --sequence_length, or more data",
                )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some documents, rendered, in their order."""

    split: dict[Split, list[Sequence[Rendered]]]
    remarks: Counter[str]


def render_corpus(
    config: RenderedConfig, write: Write, corpus_dir: Path, corpus: Manifest, work: Workspace, tokenizer_sha256: str
) -> RenderOutcome:
    """Render every shard of a corpus; those that an interrupted run finished are rendered again, they are quick."""
    outcome = RenderOutcome()
    shards = corpus.files(prefix="shard_", suffix=".jsonl.zst")
    with progress(f"render {config.name}", total=corpus.counts["documents"], unit="conversations") as bar:
        for number, shard in enumerate(shards):
            rendered: dict[Split, list[Rendered]] = {split: [] for split in SPLITS}
            for chunk in _chunks(config, write, corpus_dir, shard, tokenizer_sha256):
                for split, found in chunk.split.items():
                    documents = [one for one in found if outcome.is_new(one)]
                    rendered[split] += [one for document in documents for one in document]
                    outcome.documents[split] += len(documents)
                    bar.advance(len(found))
                    outcome.shown = outcome.shown or documents[:1]
                outcome.remarks += chunk.remarks
            for split in SPLITS:
                write_conversations(work, f"{split}_{number:05d}", rendered[split])
                _count(outcome, split, rendered[split])
    return outcome


def _count(outcome: RenderOutcome, split: Split, rendered: list[Rendered]) -> None:
    outcome.tokens[split] += sum(len(one.ids) for one in rendered)
    outcome.loss_tokens[split] += sum(int(one.loss.sum()) for one in rendered)
    outcome.answers[split] += sum(len(one.ends) for one in rendered)
    outcome.lengths[split].append(np.array([len(one.ids) for one in rendered], dtype=np.int64))


def _chunks(
    config: RenderedConfig, write: Write, corpus_dir: Path, shard: OutputFile, tokenizer_sha256: str
) -> Iterator[_Chunk]:
    work_on = partial(_render_chunk, config=config, write=write, tokenizer_sha256=tokenizer_sha256)
    chunks = read_shard_lines(corpus_dir / shard.file, _CHUNK_BYTES)
    workers = min(config.num_workers, shard.bytes // (_BYTES_WORTH_A_WORKER // 4))  # compressed to about a quarter
    if workers <= 1:
        yield from map(work_on, chunks)
        return
    with WorkerPool(workers) as pool:
        yield from pool.imap(work_on, chunks)


def _render_chunk(lines: list[bytes], *, config: RenderedConfig, write: Write, tokenizer_sha256: str) -> _Chunk:
    tokenizer = _tokenizer(config.tokenizer_path, tokenizer_sha256)
    template = find_template(config.template)
    split: dict[Split, list[Sequence[Rendered]]] = {name: [] for name in SPLITS}
    remarks: Counter[str] = Counter()
    for line in lines:
        document = Document.from_line(line)
        written = write(document, template, tokenizer, config.sequence_length + 1)
        if written.remark:
            remarks[written.remark] += 1
        if written.conversations:
            held_out = is_held_out(messages_in(document), config.seed, config.val_fraction)
            split["val" if held_out else "train"].append(written.conversations)
    return _Chunk(split, remarks)


def is_held_out(messages: Sequence[Message], seed: int, fraction: float) -> bool:
    """Return whether a conversation is held out, by the hash of its first question."""
    first = next(message.content for message in messages if message.role == "user")
    return unit_interval(seed, "held out", normal(first).encode()) < fraction


@cache
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    """Load a tokenizer once a process; the sha256 keeps a later one at the same path apart."""
    tokenizer = Tokenizer.load(path)
    require_same_tokenizer(sha256, tokenizer.sha256, str(path))
    return tokenizer
