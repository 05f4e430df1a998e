"""The page about one run: its sections in order, each a function from the run's record to HTML.

What is not there is left out, and a line says so. Everything that comes from data is escaped.
"""

import json
from collections.abc import Callable
from html import escape

from lumi.reporting.ancestry import corpus_section, lineage_section, tokenizer_section
from lumi.reporting.costs import costs_section
from lumi.reporting.curves import preferences_section, training_section
from lumi.reporting.findings import (
    compression_section,
    missing_section,
    perplexity_section,
    samples_section,
    stages_section,
    tasks_section,
)
from lumi.reporting.markup import figures, folded, note, section, short
from lumi.reporting.run_record import RunRecord

KICKER = '<p class="kicker">Lumi-Lab, a language model and how it was made</p>'


def run_page(record: RunRecord) -> str:
    """Return the body of the page."""
    sections: tuple[Callable[[RunRecord], str], ...] = (
        _head,
        compression_section,
        tasks_section,
        samples_section,
        stages_section,
        training_section,
        preferences_section,
        costs_section,
        perplexity_section,
        missing_section,
        corpus_section,
        tokenizer_section,
        lineage_section,
        making_section,
    )
    return "\n".join(made for make in sections if (made := make(record)))


def _head(record: RunRecord) -> str:
    description = record.run.get("config", {}).get("description", "")
    lead = f'<p class="lead">{escape(description)}</p>' if description else ""
    return f"{KICKER}\n<h1>{escape(record.name)}</h1>\n{lead}\n{figures(leading_figures(record))}"


def leading_figures(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return the few figures that a run is known by: (what, value, remark)."""
    run = record.run
    parameters, tokens = run["parameters"], run["tokens"]
    shown = [
        ("Parameters", short(parameters["total"]), f"{short(parameters['non_embedding'])} without embeddings"),
        ("Tokens seen", short(tokens), f"{tokens / parameters['total']:,.1f} per parameter"),
        ("Steps", f"{run['step']:,}", record.checkpoint.name),
    ]
    if record.evaluation and record.evaluation.held_out:
        best = record.evaluation.held_out[0]
        error = "" if best.standard_error is None else f"\u00b1 {best.standard_error:.3f}, "
        shown.insert(0, ("Bits per byte", f"{best.bits_per_byte:.3f}", f"{error}held-out text of {best.name}"))
    elif validation := record.validation():
        name, (_, losses) = next(iter(validation.items()))
        shown.insert(0, ("Held-out loss", f"{losses[-1]:.3f}", f"{record.loss_unit}, {name}"))
    for name, (_, accuracies) in list(record.validation("val_preference_accuracy").items())[:1]:
        shown.insert(0, ("Told apart", f"{accuracies[-1]:.1%}", f"of held-out preferences, {name}"))
    return shown


def making_section(record: RunRecord) -> str:
    """Show the commands of the whole chain in their order, versions, and the resolved config."""
    parts = [
        "<p>The commands that made this checkpoint and all that it came from, in their order, from the root of the"
        " repository:</p>"
    ]
    for step in record.steps:
        if step.command:
            parts += [note(f"Makes {', '.join(step.made)}:"), f'<pre class="command">{escape(step.line)}</pre>']
        else:
            parts.append(note(f"The command is not recorded (no run_info.json) of {', '.join(step.made)}."))
    parts += [
        note(software(record)),
        folded(
            "The resolved config, every default filled in",
            json.dumps(record.run.get("config", {}), indent=1, ensure_ascii=False),
        ),
    ]
    return section("Make it again", *parts)


def software(record: RunRecord) -> str:
    """Return versions and commit in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in record.run.get("versions", {}).items())
    commit = record.run.get("git_commit")
    return f"{versions}{'; commit ' + commit if commit else ''}"
