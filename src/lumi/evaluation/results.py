"""The results of an evaluation: figures with the protocol that gives them a meaning, and what each is made of.

    measure --> parts/NAME.json (result, and its outcomes piece by piece) --+--> results.json, results.md, the tables
    measure --> parts/NAME.json ------------------------------------------/

A part is written as soon as it is measured and found again by its key, so an evaluation that was cut off goes on
with the first part that is missing. Outcomes are what a paired comparison of two models needs.
"""

import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from lumi.artifacts import Input, write_atomically
from lumi.config import Config
from lumi.evaluation.perplexity import Score
from lumi.evaluation.tables import Table, markdown_sections, print_tables

RESULTS = "results.json"
RESULTS_TEXT = "results.md"
PARTS = "parts"
FORMAT_VERSION = 2


class Figure(Config):
    """A measured value and how sure it is."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} \u00b1 {self.standard_error:.3f}"


class Subject(Config):
    """The model that was measured."""

    name: str
    """Its last folders, joined: pretrain-tiny-final; the name on the hub of another's model."""
    path: str
    """As it was given."""
    kind: Literal["lumi", "transformers"]
    sha256: str
    """Of its manifest; of its weights, where it has none."""
    tokenizer_sha256: str
    parameters: int
    context: int
    """Tokens that it sees at once."""


class Measurement(Config):
    """How well a model predicts one text."""

    name: str
    mode: Literal["rows", "stream", "documents"]
    protocol: str
    """How the text was cut, and what was scored."""
    window: int
    stride: int | None
    nats: float
    tokens: int
    words: int
    bytes: int
    token_perplexity: float | None
    word_perplexity: float | None
    byte_perplexity: float | None
    bits_per_byte: float
    standard_error: float | None = None
    """Of the bits per byte, over documents (or the pieces that were scored one by one); None for a single one."""

    @classmethod
    def of(cls, name: str, score: Score, **about: Any) -> Self:
        return cls(
            name=name,
            nats=score.nats,
            tokens=score.tokens,
            words=score.words,
            bytes=score.bytes,
            token_perplexity=score.perplexity(score.tokens),
            word_perplexity=score.perplexity(score.words),
            byte_perplexity=score.perplexity(score.bytes),
            bits_per_byte=score.bits_per_byte,
            **about,
        )


class Compression(Config):
    """Bits per byte of one predictor on one held-out text."""

    data: str
    name: str
    bits_per_byte: float
    about: str


class TaskResult(Config):
    """How often a model is right, beside what knowing nothing would reach."""

    task: str
    title: str
    protocol: str
    """Prompt, what is compared, from where the rows are."""
    rows: int
    rows_of_the_whole_set: int
    metric: str
    """The one of ``accuracies`` that the literature reports for this task."""
    accuracies: dict[str, Figure]
    """``acc``: the answer with the highest probability; ``acc_norm``: the highest per character of it."""
    chance: float
    """Accuracy of guessing."""
    majority: float | None
    """Accuracy of always giving the answer at the place that is right most often ("yes", the second of four); None
    where a row has one answer only."""
    perplexity: float | None = None
    """Of the answers, where each row has one."""
    truncated: int = 0
    """Prompts longer than the model's context, of which the beginning was left out."""

    @property
    def accuracy(self) -> Figure:
        return self.accuracies[self.metric]


class Sample(Config):
    """A prompt and what the model wrote after it."""

    category: str
    prompt: str
    text: str
    tokens: int
    ended: bool
    """By itself, before the longest length."""
    language: str | None
    """ISO 639 code; None for a text too short to tell."""


class GenerationResult(Config):
    """What the model writes, and what can be counted in it."""

    protocol: str
    form: Literal["continuation", "answer"]
    """Whether prompts were gone on with, or questions answered."""
    figures: dict[str, dict[str, float]]
    """By category of prompt, and of ``all``."""
    samples: tuple[Sample, ...]


class StageAnswers(Config):
    """One question, answered by the model after each stage of its training."""

    prompt: str
    answers: tuple[str, ...]
    """In the order of ``StagesResult.stages``."""


class StagesResult(Config):
    """The same questions to the models that this one came from, and to itself, the earliest first."""

    protocol: str
    stages: tuple[str, ...]
    answers: tuple[StageAnswers, ...]
    figures: tuple[dict[str, float], ...]
    """Of all answers, for each stage."""


class Outcomes(Config):
    """The pieces that a figure is made of: it is the sum of values over the sum of weights."""

    pairing: str
    """Results with the same are of the same pieces in the same order, whatever the model."""
    values: tuple[float, ...]
    """Right (1) or wrong (0); bits of a piece of text."""
    weights: tuple[float, ...]
    """1 each; bytes of the piece."""


class Missing(Config):
    """A part that was asked for and could not be measured."""

    name: str
    why: str


