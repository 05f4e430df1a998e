"""Stage 1 of SFT: data sets of conversations in, conversations as ids and loss mask out.

1. sources -> corpus stage, with conversations judged in the place of texts -> data/corpus/sft/NAME
2. its shards -> rendered, each cut behind the last whole answer that fits -> data/sft_processed/NAME_TEMPLATE_...
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lumi.artifacts import Manifest, Workspace, artifact_input, package_versions, verify
from lumi.config import FileOnly
from lumi.conversation import Encoder, Template, render
from lumi.corpus import Document, prepare_corpus
from lumi.posttraining.conversations import (
    ConversationsConfig,
    ConversationSource,
    conversation_outcomes,
    messages_in,
)
from lumi.posttraining.rendering import SPLITS, RenderedConfig, RenderingConfig, RenderOutcome, Written, render_corpus
from lumi.posttraining.sft_card import write_sft_card
from lumi.posttraining.sft_dataset import CONVERSATIONS
from lumi.progress import say
from lumi.tokenizer import Tokenizer


class SftCorpusConfig(RenderedConfig):
    """Prepare conversations for SFT: read, check, clean, deduplicate, decontaminate, render, split."""

    sources: Annotated[tuple[ConversationSource, ...], FileOnly] = Field(min_length=1)
    """Read in this order."""
    sequence_length: int = Field(default=1024, gt=1, le=1 << 20)
    """A conversation is cut behind the last whole answer within this many tokens; one without any is dropped."""
    corpus_dir: Path | None = None
    """Where the conversations as text go; default: data/corpus/sft/NAME."""

    def corpus(self) -> ConversationsConfig:
        """Return the part of it that knows neither tokenizer nor template."""
        values = {name: getattr(self, name) for name in ConversationsConfig.model_fields}
        return ConversationsConfig(**{**values, "output_dir": self.corpus_dir or Path("data/corpus/sft") / self.name})


def prepare_sft_corpus(config: SftCorpusConfig) -> Manifest:
    """Prepare conversations, or find them prepared.

    Raises:
        ConfigError: no such template.
        TokenizerMissing: there is no tokenizer.
        DataError: a source without one usable row; nothing is left; a split without a conversation.
        IntegrityError: something is damaged; an output folder holds something else.
    """
    made = RenderingConfig.of(config)
    tokenizer = Tokenizer.load(config.tokenizer_path)
    corpus_config = config.corpus()
    prepare_corpus(corpus_config, conversation_outcomes)
    corpus_dir = corpus_config.output_dir
    corpus = verify(corpus_dir, "corpus", "pass --fresh to prepare it again")
    inputs = [artifact_input(corpus_dir, config.output_dir), tokenizer.as_input(config.output_dir)]
    with Workspace(config.output_dir, CONVERSATIONS, made, inputs, fresh=config.fresh) as work:
        if (done := work.finished()) is not None:
            say(f"up to date: {config.output_dir}")
            return done
        work.open()
        outcome = render_corpus(config, _written, corpus_dir, corpus, work, tokenizer.sha256)
        outcome.require_both(config)
        counts: dict[str, Any] = {
            "tokenizer_sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "template": made.template,
            "too_long": outcome.remarks["too_long"],
            "shortened": outcome.remarks["shortened"],
            "same_after_cutting": outcome.remarks["same_after_cutting"],
            **{split: _summary(outcome, split) for split in SPLITS},
        }
        for file in write_sft_card(work.path, config, corpus, counts, outcome, tokenizer):
            work.record(file)
        manifest = work.publish(counts=counts, versions=package_versions("sentencepiece", "kitoken", "numpy"))
    train, val = counts["train"], counts["val"]
    say(
        f"conversations: {config.output_dir}, {train['conversations']:,} for training ({train['tokens']:,} tokens,"
        f" {train['loss_tokens']:,} of answers), {val['conversations']:,} held out"
    )
    return manifest


def _summary(outcome: RenderOutcome, split: str) -> dict[str, int]:
    return {
        "conversations": outcome.documents[split],
        "tokens": outcome.tokens[split],
        "loss_tokens": outcome.loss_tokens[split],
        "answers": outcome.answers[split],
    }


def _written(document: Document, template: Template, encoder: Encoder, most: int) -> Written:
    whole = render(messages_in(document), template, encoder)
    fitting = whole.shortened(most)
    if not len(fitting.ids):
        return Written((), "too_long")
    return Written((fitting,), "shortened" if len(fitting.ids) < len(whole.ids) else "")
