"""Stage 1 of DPO: data sets of preferences in, pairs of conversations as ids and loss mask out.

1. sources -> corpus stage, with preferences judged in the place of texts -> data/corpus/dpo/NAME
2. its shards -> rendered: chosen, rejected, chosen, rejected, ... -> data/dpo_processed/NAME_TEMPLATE_...

Only the last answer bears loss: earlier ones are part of the prompt that both sides share. A pair with a side that
does not fit is left out, as a cut answer is not the one that was judged.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lumi.artifacts import Manifest, Workspace, artifact_input, package_versions, verify
from lumi.config import FileOnly
from lumi.conversation import Encoder, Rendered, Template, render
from lumi.corpus import Document, prepare_corpus
from lumi.posttraining.conversations import conversation_outcomes
from lumi.posttraining.dpo_card import write_dpo_card
from lumi.posttraining.preference_dataset import PREFERENCES
from lumi.posttraining.preferences import PreferencesConfig, PreferenceSource, sides_of
from lumi.posttraining.rendering import SPLITS, RenderedConfig, RenderingConfig, RenderOutcome, Written, render_corpus
from lumi.progress import say
from lumi.tokenizer import Tokenizer


class DpoCorpusConfig(RenderedConfig):
    """Prepare preferences for DPO: read, check, clean, deduplicate, decontaminate, render, split by prompt."""

    sources: Annotated[tuple[PreferenceSource, ...], FileOnly] = Field(min_length=1)
    """Read in this order."""
    sequence_length: int = Field(default=1024, gt=1, le=1 << 20)
    """Most tokens of prompt and answer; a pair with a longer side is left out."""
    corpus_dir: Path | None = None
    """Where the preferences as text go; default: data/corpus/dpo/NAME."""

    def corpus(self) -> PreferencesConfig:
        """Return the part of it that knows neither tokenizer nor template."""
        values = {name: getattr(self, name) for name in PreferencesConfig.model_fields}
        return PreferencesConfig(**{**values, "output_dir": self.corpus_dir or Path("data/corpus/dpo") / self.name})


def prepare_dpo_corpus(config: DpoCorpusConfig) -> Manifest:
    """Prepare preferences, or find them prepared.

    Raises:
        ConfigError: no such template.
        TokenizerMissing: there is no tokenizer.
        DataError: a source without one usable row; nothing is left; a split without a pair.
        IntegrityError: something is damaged; an output folder holds something else.
    """
    made = RenderingConfig.of(config)
    tokenizer = Tokenizer.load(config.tokenizer_path)
    corpus_config = config.corpus()
    prepare_corpus(corpus_config, conversation_outcomes)
    corpus_dir = corpus_config.output_dir
    corpus = verify(corpus_dir, "corpus", "pass --fresh to prepare it again")
    inputs = [artifact_input(corpus_dir, config.output_dir), tokenizer.as_input(config.output_dir)]
    with Workspace(config.output_dir, PREFERENCES, made, inputs, fresh=config.fresh) as work:
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
            "same_tokens": outcome.remarks["same_tokens"],
            **{split: _summary(outcome, split) for split in SPLITS},
        }
        for file in write_dpo_card(work.path, config, corpus, counts, outcome, tokenizer):
            work.record(file)
        manifest = work.publish(counts=counts, versions=package_versions("sentencepiece", "kitoken", "numpy"))
    train, val = counts["train"], counts["val"]
    say(
        f"preferences: {config.output_dir}, {train['pairs']:,} pairs for training ({train['tokens']:,} tokens),"
        f" {val['pairs']:,} held out"
    )
    return manifest


def _summary(outcome: RenderOutcome, split: str) -> dict[str, int]:
    return {
        "pairs": outcome.documents[split],
        "tokens": outcome.tokens[split],
        "loss_tokens": outcome.loss_tokens[split],
    }


def _written(document: Document, template: Template, encoder: Encoder, most: int) -> Written:
    chosen, rejected = (_last_answer(render(side, template, encoder)) for side in sides_of(document))
    if max(len(chosen.ids), len(rejected.ids)) > most:
        return Written((), "too_long")
    if np.array_equal(chosen.ids, rejected.ids):  # they differed in nothing that the tokenizer keeps
        return Written((), "same_tokens")
    return Written((chosen, rejected))


def _last_answer(whole: Rendered) -> Rendered:
    """Let the last answer alone bear loss."""
    loss = whole.loss.copy()
    if len(whole.ends) > 1:
        loss[: whole.ends[-2]] = False
    return replace(whole, loss=loss)
