r"""Targets for each size of model, and what measured figures say of them.

    measured --> not above chance or the most frequent answer? --> baseline only
             \-> within the band, or on its better side?       --> pass, else fail

config/evaluation_targets.json holds the blueprint's table. A text is judged by its token perplexity as one stream,
which is what such bands are about.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.evaluation.results import Evaluation, Measurement, TaskResult, shown_perplexity, verdict
from lumi.evaluation.tables import Table

Status = Literal["pass", "fail", "baseline only", "not measured"]


class Target(Config):
    """One band of one size."""

    title: str
    """As it is shown."""
    measure: Literal["token perplexity", "accuracy", "elsewhere"]
    """What of the results is judged; elsewhere: an evaluation cannot know it (speed, memory)."""
    names: tuple[str, ...] = ()
    """Under which names the text or the task may stand in the results; beginnings of a text's name will do."""
    low: float | None = None
    """Lower edge of the band."""
    high: float | None = None
    """Upper edge of the band."""
    how: str = ""
    """How it is measured, where that is elsewhere."""

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.measure == "elsewhere":
            if not self.how:
                raise ValueError(f"{self.title}: how says how a target is measured elsewhere")
        elif not self.names or self.low is None or self.high is None:
            raise ValueError(f"{self.title}: names, low and high are needed to judge it")
        return self

    @property
    def band(self) -> str:
        """Return the band in words."""
        shown = [f"{edge:.0%}" if self.measure == "accuracy" else f"{edge:,.0f}" for edge in self._edges]
        if self.low is None or self.high is None:
            return f"{'at most' if self.low is None else 'at least'} {shown[0]}"
        return " to ".join(shown)

    @property
    def _edges(self) -> list[float]:
        return [edge for edge in (self.low, self.high) if edge is not None]


class SizeTargets(Config):
    """The targets of one size."""

    name: str
    parameters: int = Field(gt=0)
    """That a model of this size has."""
    targets: tuple[Target, ...]


class Targets(Config):
    """Bands by size of model."""

    source: str
    """Whose targets they are."""
    within: float = Field(gt=0)
    """How far a model's parameters may be from a size's, as a share of the size's."""
    sizes: tuple[SizeTargets, ...]

    def of(self, parameters: int) -> SizeTargets | None:
        """Return the targets of the nearest size; None where none is near enough."""

        def distance(size: SizeTargets) -> float:
            return abs(parameters - size.parameters) / size.parameters

        nearest = min(self.sizes, key=distance, default=None)
        return nearest if nearest is not None and distance(nearest) <= self.within else None


class Judgement(Config):
    """What became of one target."""

    title: str
    band: str
    status: Status
    value: float | None = None
    standard_error: float | None = None
    shown: str = "-"
    """The figure with its error, as it is read."""
    words: str
    """Why, and what it was measured by."""


def judge(target: Target, evaluation: Evaluation) -> Judgement:
    """Hold a target against what was measured."""
    if target.measure == "elsewhere":
        return _judged(target, "not measured", f"an evaluation cannot know it: {target.how}")
    return _judge_text(target, evaluation) if target.measure == "token perplexity" else _judge_task(target, evaluation)


def stream_measurement(names: Sequence[str], evaluation: Evaluation) -> Measurement | None:
    """Return the measurement of a text as one stream, by a beginning of its name; None where there is none."""
    return next((one for one in _texts(names, evaluation) if one.mode == "stream"), None)


def perplexity_error(measured: Measurement) -> float | None:
    """Return the standard error of a token perplexity: that of its logarithm, times it (delta method)."""
    if measured.standard_error is None or measured.token_perplexity is None:
        return None
    return measured.token_perplexity * measured.standard_error * math.log(2) * measured.bytes / measured.tokens


def judgements_table(judgements: Sequence[Judgement], title: str) -> Table:
    """Return the targets, what was measured, and the verdicts."""
    rows = [(one.title, one.band, one.shown, one.status) for one in judgements]
    notes = [f"{one.title}: {one.words}" for one in judgements]
    return Table(title, ("target", "band", "measured", "verdict"), rows, notes)


def _judge_text(target: Target, evaluation: Evaluation) -> Judgement:
    measured = stream_measurement(target.names, evaluation)
    if measured is None or measured.token_perplexity is None:
        others = sorted({one.mode for one in _texts(target.names, evaluation)})
        seen = (
            f"measured as {' and '.join(others)} only, the band is about one stream" if others else "not in the results"
        )
        return _judged(target, "not measured", seen)
    value, error = measured.token_perplexity, perplexity_error(measured)
    assert target.low is not None
    assert target.high is not None
    status: Status = "pass" if value <= target.high else "fail"
    place = "below the band, which is better" if value < target.low else "in the band"
    if status == "fail":
        times = value / target.high
        place = f"{times:.1f} times the upper edge" if times >= 1.1 else "just above the band"
    shown = shown_perplexity(value) + ("" if error is None else f" \u00b1 {error:.2f}")
    words = f"{place}{_edge(target.high, value, error)}. Token perplexity of a sliding window: {measured.protocol}"
    return _judged(target, status, words, value, error, shown)


def _judge_task(target: Target, evaluation: Evaluation) -> Judgement:
    task = next((one for one in evaluation.tasks if one.task in target.names), None)
    if task is None:
        return _judged(target, "not measured", "not in the results")
    found = task.accuracy
    value, error = found.value, found.standard_error
    assert target.low is not None
    assert target.high is not None
    place = "above the band" if value > target.high else "in the band" if value >= target.low else "below the band"
    part = "" if task.rows == task.rows_of_the_whole_set else f" ({task.rows:,} of {task.rows_of_the_whole_set:,} rows)"
    status: Status = "pass" if value >= target.low else "fail"
    if not verdict(task).startswith("better"):
        status = "baseline only"
        place += f", but {verdict(task)}{_baseline(task)}: no skill was shown"
    words = f"{place}{_edge(target.low, value, error)}. {task.metric}{part}; {task.protocol}"
    return _judged(target, status, words, value, error, f"{value:.1%} \u00b1 {error:.1%}")


def _baseline(task: TaskResult) -> str:
    return f" ({max(task.chance, task.majority or 0.0):.1%})"


def _edge(edge: float, value: float, error: float | None) -> str:
    near = error is not None and 0 < abs(value - edge) < 2 * error
    return ", within two standard errors of its edge" if near else ""


def _judged(
    target: Target, status: Status, words: str, value: float | None = None, error: float | None = None, shown: str = "-"
) -> Judgement:
    return Judgement(
        title=target.title, band=target.band, status=status, value=value, standard_error=error, shown=shown, words=words
    )


def _texts(names: Sequence[str], evaluation: Evaluation) -> list[Measurement]:
    wanted = tuple(_plain(name) for name in names)
    return [one for one in evaluation.text if _plain(one.name).startswith(wanted)]


def _plain(name: str) -> str:
    """Return a name without what is written differently here and there: WikiText-2, wikitext2."""
    return "".join(letter for letter in Path(name).name.lower() if letter.isalnum())
