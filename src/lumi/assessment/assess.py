"""An assessment: measured figures against the targets of the model's size, beside published ones, and what to try next.

results --+-- targets of this size --> pass, fail, baseline only, not measured
          +-- published figures ----> side by side                              --> assessment.md, assessment.json
          +-- how it was trained ---> at most five suggestions, with evidence
"""

import json
import textwrap
from pathlib import Path

from lumi.artifacts import write_atomically
from lumi.assessment.advice import Suggestion, findings_of, suggestions_of
from lumi.assessment.references import ReferenceRow, References, reference_rows, references_table
from lumi.assessment.run_history import RunHistory, read_run_history
from lumi.assessment.targets import Judgement, Targets, judge, judgements_table
from lumi.config import Config
from lumi.evaluation.results import Evaluation, Subject
from lumi.evaluation.results_folder import RESULTS_DIR, newest_results_folder, read_results_folder
from lumi.evaluation.tables import Table, markdown_sections, print_tables
from lumi.progress import say

ASSESSMENT = "assessment.json"
ASSESSMENT_TEXT = "assessment.md"


class AssessConfig(Config):
    """Say how far a measured model is from the targets of its size, and what to try next."""

    results: Path | None = None
    """Results folder, such as evaluation_results/NAME; default: the newest in evaluation_results."""
    targets: Path = Path("config/evaluation_targets.json")
    """Bands by size of model."""
    references: Path = Path("config/evaluation_references.json")
    """Published figures of other models."""


class Assessment(Config):
    """What was found; the same results, record and configs give the same."""

    model: Subject
    size: str | None
    """Whose targets were used; None: no size is near enough."""
    source: str
    """Whose targets they are."""
    targets: tuple[Judgement, ...]
    references: tuple[ReferenceRow, ...]
    reference_models: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    notes: tuple[str, ...]


def assess(config: AssessConfig) -> Assessment:
    """Assess a model by its results; print it, and write it beside them.

    Raises:
        DataError: there are no results, or they are damaged or of another version.
        ConfigError: targets or references are not right.
    """
    targets, references = Targets.load(config.targets), References.load(config.references)
    folder = read_results_folder(config.results or newest_results_folder(RESULTS_DIR))
    history = read_run_history(folder.evaluation.model)
    assessment = assess_results(folder.evaluation, targets, references, history, folder.path.parent)
    beside = references_table(references, assessment.references)
    say(f"results: {folder.path}")
    _print(assessment, references_table(references, assessment.references, with_errors=False))
    data = json.dumps(assessment.resolved(), indent=1, ensure_ascii=False)
    write_atomically(folder.path / ASSESSMENT_TEXT, to_markdown(assessment, beside).encode())
    write_atomically(folder.path / ASSESSMENT, data.encode() + b"\n")
    say(f"assessment: {folder.path / ASSESSMENT_TEXT}")
    return assessment


def assess_results(
    evaluation: Evaluation,
    targets: Targets,
    references: References,
    history: RunHistory | str,
    results_dir: Path = RESULTS_DIR,
) -> Assessment:
    """Assess results; ``history`` is how the model was trained, or why that is not known."""
    size = targets.of(evaluation.model.parameters)
    judgements = tuple(judge(target, evaluation) for target in size.targets) if size is not None else ()
    known = history if isinstance(history, RunHistory) else None
    findings = findings_of(evaluation, judgements, size.name if size is not None else None, known, results_dir)
    notes = []
    if size is None:
        shown = ", ".join(f"{one.name} {one.parameters / 1e6:,.1f}M" for one in targets.sizes)
        notes.append(
            f"No target for this size: {evaluation.model.parameters / 1e6:,.2f}M parameters are not within"
            f" {targets.within:.0%} of {shown}."
        )
    if isinstance(history, str):
        notes.append(f"How it was trained is not known: {history}. Suggestions come from the results alone.")
    return Assessment(
        model=evaluation.model,
        size=size.name if size is not None else None,
        source=targets.source,
        targets=judgements,
        references=reference_rows(references, evaluation),
        reference_models=tuple(model.name for model in references.models),
        suggestions=suggestions_of(findings),
        notes=tuple(notes),
    )


def to_markdown(assessment: Assessment, beside: Table) -> str:
    """Return the assessment as one page of text."""
    model = assessment.model
    lines = [
        f"# Assessment of {model.name}",
        "",
        f"Model: `{model.path}` (sha256 `{model.sha256}`), {model.parameters:,} parameters. {_outcome(assessment)}",
        *(line for note in assessment.notes for line in ("", note)),
    ]
    lines += markdown_sections([*_target_tables(assessment), *([beside] if assessment.references else [])])
    if assessment.suggestions:
        lines += ["", "## What to try next"]
    for number, one in enumerate(assessment.suggestions, 1):
        lines += ["", f"{number}. {one.what}. Evidence: {one.evidence}.", "", f"       {one.command}"]
    return "\n".join(lines) + "\n"


def _print(assessment: Assessment, beside: Table) -> None:
    tables = _target_tables(assessment)
    if assessment.references:
        note = f"Protocols and sources: {ASSESSMENT_TEXT}. Other prompts and tokenizers: compare with care."
        tables.append(Table(beside.title, beside.header, beside.rows, [note]))
    print_tables(tables)
    for text in (*assessment.notes, _outcome(assessment)):
        print("\n" + textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False))
    if assessment.suggestions:
        print("\nWhat to try next")
    for number, one in enumerate(assessment.suggestions, 1):
        print(f"{number}. {one.what}\n   because: {one.evidence}\n   {one.command}")


def _target_tables(assessment: Assessment) -> list[Table]:
    if not assessment.targets:
        return []
    return [judgements_table(assessment.targets, f"Targets of {assessment.size}: {assessment.source}")]


def _outcome(assessment: Assessment) -> str:
    """Return how many targets came out how."""
    statuses = [one.status for one in assessment.targets]
    counts = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)]
    return f"{len(statuses)} targets: {', '.join(counts)}." if counts else "No targets were judged."
