"""The parts of a report that show what an evaluation found: bits per byte, tasks, texts, answers, perplexity."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from lumi.evaluation.results import Compression, Evaluation, StagesResult, TaskResult, tables_of
from lumi.evaluation.results import Sample as WrittenSample
from lumi.evaluation.tables import Table
from lumi.pictures import Interval, IntervalRow, interval_chart
from lumi.reporting.markup import bars, figure, folded_parts, note, quote, section, sides, titled_table
from lumi.reporting.run_record import RunRecord

CHANCE, MAJORITY = "chance", "most frequent answer"
_SHOWN = 2  # samples of a category before the rest is folded


def tables_for(evaluation: Evaluation, *parts: str) -> list[Table]:
    """Return the tables of some parts of an evaluation (names of its fields), in the form that all outputs share."""
    kept = {part: getattr(evaluation, part) for part in parts}
    return tables_of(Evaluation(model=evaluation.model, settings={}, **kept))


def compression_section(record: RunRecord) -> str:
    """Show bits per byte beside those of simpler predictors."""
    title = "How well it predicts"
    if record.evaluation is None:
        return section(
            title,
            note(
                "Left out: no results.json of this checkpoint in evaluation/ of the run folder or in the folder of"
                " results (lumi evaluate writes one)."
            ),
        )
    if not record.evaluation.compression:
        return ""
    return section(title, *_compression(record.evaluation.compression))


def _compression(compression: Sequence[Compression]) -> Iterator[str]:
    yield (
        "<p>Predicting text and compressing it are the same task. Each figure is the number of bits spent on one byte"
        " of the same held-out text, text that the model was not trained on. Lower is better; 8 is knowing nothing.</p>"
    )
    names = list(dict.fromkeys(row.data for row in compression))
    for name in names:
        rows = [row for row in compression if row.data == name]
        if len(names) > 1:
            yield f"<h3>{escape(name)}</h3>"
        yield bars([(row.name, row.bits_per_byte, f"{row.bits_per_byte:.3f}") for row in rows], ours=rows[0].name)
        yield from (note(f"{row.name}: {row.about}.") for row in rows if row.about)


def tasks_section(record: RunRecord) -> str:
    """Show accuracies with two standard errors to either side, beside guessing and the most frequent answer."""
    evaluation = record.evaluation
    if evaluation is None or not evaluation.tasks:
        return ""
    return section(
        "What it can answer",
        "<p>Share of rows answered right. The whiskers reach two standard errors to either side: where they cover the"
        " stroke, which is guessing, or the diamond, which is always giving the most frequent answer, the model cannot"
        " be told from it.</p>",
        figure(tasks_chart({"": evaluation.tasks})),
        *(titled_table(table) for table in tables_for(evaluation, "tasks")),
    )


def tasks_chart(tasks: Mapping[str, Sequence[TaskResult]]) -> str:
    """Draw the tasks of one or several models, by the models' names; returns SVG text."""
    titles = dict.fromkeys(task.title for found in tasks.values() for task in found)
    rows = []
    for title in titles:
        here = {name: task for name, found in tasks.items() for task in found if task.title == title}
        marks = {CHANCE: next(iter(here.values())).chance}
        majorities = [task.majority for task in here.values() if task.majority is not None]
        marks |= {MAJORITY: majorities[0]} if majorities else {}
        intervals = {
            name: Interval(task.accuracy.value, 2 * task.accuracy.standard_error) for name, task in here.items()
        }
        rows.append(IntervalRow(title, intervals, marks))
    return interval_chart("Accuracy, \u00b1 2 standard errors", rows, x_label="share of rows answered right")


def samples_section(record: RunRecord) -> str:
    """Show what the model writes: those of its evaluation, of samples.json, or of its own validations."""
    title = "What it writes"
    parts = []
    if record.evaluation and (generation := record.evaluation.generation):
        parts += [titled_table(table, "") for table in tables_for(record.evaluation, "generation")]
        for category in dict.fromkeys(sample.category for sample in generation.samples):
            quotes = [_sample(one, generation.form) for one in generation.samples if one.category == category]
            parts += [f"<h3>{escape(category)}</h3>", *quotes[:_SHOWN]]
            if rest := quotes[_SHOWN:]:
                parts.append(folded_parts(f"{len(rest)} more", *rest))
    if record.samples:
        parts.append(note("The prompt in colour, the model's continuation after it."))
        parts += [quote(sample.prompt, sample.text) for sample in record.samples]
    if not parts and (answers := record.answers()):
        parts.append(note("At the run's first validation and at its last."))
        for one in answers:
            texts = {"last": one.last} if one.first is None else {"first": one.first, "last": one.last}
            parts += [f"<h3>{escape(one.prompt)}</h3>", sides(texts)]
    return section(title, *(parts or [note("Left out: no samples.json in the run folder, and none in the results.")]))


def _sample(sample: WrittenSample, form: str) -> str:
    end = "ended by itself" if sample.ended else "cut at the longest length"
    language = f", language {sample.language}" if sample.language else ""
    text = sample.text if form == "continuation" else f"\n{sample.text}"  # an answer is a turn of its own
    return quote(sample.prompt, text, f"{sample.tokens:,} tokens, {end}{language}")


def stages_section(record: RunRecord) -> str:
    """Show the answers of the models behind this one beside its own."""
    stages = record.evaluation.stages if record.evaluation else None
    if stages is None:
        return ""
    parts = [note(stages.protocol), *(titled_table(table) for table in stages_tables(stages))]
    for question in stages.answers:
        texts = dict(zip(stages.stages, question.answers, strict=True))
        parts += [f"<h3>{escape(question.prompt)}</h3>", sides(texts)]
    return section("What each stage taught it", *parts)


def stages_tables(stages: StagesResult) -> list[Table]:
    """Return the figures of all answers, a column for each stage."""
    names = list(dict.fromkeys(name for figures in stages.figures for name in figures))
    rows = [
        (name.replace("_", " "), *(f"{figures[name]:,.3g}" if name in figures else "-" for figures in stages.figures))
        for name in names
    ]
    return [Table("Of all answers", ("", *stages.stages), rows)] if rows else []


def perplexity_section(record: RunRecord) -> str:
    """Show perplexity and bits per byte with their errors and protocols."""
    if record.evaluation is None:
        return ""
    tables = tables_for(record.evaluation, "held_out", "text")
    return section("Perplexity, with its protocol", *(titled_table(table, "") for table in tables)) if tables else ""


def missing_section(record: RunRecord) -> str:
    """Name the parts that were asked for and could not be measured."""
    missing = record.evaluation.missing if record.evaluation else ()
    if not missing:
        return ""
    items = "".join(f"<li>{escape(one.name)}: {escape(one.why)}</li>" for one in missing)
    return section("What could not be measured", f'<ul class="plain">{items}</ul>')
