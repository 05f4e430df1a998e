"""report.md: what the page shows, as Markdown without pictures."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from lumi.evaluation.results import Evaluation, StagesResult, tables_of
from lumi.evaluation.tables import Table, markdown_table
from lumi.reporting.costs import costs_table
from lumi.reporting.curves import last_mix
from lumi.reporting.findings import stages_tables
from lumi.reporting.page import leading_figures, software
from lumi.reporting.run_comparison import (
    Records,
    differences_table,
    figures_table,
    named,
    shared_prompts,
    significance_tables,
    title,
)
from lumi.reporting.run_record import RunRecord


def report_text(records: Sequence[RunRecord]) -> str:
    """Return the report of one or several runs."""
    lines = _run(records[0]) if len(records) == 1 else _comparison(named(records))
    return "\n".join(lines) + "\n"


def _run(record: RunRecord) -> Iterator[str]:
    description = record.run.get("config", {}).get("description", "")
    yield from (f"# {_text(record.name)}", "", *([_text(description), ""] if description else []))
    yield from _table(Table("", ("", "", ""), leading_figures(record)))
    if record.evaluation:
        for table in tables_of(record.evaluation):
            yield from _table(table)
        yield from _texts_of(record.evaluation)
    if not record.evaluation or not record.evaluation.generation:
        written = record.written()
        yield from (("## What it writes", "", *_written(written)) if written else ())
    yield from _table(_learning(record))
    yield from _table(costs_table(record.costs))
    links = [(a.kind, a.name, a.sha256 or "not there", "yes" if a.matches else "NO") for a in record.lineage]
    yield from _table(Table("Where it comes from", ("artifact", "name", "sha256", "as expected"), links))
    yield from _making(record, "## Make it again")
    yield from ("The resolved config:", "", *_fenced(json.dumps(record.run.get("config", {}), indent=1), "json"))


def _learning(record: RunRecord) -> Table:
    curves = {"training loss": record.series("loss")}
    curves |= {f"held-out loss, {name}": points for name, points in record.validation().items()}
    rows = [(name, f"{points[1][0]:.4f}", f"{points[1][-1]:.4f}") for name, points in curves.items() if points[1]]
    mix = last_mix(record.metrics)
    drawn = ", ".join(f"{name} {rows / max(sum(mix.values()), 1):.1%} ({rows:,} rows)" for name, rows in mix.items())
    notes = [f"Drawn from the data: {drawn}."] if drawn else []
    return Table(f"How it learned, {record.loss_unit}", ("", "first", "last"), rows, notes)


def _texts_of(evaluation: Evaluation) -> Iterator[str]:
    if evaluation.generation:
        for category in dict.fromkeys(sample.category for sample in evaluation.generation.samples):
            yield from (f"### Samples: {_text(category)}", "")
            yield from _written({s.prompt: s.text for s in evaluation.generation.samples if s.category == category})
    if evaluation.stages:
        yield from _stages(evaluation.stages)
    if evaluation.missing:
        yield from ("## What could not be measured", "")
        yield from (*(f"- {_text(one.name)}: {_text(one.why)}" for one in evaluation.missing), "")


def _stages(stages: StagesResult) -> Iterator[str]:
    yield from ("## What each stage taught it", "", _text(stages.protocol), "")
    for table in stages_tables(stages):
        yield from _table(table, level=3)
    for question in stages.answers:
        yield from (f"### {_text(question.prompt)}", "")
        yield from _sides(dict(zip(stages.stages, question.answers, strict=True)))


def _comparison(records: Records) -> Iterator[str]:
    yield from (f"# {_text(title(records))}", "")
    yield from _table(figures_table(records))
    for table in significance_tables(records):
        yield from _table(table)
    yield from _table(differences_table(records))
    for prompt, texts in shared_prompts(records).items():
        yield from (f"## What they write: {_text(prompt)}", "", *_sides(texts))
    yield from _table(costs_table({name: record.cost for name, record in records.items()}))
    for name, record in records.items():
        yield from (f"## {_text(name)}", "", f"sha256 of its manifest: `{record.lineage[0].sha256}`.", "")
        for table in tables_of(record.evaluation) if record.evaluation else ():
            yield from _table(table, level=3)
        yield from _making(record, "### Make it again")


def _making(record: RunRecord, head: str) -> Iterator[str]:
    lines = [line for step in record.steps if step.command for line in (f"# {', '.join(step.made)}", step.line)]
    yield from (head, "", *(_fenced("\n".join(lines), "bash") if lines else ["The commands are not recorded.", ""]))
    yield from (_text(software(record)), "")


def _table(table: Table, level: int = 2) -> Iterator[str]:
    if not table.rows:
        return
    if table.title:
        yield from (f"{'#' * level} {_text(table.title)}", "")
    rows = [[_text(cell) for cell in row] for row in table.rows]
    yield from (*markdown_table([_text(cell) for cell in table.header], rows), "")
    if table.notes:
        yield from (*(f"- {_text(note)}" for note in table.notes), "")


def _written(texts: Mapping[str, str]) -> Iterator[str]:
    for prompt, text in texts.items():
        yield from _fenced(f"{prompt}|{text}")


def _sides(texts: Mapping[str, str]) -> Iterator[str]:
    for name, text in texts.items():
        yield from (f"{_text(name)}:", "", *_fenced(text))


def _text(text: str) -> str:
    """Keep text from being read as HTML, such as the ``<s>`` of a protocol; on one line."""
    return escape(" ".join(text.split()), quote=False)


def _fenced(text: str, language: str = "text") -> list[str]:
    """Return the lines of a block, whatever fences stand in the text, and an empty one."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *text.split("\n"), fence, ""]
