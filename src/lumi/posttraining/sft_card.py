"""The card of prepared conversations: how many, how long, how much of them is learned, and what one looks like."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumi.artifacts import Manifest
from lumi.conversation import Rendered
from lumi.pictures import histogram
from lumi.posttraining.packing import fill, pack_lengths
from lumi.posttraining.rendering import RenderOutcome
from lumi.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lumi.posttraining.sft_corpus import SftCorpusConfig


def write_sft_card(
    folder: Path,
    config: "SftCorpusConfig",
    corpus: Manifest,
    counts: Mapping[str, Any],
    outcome: RenderOutcome,
    tokenizer: Tokenizer,
) -> list[str]:
    """Write DATA_CARD.md and its picture; return the files."""
    tokens = np.concatenate([*outcome.lengths["train"], *outcome.lengths["val"]])
    picture = histogram("Length of a conversation", tokens.tolist(), x_label="tokens", log_x=True)
    (folder / "conversation_lengths.svg").write_text(picture, encoding="utf8")
    trained = np.concatenate(outcome.lengths["train"])
    rows = pack_lengths(trained, config.sequence_length + 1, config.seed)
    whole = corpus.counts
    lines = [
        f"# Conversations {config.name}",
        "",
        config.description,
        "",
        f"Template {config.template}, at most {config.sequence_length:,} tokens, tokenizer"
        f" {counts['tokenizer_sha256'][:12]}.",
        "",
        "| | conversations | answers | tokens | of answers |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {split} | {of['conversations']:,} | {of['answers']:,} | {of['tokens']:,} | {of['loss_tokens']:,} |"
            for split, of in ((split, counts[split]) for split in ("train", "val"))
        ),
        "",
        f"{counts['shortened']:,} conversations were cut behind the last whole answer that fits,"
        f" {counts['too_long']:,} were left out, as not even their first answer does, and"
        f" {counts['same_after_cutting']:,} that were the same as another then.",
        f"Packed into rows of {config.sequence_length + 1:,} those for training make {len(rows):,} rows,"
        f" {fill(rows, trained, config.sequence_length + 1):.1%} filled.",
        "",
        "![lengths](conversation_lengths.svg)",
        "",
        "## Sources",
        "",
        "| source | rows | kept | licence |",
        "| --- | ---: | ---: | --- |",
        *(
            f"| {source.name} | {whole['sources'][source.name]['rows_read']:,} |"
            f" {whole['sources'][source.name]['documents']:,} | {source.licence} |"
            for source in config.sources
        ),
        "",
        "What was dropped, over all sources (examples stand in the card of the text corpus that this was made from):",
        "",
        "| why | conversations |",
        "| --- | ---: |",
        *(f"| {rule.replace('_', ' ')} | {number:,} |" for rule, number in whole["dropped"].items()),
        "",
        "## A conversation as the model reads it",
        "",
        "What bears loss stands on lines that begin with `>`.",
        "",
        *fenced([line for one in outcome.shown for line in written_out(one[0], tokenizer)]),
        "",
        "## Made by",
        "",
        "```json",
        json.dumps(config.identity(), indent=2, ensure_ascii=False),
        "```",
        "",
    ]
    (folder / "DATA_CARD.md").write_text("\n".join(lines), encoding="utf8")
    return ["DATA_CARD.md", "conversation_lengths.svg"]


def written_out(conversation: Rendered, tokenizer: Tokenizer) -> list[str]:
    """Return the lines of a conversation, those that bear loss marked."""
    lines = []
    pairs = zip(conversation.ids.tolist(), conversation.loss.tolist(), strict=True)
    for loss, tokens in groupby(pairs, key=lambda pair: pair[1]):
        text = tokenizer.decode([token for token, _ in tokens], keep_control=True)
        lines += [f"{'> ' if loss else '  '}{line}" for line in text.removesuffix("\n").split("\n")]
    return lines


def fenced(lines: Sequence[str]) -> list[str]:
    """Return lines as a block of text, whatever fences stand in them."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *lines, fence]
