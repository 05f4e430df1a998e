"""The page about several runs: their figures side by side, their curves in one picture, what differs in how they
were made, and what they write.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from lumi.evaluation.compare import compare_results
from lumi.evaluation.comparison import comparison_tables
from lumi.evaluation.results import Figure, Measurement
from lumi.evaluation.results_folder import read_results_folder
from lumi.evaluation.tables import Table
from lumi.pictures import line_chart
from lumi.reporting.costs import costs_table
from lumi.reporting.findings import stages_tables, tables_for, tasks_chart
from lumi.reporting.markup import figure, folded_parts, note, section, sides, titled_table
from lumi.reporting.page import KICKER, software
from lumi.reporting.run_record import Points, RunRecord

Records = Mapping[str, RunRecord]  # by a name that no two have
_NO_DIFFERENCE = frozenset({"name", "description", "output_dir", "resume_from_checkpoint", "fresh"})


def named(records: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Return runs by their name, or where two have the same by their folders."""
    for name in (lambda r: r.name, lambda r: r.label, lambda r: f"{r.label}/{r.checkpoint.name}"):
        found = {name(record): record for record in records}
        if len(found) == len(records):
            return found
    return {f"{record.label} ({number})": record for number, record in enumerate(records, 1)}


def comparison_page(records: Records) -> str:
    """Return the body of the page."""
    sections: tuple[Callable[[Records], str], ...] = (
        _head,
        _figures_section,
        _tasks_section,
        _significance_section,
        _curves_section,
        _config_section,
        _samples_section,
        _stages_section,
        _costs_section,
        _making_section,
    )
    return "\n".join(made for make in sections if (made := make(records)))


def title(records: Records) -> str:
    *first, last = records
    return f"{', '.join(first)} and {last}"


def _head(records: Records) -> str:
    return f"{KICKER}\n<h1>{escape(title(records))}</h1>"


def _figures_section(records: Records) -> str:
    return section("Side by side", titled_table(figures_table(records), ""))


def figures_table(records: Records) -> Table:
    """Return a column of figures for each run; what no run has is left out."""
    columns = {name: _figures(record) for name, record in records.items()}
    names = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [
        (name, *(column.get((group, name), "-") for column in columns.values()))
        for group, name in sorted(names, key=lambda key: key[0])
    ]
    notes = ["\u00b1 is one standard error. Bits per byte and losses: lower is better."]
    if len({record.run.get("tokenizer_sha256") for record in records.values()}) > 1:
        notes.append(
            "The tokenizers differ: losses per token cannot be compared between these runs, bits per byte can."
        )
    return Table("Side by side", ("", *columns), rows, notes)


def _figures(record: RunRecord) -> dict[tuple[int, str], str]:
    """Return figures by their name, and by the group that they stand in."""
    run, evaluation = record.run, record.evaluation
    parameters, tokens = run["parameters"], run["tokens"]
    found = {
        (0, "Parameters"): f"{parameters['total']:,}",
        (0, "Without embeddings"): f"{parameters['non_embedding']:,}",
        (0, "Steps"): f"{run['step']:,}",
        (0, "Tokens"): f"{tokens:,}",
        (0, "Tokens per parameter"): f"{tokens / parameters['total']:,.1f}",
    }
    if losses := record.series("loss")[1]:
        found[1, f"Training loss, last, {record.loss_unit}"] = f"{losses[-1]:.4f}"
    for name, (_, values) in record.validation().items():
        found[1, f"Held-out loss, last, {name}, {record.loss_unit}"] = f"{values[-1]:.4f}"
    for name, (_, values) in record.validation("val_preference_accuracy").items():
        found[1, f"Preferences told apart, {name}"] = f"{values[-1]:.1%}"
    if evaluation:
        found |= {(2, f"Bits per byte, {m.name}"): _bits(m) for m in (*evaluation.held_out, *evaluation.text)}
        found |= {(3, f"{task.title}, {task.metric}"): str(task.accuracy) for task in evaluation.tasks}
    return found


def _bits(measured: Measurement) -> str:
    if measured.standard_error is None:
        return f"{measured.bits_per_byte:.3f}"
    return str(Figure(value=measured.bits_per_byte, standard_error=measured.standard_error))


def _tasks_section(records: Records) -> str:
    tasks = {name: record.evaluation.tasks for name, record in records.items() if record.evaluation}
    if not any(tasks.values()):
        return section("What they can answer", note("Left out: no results of tasks for any of these checkpoints."))
    protocols = {
        f"{task.title}: {task.protocol}" for found in tasks.values() for task in found
    }  # one each where all were asked alike
    return section(
        "What they can answer",
        "<p>The whiskers reach two standard errors to either side; the stroke is guessing, the diamond always giving"
        " the most frequent answer. The colours say no more than the shapes.</p>",
        figure(tasks_chart(tasks)),
        folded_parts("How this was measured", *map(note, sorted(protocols))),
    )


def _significance_section(records: Records) -> str:
    tables = significance_tables(records)
    if not tables:
        return section("Is it luck?", note("Left out: fewer than two of these runs have results."))
    return section("Is it luck?", *(titled_table(table) for table in tables))