class Evaluation(Config):
    """Everything measured of one model; the same inputs give the same bytes."""

    format_version: int = FORMAT_VERSION
    model: Subject
    settings: dict[str, Any]
    inputs: tuple[Input, ...] = ()
    held_out: tuple[Measurement, ...] = ()
    text: tuple[Measurement, ...] = ()
    compression: tuple[Compression, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    generation: GenerationResult | None = None
    stages: StagesResult | None = None
    missing: tuple[Missing, ...] = ()


class Part(Config):
    """One measure on disk: exactly one kind of result is in it."""

    name: str
    key: str
    """Hash of model, settings and inputs."""
    model_sha256: str
    """Which model this is of: another one of the same name may have been measured into the same folder."""
    inputs: tuple[Input, ...] = ()
    held_out: Measurement | None = None
    compression: tuple[Compression, ...] = ()
    text: Measurement | None = None
    task: TaskResult | None = None
    generation: GenerationResult | None = None
    stages: StagesResult | None = None
    outcomes: Outcomes | None = Field(default=None)

    @property
    def title(self) -> str:
        """What a reader knows it by: of two with the same, the later one counts."""
        measured = self.held_out or self.text
        return f"{'rows' if self.held_out else 'text'} {measured.name}" if measured else self.name


def read_parts(folder: Path) -> dict[str, Part]:
    """Return the parts in a results folder by name; one that is damaged or another version's is not there."""
    parts = {}
    for path in sorted((folder / PARTS).glob("*.json")):
        try:
            part = Part.model_validate_json(path.read_bytes())
        except ValidationError:  # cut off, or of another version: cheap to measure anew
            continue
        parts[part.name] = part
    return parts


def write_part(folder: Path, part: Part) -> None:
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PARTS / f"{part.name}.json", part.model_dump_json(exclude_defaults=True).encode() + b"\n")


def write_results(folder: Path, evaluation: Evaluation) -> None:
    """Write results.json and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESULTS_TEXT, to_markdown(evaluation).encode())
    write_atomically(folder / RESULTS, evaluation.model_dump_json(indent=1).encode() + b"\n")


def print_results(evaluation: Evaluation) -> None:
    """Print the figures to standard output."""
    print_tables(tables_of(evaluation))
    for missing in evaluation.missing:
        print(f"not measured: {missing.name}: {missing.why}")


def tables_of(evaluation: Evaluation) -> list[Table]:
    """Return the figures as tables, the same for terminal, Markdown, report and model card."""
    tables: list[Table] = []
    if measured := (*evaluation.held_out, *evaluation.text):
        header: tuple[str, ...] = (
            "text",
            "bits per byte",
            "token ppl",
            "word ppl",
            "byte ppl",
            "tokens",
            "words",
            "bytes",
        )
        rows: list[tuple[str, ...]] = [
            (
                m.name,
                f"{m.bits_per_byte:.4f}" + ("" if m.standard_error is None else f" \u00b1 {m.standard_error:.4f}"),
                shown_perplexity(m.token_perplexity),
                shown_perplexity(m.word_perplexity),
                shown_perplexity(m.byte_perplexity),
                f"{m.tokens:,}",
                f"{m.words:,}",
                f"{m.bytes:,}",
            )
            for m in measured
        ]
        tables.append(Table("Perplexity", header, rows, [f"{m.name}: {m.protocol}" for m in measured]))
    if evaluation.compression:
        rows = [(f"{c.data}: {c.name}", f"{c.bits_per_byte:.4f}", c.about) for c in evaluation.compression]
        header = ("predictor", "bits per byte", "what it is")
        tables.append(Table("Bits per byte of the same held-out text", header, rows))
    if evaluation.tasks:
        tables.append(_tasks_table(evaluation.tasks))
    if evaluation.generation:
        names = list(next(iter(evaluation.generation.figures.values())))
        rows = [
            (category, *(_shown(figures[name]) for name in names))
            for category, figures in evaluation.generation.figures.items()
        ]
        header = ("prompts", *(name.replace("_", " ") for name in names))
        tables.append(Table("What it writes", header, rows, [evaluation.generation.protocol]))
    return tables


def _tasks_table(tasks: tuple[TaskResult, ...]) -> Table:
    header = ("task", "rows", "acc", "acc_norm", "chance", "majority", "verdict")
    rows = []
    for task in tasks:
        part = "" if task.rows == task.rows_of_the_whole_set else f" of {task.rows_of_the_whole_set:,}"
        shown = [str(task.accuracies[name]) if name in task.accuracies else "-" for name in ("acc", "acc_norm")]
        majority = "-" if task.majority is None else f"{task.majority:.3f}"
        rows.append((task.title, f"{task.rows:,}{part}", *shown, f"{task.chance:.3f}", majority, verdict(task)))
    notes = [f"{task.title}: {task.protocol}" for task in tasks]
    return Table("Tasks: share of rows answered right, with its standard error", header, rows, notes)


def verdict(task: TaskResult) -> str:
    """Say whether an accuracy is more than guessing and more than always giving the most frequent answer.

    Two standard errors are asked for, about one chance in 40 that luck alone reaches them.
    """
    found = task.accuracy
    bar = max(task.chance, task.majority or 0.0)
    name = "chance" if bar == task.chance else "the most frequent answer"
    # few rows that are all right or all wrong have no deviation of their own: what luck alone would give is asked too
    error = max(found.standard_error, math.sqrt(bar * (1 - bar) / task.rows))
    if found.value > bar + 2 * error:
        return f"better than {name}"
    if found.value < bar - 2 * error:
        return f"worse than {name}"
    return f"not told from {name}"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 2 else f"{value:,.3f}"


def to_markdown(evaluation: Evaluation) -> str:
    """Return the results as one page of text."""
    model = evaluation.model
    lines = [
        f"# Evaluation of {model.name}",
        "",
        f"Model: `{model.path}` (sha256 `{model.sha256}`), {model.parameters:,} parameters, context {model.context:,}"
        f" tokens, tokenizer sha256 `{model.tokenizer_sha256}`.",
    ]
    lines += markdown_sections(tables_of(evaluation))
    if evaluation.missing:
        lines += ["", "## Not measured", "", *(f"- {missing.name}: {missing.why}" for missing in evaluation.missing)]
    return "\n".join(lines) + "\n"


def shown_perplexity(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1e6:
        return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"
