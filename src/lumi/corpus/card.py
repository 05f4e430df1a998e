"""The data card: what is in a corpus, where it came from, what was dropped or cut and why."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumi.corpus.config import CorpusConfig
from lumi.corpus.counts import SourceCounts
from lumi.corpus.quality import HISTOGRAMS, RULES
from lumi.pictures import bar_chart, binned_histogram

LENGTH_EDGES = np.geomspace(1, 1e8, 65)  # characters; eight bins to a factor of ten
EXAMPLES_FILE = "examples.json"  # the card's examples, for the report of a run
_LANGUAGES = 12  # shown


@dataclass(frozen=True)
class TwinExample:
    """The beginnings of a kept text and of a near duplicate of it."""

    kept: str
    dropped: str
    jaccard: float


def write_card(
    folder: Path,
    config: CorpusConfig,
    totals: Mapping[str, Any],
    counts: Mapping[str, SourceCounts],
    lengths: NDArray[np.int64],
    twins: Sequence[TwinExample],
) -> list[str]:
    """Write DATA_CARD.md, its pictures and its examples; return the files.

    Args:
        folder: where.
        config: what the corpus was made by.
        totals: the manifest's counts.
        counts: by source, with examples.
        lengths: documents by length, in the bins of `LENGTH_EDGES`.
        twins: some near duplicates.
    """
    pictures = _pictures(config, totals, counts, lengths)
    for name, picture in pictures.items():
        (folder / f"{name}.svg").write_text(picture, encoding="utf8")
    lines = [
        *[f"# Corpus {config.name}", "", config.description, ""],
        *[f"{totals['documents']:,} documents, {totals['bytes']:,} bytes of text.", ""],
        *_sources(config, counts),
        *_rows(counts),
        *_cleaning(totals),
        *_decontamination(totals, counts),
        *_near_duplicates(config, totals, twins),
        *_languages(config, totals),
        *["## Lengths", "", "![document lengths](document_lengths.svg)", ""],
        *_quality(config, pictures),
        *["## Made by", "", "```json", json.dumps(config.identity(), indent=2, ensure_ascii=False), "```", ""],
    ]
    (folder / "DATA_CARD.md").write_text("\n".join(lines), encoding="utf8")
    examples = {
        "dropped": {name: count.examples for name, count in counts.items()},
        "cut": {name: count.cut_examples for name, count in counts.items()},
        "near_duplicates": [asdict(twin) for twin in twins],
    }
    (folder / EXAMPLES_FILE).write_text(json.dumps(examples, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    return ["DATA_CARD.md", EXAMPLES_FILE, *(f"{name}.svg" for name in pictures)]


def _pictures(
    config: CorpusConfig,
    totals: Mapping[str, Any],
    counts: Mapping[str, SourceCounts],
    lengths: NDArray[np.int64],
) -> dict[str, str]:
    filled = np.flatnonzero(lengths)
    shown = slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0)
    edges = LENGTH_EDGES[shown.start : shown.stop + 1].tolist()
    fates = {
        "kept": float(totals["documents"]),
        **{rule.replace("_", " "): float(number) for rule, number in totals["dropped"].items()},
    }
    pictures = {
        "document_lengths": binned_histogram(
            "Length of a document", lengths[shown].tolist(), edges, x_label="characters", log_x=True
        ),
        "kept_and_dropped": bar_chart("What became of the rows", fates, x_label="rows"),
    }
    if totals["languages"]:
        pictures["languages"] = bar_chart("Languages", _commonest(totals["languages"]), x_label="documents")
    if clusters := totals["near_duplicates"]["clusters"]:
        sizes = {f"{size} texts": float(number) for size, number in list(clusters.items())[:_LANGUAGES]}
        pictures["near_duplicate_clusters"] = bar_chart("Clusters of near duplicates", sizes, x_label="clusters")
    for name, bins_edges in HISTOGRAMS.items():
        bins = np.sum([count.bins[name] for count in counts.values() if name in count.bins], axis=0)
        if np.any(bins):
            pictures[f"quality_{name}"] = binned_histogram(
                name.replace("_", " ").capitalize(),
                bins.tolist(),
                bins_edges.tolist(),
                x_label="of a document",
                log_x=name == "tokens",
                mark=_threshold(config, name),
            )
    return pictures


def _threshold(config: CorpusConfig, statistic: str) -> tuple[str, float] | None:
    """Return the first rule in force that looks at a statistic, and its threshold."""
    for name, rule in RULES.items():
        value = getattr(config.quality, name)
        if rule.statistic == statistic and value is not None and config.quality.judge_quality:
            return name.replace("_", " "), value
    return None


def _commonest(languages: Mapping[str, int]) -> dict[str, float]:
    shown = dict(list(languages.items())[:_LANGUAGES])
    others = sum(languages.values()) - sum(shown.values())
    return {name or "none found": float(number) for name, number in shown.items()} | (
        {"others": float(others)} if others else {}
    )


def _sources(config: CorpusConfig, counts: Mapping[str, SourceCounts]) -> list[str]:
    lines = ["## Sources", ""]
    lines += [
        "| source | kind | licence | rows read | kept | bytes | broken |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for source in config.sources:
        count = counts[source.name]
        lines.append(
            f"| {source.name} | {source.kind} | {source.licence} | {count.read:,} | {count.kept:,}"
            f" | {count.kept_bytes:,} | {count.broken:,} |"
        )
    return [*lines, "", *(f"- {source.name}: {source.citation}" for source in config.sources if source.citation), ""]


def _rows(counts: Mapping[str, SourceCounts]) -> list[str]:
    lines = ["## What became of the rows", "", "![kept and dropped](kept_and_dropped.svg)", ""]
    for name, count in counts.items():
        for rule, number in sorted(count.dropped.items()):
            lines += [f"- {name}, {rule}: {number:,}", *_examples(count.examples[rule])]
    return [*lines, ""]


def _cleaning(totals: Mapping[str, Any]) -> list[str]:
    steps = [f"- {step}: {number:,}" for step, number in totals["cleaned"].items()]
    return ["## Cleaning", "", "Documents that each step changed:", "", *(steps or ["- none"]), ""]


def _decontamination(totals: Mapping[str, Any], counts: Mapping[str, SourceCounts]) -> list[str]:
    about = totals["decontamination"]
    lines = ["## Decontamination", ""]
    if about["checked"]:
        lines += [
            "Paragraphs with 13 words in a row that a test set has too were cut (of shorter texts: all words).",
            "",
            "| test set | texts | too short to look for | paragraphs cut |",
            "| --- | ---: | ---: | ---: |",
        ]
        for name, one in about["checked"].items():
            numbers = f"{one['too_short_to_look_for']:,} | {one['paragraphs_cut']:,}"
            lines.append(f"| {name} | {one['texts']:,} of {one['texts_of_the_whole_set']:,} | {numbers} |")
        lines.append("")
        for source, count in counts.items():
            for name, examples in count.cut_examples.items():
                lines += [f"- cut from {source}, {name}:", *_examples(examples)]
    if about["not_checked"]:
        lines += [f"**Not checked**, because the sets were not there: {', '.join(about['not_checked'])}."]
    if len(lines) == 2:
        lines.append("None.")
    return [*lines, ""]


def _near_duplicates(config: CorpusConfig, totals: Mapping[str, Any], twins: Sequence[TwinExample]) -> list[str]:
    about = totals["near_duplicates"]
    if not config.near_duplicates.drop_near_duplicates:
        return ["## Near duplicates", "", "Not looked for.", ""]
    lines = [
        "## Near duplicates",
        "",
        f"Texts whose 5-word sequences have a Jaccard similarity of {config.near_duplicates.jaccard:g} and more with"
        f" those of an earlier text that stays. {about['candidates']:,} candidates, {about['verified_pairs']:,} pairs"
        f" verified, {sum(about['clusters'].values()):,} clusters.",
        "",
    ]
    if about["clusters"]:
        lines += ["![clusters](near_duplicate_clusters.svg)", ""]
    for twin in twins:
        lines += [f"- {twin.jaccard:.3f}: `{_inline(twin.dropped)}`", f"  - stays: `{_inline(twin.kept)}`"]
    return [*lines, ""]


def _languages(config: CorpusConfig, totals: Mapping[str, Any]) -> list[str]:
    if not totals["languages"]:
        return []
    kept = f" Kept: {', '.join(config.languages)}." if config.languages else " All are kept."
    return ["## Languages", "", f"Of all texts of a usable length.{kept}", "", "![languages](languages.svg)", ""]


def _quality(config: CorpusConfig, pictures: Mapping[str, str]) -> list[str]:
    names = [name for name in pictures if name.startswith("quality_")]
    if not names:
        return []
    used = "the line is a rule's threshold" if config.quality.judge_quality else "no rule was in force"
    about = f"Of all texts of a usable length; {used}."
    return ["## Quality", "", about, "", *(f"![{name}]({name}.svg)" for name in names), ""]


def _examples(examples: Sequence[str]) -> list[str]:
    return [f"  - `{_inline(example)}`" for example in examples]


def _inline(text: str) -> str:
    return " ".join(text.replace("`", "'").split())[:120]
