"""The data card: what is in a corpus, where it came from, what was dropped and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lumi.corpus.config import CorpusConfig
from lumi.corpus.counts import SourceCounts
from lumi.pictures import bar_chart, histogram

_LENGTHS = "document_lengths.svg"
_DROPPED = "kept_and_dropped.svg"


def write_card(
    folder: Path,
    config: CorpusConfig,
    totals: Mapping[str, Any],
    counts: Mapping[str, SourceCounts],
    lengths: Sequence[int],
) -> list[str]:
    """Write DATA_CARD.md and its pictures; return the files."""
    (folder / _LENGTHS).write_text(
        histogram("Length of a document", [float(n) for n in lengths], x_label="characters", log_x=True),
        encoding="utf8",
    )
    fates = {
        "kept": float(totals["documents"]),
        **{k.replace("_", " "): float(v) for k, v in totals["dropped"].items()},
    }
    (folder / _DROPPED).write_text(bar_chart("What became of the rows", fates, x_label="rows"), encoding="utf8")
    lines = [f"# Corpus {config.name}", "", config.description, ""]
    lines += [f"{totals['documents']:,} documents, {totals['bytes']:,} bytes of text.", "", "## Sources", ""]
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
    lines += ["", *(f"- {source.name}: {source.citation}" for source in config.sources if source.citation)]
    lines += ["", "## What became of the rows", "", f"![kept and dropped]({_DROPPED})", ""]
    for name, count in counts.items():
        for rule, number in sorted(count.dropped.items()):
            lines += [f"- {name}, {rule}: {number:,}"]
            lines += [f"  - `{_inline(example)}`" for example in count.examples[rule]]
    lines += ["", "## Cleaning", "", "Documents that each step changed:", ""]
    lines += [f"- {step}: {number:,}" for step, number in totals["cleaned"].items()]
    lines += ["", "## Lengths", "", f"![document lengths]({_LENGTHS})", ""]
    (folder / "DATA_CARD.md").write_text("\n".join(lines), encoding="utf8")
    return ["DATA_CARD.md", _LENGTHS, _DROPPED]


def _inline(text: str) -> str:
    return " ".join(text.replace("`", "'").split())[:120]
