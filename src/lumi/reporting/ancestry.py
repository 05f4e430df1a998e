"""The parts of a report that look back: the corpus and the tokenizer behind a model, and the chain of hashes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lumi.corpus import EXAMPLES_FILE
from lumi.pictures import bar_chart
from lumi.reporting.markup import facts, figure, folded, note, section, table
from lumi.reporting.run_record import RunRecord
from lumi.training.lineage import Ancestor


def corpus_section(record: RunRecord) -> str:
    """Show what went into each corpus and under which licence, what was dropped or cut and why, with pictures."""
    parts = [part for corpus in record.artifacts("corpus") for part in _corpus(corpus)]
    return section("What it read", *(parts or [note("Left out: the corpus is not beside this run any more.")]))


def _corpus(corpus: Ancestor) -> Iterator[str]:
    assert corpus.manifest is not None
    counts, config = corpus.manifest.counts, corpus.manifest.config
    examples = _examples(corpus)
    yield f"<h3>{escape(corpus.name)}</h3>"
    yield _facts(counts)
    yield _sources(config, counts.get("sources", {}))
    yield _dropped(counts, examples.get("dropped", {}))
    yield _decontamination(counts.get("decontamination", {}), examples.get("cut", {}))
    yield _near_duplicates(counts.get("near_duplicates", {}), examples.get("near_duplicates", []))
    if cleaned := counts.get("cleaned"):
        yield figure(
            bar_chart(f"Cleaned ({corpus.name})", {_words(k): v for k, v in cleaned.items()}, x_label="documents")
        )
    for out in corpus.manifest.files(suffix=".svg"):
        if (picture := corpus.path / out.file).is_file():
            yield figure(picture.read_text(encoding="utf8"))
    yield folded("The config that made it", json.dumps(config, indent=2, ensure_ascii=False))


def _examples(corpus: Ancestor) -> dict[str, Any]:
    path = corpus.path / EXAMPLES_FILE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    return found


def _sources(config: Mapping[str, Any], counts: Mapping[str, Any]) -> str:
    rows = []
    for source in config.get("sources", []):
        count = counts.get(source["name"], {})
        numbers = [f"{count.get(key, 0):,}" for key in ("rows_read", "documents", "bytes", "broken")]
        rows.append([source["name"], source["kind"], source["licence"], *numbers])
    return table(["source", "kind", "licence", "rows read", "kept", "bytes", "broken"], rows) if rows else ""


def _dropped(counts: Mapping[str, Any], examples: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    rows = []
    for name, source in counts.get("sources", {}).items():
        for rule, number in source.get("dropped", {}).items():
            for place, example in enumerate(examples.get(name, {}).get(rule, []) or [""]):
                first = [name, _words(rule), f"{number:,}"] if place == 0 else ["", "", ""]
                rows.append([*first, _line(example)])
    if not rows:
        return note("No document was dropped.")
    return table(["source", "dropped by", "documents", "for example"], rows)


def _decontamination(about: Mapping[str, Any], examples: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    rows = []
    for name, one in about.get("checked", {}).items():
        shown = [text for source in examples.values() for text in source.get(name, [])]
        numbers = [f"{one[key]:,}" for key in ("too_short_to_look_for", "paragraphs_cut")]
        there = f"{one['texts']:,} of {one['texts_of_the_whole_set']:,}"
        rows.append([name, there, *numbers, " / ".join(_line(text) for text in shown[:3])])
    header = ["test set", "texts", "too short to look for", "paragraphs cut", "for example"]
    parts = [table(header, rows)] if rows else []
    if missing := about.get("not_checked"):
        parts.append(note(f"Not checked for test sets that were not there: {', '.join(missing)}."))
    return "\n".join(parts)


def _near_duplicates(about: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> str:
    if not about:
        return ""
    rows = [[f"{one['jaccard']:.3f}", _line(one["dropped"]), _line(one["kept"])] for one in examples]
    told = note(
        f"Near duplicates: {about['candidates']:,} candidates, {about['verified_pairs']:,} pairs verified,"
        f" {sum(about['clusters'].values()):,} clusters."
    )
    return told + (table(["similarity", "dropped", "stays"], rows) if rows else "")


def _line(text: str) -> str:
    return " ".join(text.split())[:100]


def tokenizer_section(record: RunRecord) -> str:
    """Show what one token is worth, and what the tokenizer was tested for."""
    parts = [part for tokenizer in record.artifacts("tokenizer") for part in _tokenizer(tokenizer)]
    return section(
        "How it cuts text into tokens", *(parts or [note("Left out: the tokenizer is not beside this run any more.")])
    )


def _tokenizer(tokenizer: Ancestor) -> Iterator[str]:
    assert tokenizer.manifest is not None
    counts = tokenizer.manifest.counts
    yield _facts(counts)
    for name, values in _groups(counts):
        yield figure(bar_chart(_words(name), values, x_label=""))


def lineage_section(record: RunRecord) -> str:
    """Show the chain from the checkpoint back to the raw files, each link checked against its descendant."""
    items = "".join(_link(ancestor) for ancestor in record.lineage)
    broken = [ancestor for ancestor in record.lineage if not ancestor.matches]
    verdict = (
        "Each artifact names those it was made from by their sha256; every link below was checked for this page."
        if not broken
        else f"{len(broken)} of {len(record.lineage)} links could not be confirmed: what stands there now is not, or"
        " not any more, what this model was made from."
    )
    sha = record.run.get("tokenizer_sha256")
    tail = note(f"Tokenizer model, sha256 of its bytes: {sha}") if sha else ""
    return section("Where it comes from", f"<p>{escape(verdict)}</p>", f'<ol class="chain">{items}</ol>', tail)


def _link(ancestor: Ancestor) -> str:
    if ancestor.sha256 is None:
        state = f'<span class="wrong">not there</span>, expected <code>{escape(ancestor.expected or "?")}</code>'
    elif not ancestor.matches:
        state = (
            f'<span class="wrong">changed</span>: <code>{escape(ancestor.sha256)}</code>,'
            f" expected <code>{escape(ancestor.expected or '')}</code>"
        )
    else:
        state = f"<code>{escape(ancestor.sha256)}</code>"
    return (
        f'<li style="--depth:{ancestor.depth}"><span class="kind">{escape(ancestor.kind)}</span>'
        f' <span class="path">{escape(ancestor.name)}</span><br>{state}</li>'
    )


def _facts(counts: Mapping[str, Any]) -> str:
    rows = [(_words(name), _value(v)) for name, v in counts.items() if isinstance(v, (int, float, bool))]
    return facts(rows) if rows else ""


def _groups(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Yield every table of numbers within the counts, by its name."""
    for name, value in counts.items():
        if not isinstance(value, dict):
            continue
        numbers = {_words(key): float(v) for key, v in value.items() if isinstance(v, (int, float))}
        if numbers:
            yield f"{prefix}{name}", numbers
        yield from _groups(value, f"{prefix}{name}: ")


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _value(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
