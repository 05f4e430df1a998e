"""The card of prepared preferences: how many pairs, how long their sides are, and what one looks like."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumi.artifacts import Manifest
from lumi.pictures import histogram
from lumi.posttraining.packing import pack_lengths
from lumi.posttraining.rendering import RenderOutcome
from lumi.posttraining.sft_card import fenced, written_out
from lumi.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lumi.posttraining.dpo_corpus import DpoCorpusConfig


def write_dpo_card(
    folder: Path,
    config: "DpoCorpusConfig",
    corpus: Manifest,
    counts: Mapping[str, Any],
    outcome: RenderOutcome,
    tokenizer: Tokenizer,
) -> list[str]:
    """Write DATA_CARD.md and its pictures; return the files."""
    both = np.concatenate([*outcome.lengths["train"], *outcome.lengths["val"]]).reshape(-1, 2)
    chosen, rejected = both.T
    files = ["DATA_CARD.md"]
    for name, lengths in (("chosen", chosen), ("rejected", rejected)):
        picture = histogram(f"Prompt and {name} answer", lengths.tolist(), x_label="tokens", log_x=True)
        (folder / f"{name}_lengths.svg").write_text(picture, encoding="utf8")
        files.append(f"{name}_lengths.svg")
    trained = np.concatenate(outcome.lengths["train"]).reshape(-1, 2)
    capacity = config.sequence_length + 1
    rows = pack_lengths(trained.max(1), capacity, config.seed)
    whole = corpus.counts
    lines = [
        f"# Preferences {config.name}",
        "",
        config.description,
        "",
        f"Template {config.template}, at most {config.sequence_length:,} tokens a side, tokenizer"
        f" {counts['tokenizer_sha256'][:12]}.",
        "",
        "| | pairs | tokens | of the two last answers |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {split} | {of['pairs']:,} | {of['tokens']:,} | {of['loss_tokens']:,} |"
            for split, of in ((split, counts[split]) for split in ("train", "val"))
        ),
        "",
        f"{counts['too_long']:,} pairs were left out because a side is longer; {counts['same_tokens']:,} because both"
        " sides are the same tokens.",
        f"Packed into rows of two lines of {capacity:,} those for training make {len(rows):,} rows,"
        f" {trained.sum() / (2 * len(rows) * capacity):.1%} filled.",
        "",
        "## Lengths",
        "",
        "A model can learn from pairs whose chosen side is mostly the longer one to write at length, and nothing else.",
        "",
        "| tokens, prompt included | chosen | rejected |",
        "| --- | ---: | ---: |",
        f"| mean | {chosen.mean():,.1f} | {rejected.mean():,.1f} |",
        f"| median | {np.median(chosen):,.0f} | {np.median(rejected):,.0f} |",
        f"| longest | {chosen.max():,} | {rejected.max():,} |",
        f"| the longer of the two | {(chosen > rejected).mean():.1%} | {(rejected > chosen).mean():.1%} |",
        "",
        "![chosen](chosen_lengths.svg)",
        "![rejected](rejected_lengths.svg)",
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
        "What was dropped, over all sources (examples stand in the card of the text corpus that this was made from);"
        " the same pair with its sides swapped counts as a duplicate:",
        "",
        "| why | pairs |",
        "| --- | ---: |",
        *(f"| {rule.replace('_', ' ')} | {number:,} |" for rule, number in whole["dropped"].items()),
        "",
        "## A pair as the model reads it",
        "",
        "What is compared stands on lines that begin with `>`; first the chosen side.",
        "",
        *(line for pair in outcome.shown for side in pair for line in fenced(written_out(side, tokenizer))),
        "",
        "## Made by",
        "",
        "```json",
        json.dumps(config.identity(), indent=2, ensure_ascii=False),
        "```",
        "",
    ]
    (folder / "DATA_CARD.md").write_text("\n".join(lines), encoding="utf8")
    return files
