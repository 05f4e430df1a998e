"""The parts of a report that look back: the corpus and the tokenizer behind a model, and the chain of hashes."""

import itertools
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from lumi.corpus import read_shard
from lumi.evaluation.markup import facts, figure, note, section
from lumi.evaluation.run_record import Ancestor, RunRecord
from lumi.pictures import bar_chart, histogram

_SHOWN_DOCUMENTS = 20_000


def corpus_section(record: RunRecord) -> str:
    """Show what went into each corpus, what was dropped by which rule, and how long its documents are."""
    parts = [part for corpus in record.artifacts("corpus") for part in _corpus(corpus)]
    return section("What it read", *(parts or [note("Left out: the corpus is not beside this run any more.")]))


def _corpus(corpus: Ancestor) -> Iterator[str]:
    assert corpus.manifest is not None
    counts = corpus.manifest.counts
    yield f"<h3>{escape(corpus.name)}</h3>"
    yield _facts(counts)
    for name, values in _groups(counts):
        yield figure(bar_chart(f"{_words(name)} ({corpus.name})", values, x_label="documents"))
    if not counts.get("dropped"):
        yield note("No document was dropped.")
    lengths = _document_bytes(corpus)
    if lengths:
        title = f"Length of a document ({corpus.name})"
        if len(lengths) == _SHOWN_DOCUMENTS:
            title += f", first {_SHOWN_DOCUMENTS:,}"
        yield figure(histogram(title, lengths, x_label="bytes", log_x=True))


def _document_bytes(corpus: Ancestor) -> list[float]:
    assert corpus.manifest is not None
    shards = [corpus.path / out.file for out in corpus.manifest.files(suffix=".jsonl.zst", prefix="shard_")]
    documents = itertools.chain.from_iterable(read_shard(shard) for shard in shards if shard.is_file())
    return [float(len(document.text.encode())) for document in itertools.islice(documents, _SHOWN_DOCUMENTS)]


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
