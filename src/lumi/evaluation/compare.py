"""Models side by side: each figure with its error, and whether a difference is more than luck.

    results of A, B, C --> the figures that at least two have --> B and C against A, on the same pieces --> verdicts

A difference is tested only where both models answered the same pieces in the same order; elsewhere it is shown, and
the reason stands beside it.
"""

import json
import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lumi.artifacts import write_atomically
from lumi.config import Config, Positional
from lumi.evaluation.comparison import (
    SAME_MODEL,
    ComparedFigure,
    ComparedModel,
    Comparison,
    ComparisonRow,
    Difference,
    comparison_tables,
    to_markdown,
)
from lumi.evaluation.results import Measurement, Outcomes, TaskResult
from lumi.evaluation.results_folder import RESULTS_DIR, ResultsFolder, find_results_folder, read_results_folder
from lumi.evaluation.significance import PairedDifference, holm, paired_bootstrap, ratio_error
from lumi.evaluation.tables import print_tables
from lumi.progress import say

COMPARISON = "compare.json"
COMPARISON_TEXT = "compare.md"

_LEVEL = 0.05
_RESAMPLES = 10_000
_FEWEST_PIECES = 10  # resamples of fewer say little about those that were not drawn
_SAME_FIGURE = 1e-3  # relative: pieces that add up to another figure are not its pieces


class CompareConfig(Config):
    """Put two or more models side by side and say what can be told apart."""

    models: Annotated[tuple[Path, ...], Positional] = Field(min_length=2, max_length=len(string.ascii_uppercase))
    """Results folders (evaluation_results/NAME), or checkpoints that were evaluated."""
    results_dir: Path = RESULTS_DIR
    """Where the results of a checkpoint are looked for."""
    output: Path | None = None
    """Folder for compare.md and compare.json; default: they are not written."""
    seed: int = 0
    """Of the resamples."""


@dataclass(frozen=True)
class _Measured:
    title: str
    unit: str
    value: float
    standard_error: float | None
    result: Measurement | TaskResult
    outcomes: Outcomes | None

    @property
    def lower_is_better(self) -> bool:
        return isinstance(self.result, Measurement)


def compare(config: CompareConfig) -> Comparison:
    """Read the results of all models, print them side by side, write them where asked.

    Raises:
        DataError: a model was not evaluated; its results are damaged or of another version.
    """
    folders = [find_results_folder(path, config.results_dir) for path in config.models]
    comparison = compare_results([read_results_folder(folder) for folder in folders], seed=config.seed)
    print_tables(comparison_tables(comparison))
    if config.output is not None:
        config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(config.output / COMPARISON_TEXT, to_markdown(comparison).encode())
        data = json.dumps(comparison.resolved(), indent=1, ensure_ascii=False)
        write_atomically(config.output / COMPARISON, data.encode() + b"\n")
        say(f"comparison: {config.output / COMPARISON_TEXT}")
    return comparison


def compare_results(folders: Sequence[ResultsFolder], *, seed: int = 0) -> Comparison:
    """Compare the results of several models, each with the first."""
    models = tuple(
        ComparedModel(letter=letter, results=str(folder.path), subject=folder.evaluation.model)
        for letter, folder in zip(string.ascii_uppercase, folders, strict=False)
    )
    measured = [dict(_measured(folder)) for folder in folders]
    keys = dict.fromkeys(key for one in measured for key in one)
    shared = [key for key in keys if sum(key in one for one in measured) > 1]
    found: dict[tuple[str, str], PairedDifference | str] = {}
    for key in shared:
        for model, one in zip(models[1:], measured[1:], strict=True):
            if key in measured[0] and key in one:
                found[key, model.letter] = _difference(models[0], model, measured[0][key], one[key], seed)
    tested = {place: result for place, result in found.items() if isinstance(result, PairedDifference)}
    corrected = dict(zip(tested, holm([result.p_value for result in tested.values()]), strict=True))
    rows = []
    for key in shared:
        about = next(one[key] for one in measured if key in one)
        differences = tuple(
            _told(
                model.letter, measured[0][key], one[key], found[key, model.letter], corrected.get((key, model.letter))
            )
            for model, one in zip(models[1:], measured[1:], strict=True)
            if (key, model.letter) in found
        )
        figures = tuple(
            ComparedFigure(value=one[key].value, standard_error=one[key].standard_error) if key in one else None
            for one in measured
        )
        rows.append(
            ComparisonRow(
                title=about.title, unit=about.unit, lower_is_better=about.lower_is_better,
                figures=figures, differences=differences,
            )
        )  # fmt: skip
    notes = tuple(_notes(models, rows, tests=len(tested)))
    return Comparison(models=models, rows=tuple(rows), notes=notes, seed=seed, resamples=_RESAMPLES)


