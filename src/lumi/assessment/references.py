"""Published figures of other models of about these sizes, each with its protocol and where it is published.

config/evaluation_references.json holds them. They are of other prompts, tokenizers and versions of a task: a place to
look from, not a race.
"""

from collections.abc import Sequence

from lumi.assessment.targets import perplexity_error, stream_measurement
from lumi.config import Config
from lumi.evaluation.results import Evaluation, shown_perplexity
from lumi.evaluation.tables import Table

_METRICS = {"token_perplexity": "token ppl", "perplexity": "ppl", "acc_norm": "acc norm"}


class ReferenceFigure(Config):
    """One published figure."""

    task: str
    """Name of the task, or of the text, as in our results."""
    metric: str
    """``acc``, ``acc_norm``, ``perplexity`` (of a task's answers), ``token_perplexity`` (of a text as one stream)."""
    value: float
    standard_error: float | None = None


class ReferenceSource(Config):
    """Figures that were published together."""

    protocol: str
    """How they were measured, as far as it is told."""
    source: str
    """Where they are published."""
    figures: tuple[ReferenceFigure, ...]


class ReferenceModel(Config):
    """A published model."""

    name: str
    sources: tuple[ReferenceSource, ...]

    def figure(self, task: str, metric: str) -> ReferenceFigure | None:
        """Return a figure of this model; None where none is known."""
        figures = (figure for source in self.sources for figure in source.figures)
        return next((figure for figure in figures if (figure.task, figure.metric) == (task, metric)), None)


class References(Config):
    """Published models."""

    about: str
    """What is in the file, and what is not."""
    texts: dict[str, tuple[str, ...]]
    """Texts among the figures, and how their names may begin in the results."""
    models: tuple[ReferenceModel, ...]


class ReferenceRow(Config):
    """One measured figure, and the published ones of the same name."""

    task: str
    metric: str
    value: float
    standard_error: float | None
    published: tuple[float | None, ...]
    """In the order of the reference models."""


def reference_rows(references: References, evaluation: Evaluation) -> tuple[ReferenceRow, ...]:
    """Return what was measured here and published elsewhere, in the order of the results."""
    measured: list[tuple[str, str, float, float | None]] = []
    for name, beginnings in references.texts.items():
        text = stream_measurement(beginnings, evaluation)
        if text is not None and text.token_perplexity is not None:
            measured.append((name, "token_perplexity", text.token_perplexity, perplexity_error(text)))
    for task in evaluation.tasks:
        measured += [(task.task, name, one.value, one.standard_error) for name, one in task.accuracies.items()]
        if task.perplexity is not None:
            measured.append((task.task, "perplexity", task.perplexity, None))
    rows = []
    for task_name, metric, value, error in measured:
        found = [model.figure(task_name, metric) for model in references.models]
        published = tuple(None if figure is None else figure.value for figure in found)
        if any(figure is not None for figure in found):
            rows.append(
                ReferenceRow(task=task_name, metric=metric, value=value, standard_error=error, published=published)
            )
    return tuple(rows)


def references_table(references: References, rows: Sequence[ReferenceRow], *, with_errors: bool = True) -> Table:
    """Return measured and published figures side by side; the notes say where each is from."""
    # a terminal gives each name two lines, Markdown one
    header = ("figure", "this\nmodel", *(model.name.replace(" ", "\n") for model in references.models))
    shown = []
    for row in rows:
        error = row.standard_error if with_errors else None
        published = (_shown(row.metric, value) for value in row.published)
        name = f"{row.task} {_METRICS.get(row.metric, row.metric)}"
        shown.append((name, _shown(row.metric, row.value, error), *published))
    notes = [
        f"{model.name}, {', '.join(dict.fromkeys(figure.task for figure in source.figures))}: {source.protocol}"
        f" ({source.source})"
        for model in references.models
        for source in model.sources
    ]
    return Table("Beside published models", header, shown, [references.about, *notes])


def _shown(metric: str, value: float | None, error: float | None = None) -> str:
    if value is None:
        return "-"
    is_share = metric.startswith("acc")
    text = f"{value:.3f}" if is_share else shown_perplexity(value)
    return text if error is None else f"{text} \u00b1 {error:{'.3f' if is_share else '.2f'}}"