def significance_tables(records: Records) -> list[Table]:
    """Return which differences are more than luck, pieces of the same data held against each other."""
    folders = [read_results_folder(record.results) for record in records.values() if record.results is not None]
    if len(folders) < 2:
        return []
    models, *_, differences = comparison_tables(compare_results(folders))
    return [models, differences]


def _curves_section(records: Records) -> str:
    charts = []
    for unit in dict.fromkeys(record.loss_unit for record in records.values()):
        of_unit = {name: record for name, record in records.items() if record.loss_unit == unit}
        losses = {name: _by_tokens(record, record.series("loss")) for name, record in of_unit.items()}
        held_out = {
            f"{name}, {data}": _by_tokens(record, points)
            for name, record in of_unit.items()
            for data, points in record.validation().items()
        }
        charts += [figure(line_chart("Training loss", losses, x_label="tokens", y_label=unit))]
        if held_out:
            charts.append(figure(line_chart("Held-out loss", held_out, x_label="tokens", y_label=unit)))
    return section("How they learned", *charts)


def _by_tokens(record: RunRecord, points: Points) -> Points:
    """Return a curve over the tokens seen, which runs of other batches have in common; steps have no such meaning."""
    steps, tokens = record.series("tokens")
    per_step = record.run["tokens"] / max(record.run["step"], 1)

    def seen(step: float) -> float:
        place = bisect_left(steps, step)
        return tokens[place] if place < len(steps) and steps[place] == step else step * per_step

    return [seen(step) for step in points[0]], points[1]


def config_differences(records: Records) -> dict[str, list[Any]]:
    """Return the settings, by flat name, that are not the same in all runs, with each run's value (None: has none)."""
    flat = [_flat({**record.run.get("config", {}), "data": _data(record)}) for record in records.values()]
    keys = sorted({key for one in flat for key in one})
    return {
        key: [one.get(key) for one in flat]
        for key in keys
        if key.split(".")[0] not in _NO_DIFFERENCE and any(one.get(key) != flat[0].get(key) for one in flat)
    }


def _data(record: RunRecord) -> dict[str, str]:
    return {data["name"]: data["manifest_sha256"][:12] for data in record.run.get("data", [])}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {name: leaf for key, part in value.items() for name, leaf in _flat(part, f"{prefix}{key}.").items()}


def differences_table(records: Records) -> Table:
    rows = [
        (key, *("-" if value is None else value if isinstance(value, str) else json.dumps(value) for value in values))
        for key, values in config_differences(records).items()
    ]
    return Table("What differs in their configs", ("", *records), rows)


def _config_section(records: Records) -> str:
    table = differences_table(records)
    if not table.rows:
        return section(table.title, note("Nothing: the runs were made with the same settings and data."))
    return section(table.title, titled_table(table, ""))


def shared_prompts(records: Records) -> dict[str, dict[str, str]]:
    """Return what the runs wrote to prompts that at least two of them were given; by prompt, then by run."""
    written = {name: record.written() for name, record in records.items()}
    prompts = dict.fromkeys(prompt for texts in written.values() for prompt in texts)
    shown = {prompt: {n: texts[prompt] for n, texts in written.items() if prompt in texts} for prompt in prompts}
    return {prompt: texts for prompt, texts in shown.items() if len(texts) > 1}


def _samples_section(records: Records) -> str:
    parts = [f"<h3>{escape(prompt)}</h3>{sides(texts)}" for prompt, texts in shared_prompts(records).items()]
    if not parts:
        return section("What they write", note("Left out: no prompt was given to two of these runs."))
    rest = [folded_parts(f"{len(parts) - 6} more", *parts[6:])] if len(parts) > 6 else []
    return section("What they write", *parts[:6], *rest)


def _stages_section(records: Records) -> str:
    """Show the figures of the stages behind each run; their answers stand in the runs' own reports."""
    parts = []
    for name, record in records.items():
        if record.evaluation and record.evaluation.stages:
            parts += [titled_table(table, name) for table in stages_tables(record.evaluation.stages)]
    return section("What each stage taught them", *parts) if parts else ""


def _costs_section(records: Records) -> str:
    costs = costs_table({name: record.cost for name, record in records.items()})
    return section("What they took", titled_table(costs, "") if costs.rows else note("Left out: not recorded."))


def _making_section(records: Records) -> str:
    parts = []
    for name, record in records.items():
        lines = "\n".join(step.line for step in record.steps if step.command)
        parts += [
            f"<h3>{escape(name)}</h3>",
            f"<p><code>{escape(record.lineage[0].sha256 or '')}</code></p>",
            f'<pre class="command">{escape(lines)}</pre>' if lines else note("The commands are not recorded."),
            note(software(record)),
        ]
        if record.evaluation:
            tables = tables_for(record.evaluation, "held_out", "text", "tasks")
            parts.append(folded_parts("All its figures", *map(titled_table, tables)))
    return section("Each of them", *parts)