def _measured(folder: ResultsFolder) -> Iterator[tuple[str, _Measured]]:
    evaluation = folder.evaluation
    for kind, texts in (("held-out", evaluation.held_out), ("text", evaluation.text)):
        for text in texts:
            outcomes = folder.outcomes_of(text)
            error = text.standard_error
            if error is None and outcomes is not None:
                error = ratio_error(outcomes.values, outcomes.weights)
            title = f"held-out {text.name}" if kind == "held-out" else text.name
            yield (
                f"{kind}/{text.name}/{text.mode}",
                _Measured(title, "bits per byte", text.bits_per_byte, error, text, outcomes),
            )
    for task in evaluation.tasks:
        found = task.accuracy
        yield (
            f"task/{task.task}",
            _Measured(task.title, task.metric, found.value, found.standard_error, task, folder.outcomes_of(task)),
        )


def _difference(
    first: ComparedModel, model: ComparedModel, mine: _Measured, other: _Measured, seed: int
) -> PairedDifference | str:
    """Return the tested difference, or why there is none."""
    if first.subject.sha256 == model.subject.sha256:
        return SAME_MODEL
    if mine.unit != other.unit:
        return f"{mine.unit} against {other.unit}"
    if mine.outcomes is None or other.outcomes is None:
        return f"{(first if mine.outcomes is None else model).letter}'s pieces were not kept"
    if mine.outcomes.pairing != other.outcomes.pairing:
        return _why_not_paired(first, model, mine.result, other.result)
    for letter, one, outcomes in ((first.letter, mine, mine.outcomes), (model.letter, other, other.outcomes)):
        figure = sum(outcomes.values) / (sum(outcomes.weights) or math.inf)
        if not math.isclose(figure, one.value, rel_tol=_SAME_FIGURE, abs_tol=1e-9):
            return f"{letter}'s pieces do not add up to its figure"
    if mine.outcomes.weights != other.outcomes.weights:
        return "another number of pieces, or of their bytes"
    if len(mine.outcomes.values) < _FEWEST_PIECES:
        return f"too few pieces ({len(mine.outcomes.values)})"
    return paired_bootstrap(
        other.outcomes.values, mine.outcomes.values, mine.outcomes.weights, seed=seed, resamples=_RESAMPLES
    )


def _why_not_paired(
    first: ComparedModel, model: ComparedModel, mine: Measurement | TaskResult, other: Measurement | TaskResult
) -> str:
    if isinstance(mine, TaskResult) and isinstance(other, TaskResult):
        if mine.rows != other.rows:
            return f"other rows ({mine.rows:,} against {other.rows:,})"
        return "other rows, or another prompt"
    if isinstance(mine, Measurement) and isinstance(other, Measurement):
        if mine.bytes != other.bytes:
            return f"another length of text ({mine.bytes:,} against {other.bytes:,} bytes)"
        if (mine.window, mine.stride) != (other.window, other.stride):
            return f"other windows ({_cut(mine)} against {_cut(other)})"
    if first.subject.tokenizer_sha256 != model.subject.tokenizer_sha256:
        return "other tokenizers, which cut the text at other places"
    return "another text, or other pieces of it"


def _cut(measured: Measurement) -> str:
    return f"{measured.window:,}" + ("" if measured.stride is None else f" by {measured.stride:,}")


def _told(
    letter: str, first: _Measured, other: _Measured, result: PairedDifference | str, corrected: float | None
) -> Difference:
    if isinstance(result, str):
        return Difference(letter=letter, value=other.value - first.value, reason=result)
    assert corrected is not None
    better: Literal["A", "other"] | None = None
    if corrected < _LEVEL:
        better = "other" if (result.difference < 0) == first.lower_is_better else "A"
    return Difference(
        letter=letter, value=result.difference, low=result.low, high=result.high, p_value=result.p_value,
        corrected_p_value=corrected, better=better,
    )  # fmt: skip


def _notes(models: Sequence[ComparedModel], rows: Sequence[ComparisonRow], *, tests: int) -> Iterator[str]:
    for place, model in enumerate(models):
        for other in models[place + 1 :]:
            if model.subject.sha256 == other.subject.sha256:
                yield (
                    f"{model.letter} and {other.letter} are the same model (sha256 {model.subject.sha256[:12]}): there"
                    " is nothing to tell apart."
                )
    if not rows:
        yield "No part of the evaluation is there for two of them."
    if tests:
        yield (
            f"Paired bootstrap over the pieces (rows, documents), {_RESAMPLES:,} resamples: differences to A, their 95"
            f" % intervals, and p-values after Holm's correction over the {tests} comparison{'s' * (tests > 1)}"
            " tested. Better: p below 0.05. An interval stands alone: it is not corrected."
        )
    for row in rows:
        for one in row.differences:
            if one.reason and one.reason != SAME_MODEL:
                yield f"{row.title}, {one.letter}: not tested: {one.reason}."
        if not row.differences:
            yield f"{row.title}: A was not measured, so there is no difference to it."
