"""A comparison of models as data: what a terminal prints, Markdown writes and a page draws."""

from typing import Literal

from lumi.config import Config
from lumi.evaluation.results import Subject
from lumi.evaluation.tables import Table, markdown_sections

SAME_MODEL = "the same model"


class ComparedModel(Config):
    """A model and the letter that stands for it."""

    letter: str
    results: str
    """Folder that its figures are from."""
    subject: Subject


class ComparedFigure(Config):
    """One model's figure."""

    value: float
    standard_error: float | None
    """None where it cannot be known: a single piece, or no pieces kept."""


class Difference(Config):
    """One model's figure less the first model's, and what it says."""

    letter: str
    """Of the model that stands against A."""
    value: float
    low: float | None = None
    """Of its 95 % interval; None where nothing was tested."""
    high: float | None = None
    p_value: float | None = None
    corrected_p_value: float | None = None
    """After Holm, over all that is tested in this comparison."""
    better: Literal["A", "other"] | None = None
    """Which of the two is better, where they can be told apart at 5 %."""
    reason: str = ""
    """Why nothing was tested."""

    @property
    def verdict(self) -> str:
        if self.reason:
            return "same model" if self.reason == SAME_MODEL else "not tested"
        if self.better is None:
            return "not told apart"
        return f"{'A' if self.better == 'A' else self.letter} better"


class ComparisonRow(Config):
    """One part of the evaluation."""

    title: str
    unit: str
    """``bits per byte``, ``acc``, ``acc_norm``."""
    lower_is_better: bool
    figures: tuple[ComparedFigure | None, ...]
    """In the order of the models; None where a model was not measured."""
    differences: tuple[Difference, ...]
    """To the first model; none where it was not measured."""

    def shown(self, value: float, *, sign: bool = False) -> str:
        return f"{value:{'+' if sign else ''}.{4 if self.lower_is_better else 3}f}"


class Comparison(Config):
    """Everything that a page about a comparison draws."""

    models: tuple[ComparedModel, ...]
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]
    seed: int
    resamples: int


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the comparison as tables, none wider than a terminal needs."""
    letters = [model.letter for model in comparison.models]
    about = [(m.letter, m.subject.name, f"{m.subject.parameters / 1e6:,.2f}M", m.results) for m in comparison.models]
    tables = [Table("Models", ("", "model", "parameters", "results"), about)]
    if comparison.rows:
        figures = [
            (f"{row.title} ({row.unit})", *(_figure(row, figure) for figure in row.figures)) for row in comparison.rows
        ]
        tables.append(Table("Figures, with their standard errors", ("part", *letters), figures))
    differences = [
        (f"{row.title}, {one.letter}", row.shown(one.value, sign=True), _interval(row, one), _p(one), one.verdict)
        for row in comparison.rows
        for one in row.differences
    ]
    header = ("part, model", "difference", "95 % interval", "p", "verdict")
    tables.append(Table("Differences to A", header, differences, comparison.notes))
    return tables


def to_markdown(comparison: Comparison) -> str:
    """Return the comparison as one page of text."""
    lines = [f"# Comparison: {', '.join(model.subject.name for model in comparison.models)}"]
    lines += markdown_sections(comparison_tables(comparison))
    return "\n".join(lines) + "\n"


def _figure(row: ComparisonRow, figure: ComparedFigure | None) -> str:
    if figure is None:
        return "-"
    error = "" if figure.standard_error is None else f" \u00b1 {row.shown(figure.standard_error)}"
    return row.shown(figure.value) + error


def _interval(row: ComparisonRow, one: Difference) -> str:
    if one.low is None or one.high is None:
        return "-"
    return f"{row.shown(one.low, sign=True)}..{row.shown(one.high, sign=True)}"  # one word, which no terminal breaks


def _p(one: Difference) -> str:
    if one.corrected_p_value is None:
        return "-"
    return f"{one.corrected_p_value:.3f}" if one.corrected_p_value >= 0.001 else "<0.001"
