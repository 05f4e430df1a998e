"""The report of a run: one HTML file that needs nothing else, not even a network.

Every section is a function from the run's record to HTML; what is not there is left out, and a line says so.
Everything that comes from data is escaped.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path, PurePath
from string import Template
from typing import Any

from lumi.artifacts import write_atomically
from lumi.config import Config
from lumi.evaluation.ancestry import corpus_section, lineage_section, tokenizer_section
from lumi.evaluation.markup import bars, figure, figures, note, section, short, table
from lumi.evaluation.results import shown_perplexity
from lumi.evaluation.run_record import RunRecord, read_run_record
from lumi.pictures import line_chart
from lumi.progress import say


class ReportConfig(Config):
    """Write one self-contained HTML page about a run: figures, pictures, samples, lineage."""

    run: Path
    """Run folder such as checkpoints/pretrain/tiny, or a checkpoint in it."""
    output: Path | None = None
    """The page; default: report.html in the run folder."""


def write_report(config: ReportConfig) -> Path:
    """Write the page and return its path.

    Raises:
        DataError: there is no complete checkpoint, or a file of the run cannot be read.
        IntegrityError: a manifest on the way back to the raw files is damaged.
    """
    record = read_run_record(config.run)
    output = config.output or record.folder / "report.html"
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, render(record).encode("utf8", errors="replace"))
    say(f"report: {output}")
    return output


def render(record: RunRecord) -> str:
    """Return the whole page."""
    sections: tuple[Callable[[RunRecord], str], ...] = (
        _head,
        _compression_section,
        _samples_section,
        _training_section,
        _preferences_section,
        _perplexity_section,
        corpus_section,
        tokenizer_section,
        lineage_section,
        _config_section,
    )
    template = Template(resources.files("lumi.evaluation").joinpath("report.html").read_text(encoding="utf8"))
    body = "\n".join(make(record) for make in sections)
    return template.substitute(title=escape(f"{_name(record)} - Lumi-Lab report"), body=body)


def _name(record: RunRecord) -> str:
    return str(record.run.get("config", {}).get("name") or record.folder.name)


def _head(record: RunRecord) -> str:
    run = record.run
    parameters, tokens = run["parameters"], run["tokens"]
    description = run.get("config", {}).get("description", "")
    shown = [
        ("Parameters", short(parameters["total"]), f"{short(parameters['non_embedding'])} without embeddings"),
        ("Tokens seen", short(tokens), f"{tokens / parameters['total']:,.1f} per parameter"),
        ("Steps", f"{run['step']:,}", record.checkpoint.name),
    ]
    if record.evaluation and record.evaluation.held_out:
        best = record.evaluation.held_out[0]
        shown.insert(0, ("Bits per byte", f"{best.bits_per_byte:.3f}", f"held-out text of {best.name}"))
    elif validation := record.validation():
        name, (_, losses) = next(iter(validation.items()))
        shown.insert(0, ("Held-out loss", f"{losses[-1]:.3f}", f"{_loss_unit(record)}, {name}"))
    for name, (_, accuracies) in list(record.validation("val_preference_accuracy").items())[:1]:
        shown.insert(0, ("Told apart", f"{accuracies[-1]:.1%}", f"of held-out preferences, {name}"))
    lead = f'<p class="lead">{escape(description)}</p>' if description else ""
    return (
        f'<p class="kicker">Lumi-Lab, a language model and how it was made</p>\n<h1>{escape(_name(record))}</h1>\n'
        f"{lead}\n{figures(shown)}"
    )


def _compression_section(record: RunRecord) -> str:
    if record.evaluation is None or not record.evaluation.compression:
        return section("How well it predicts", note("Left out: no evaluation/results.json in the run folder."))
    parts = [
        "<p>Predicting text and compressing it are the same task. Each figure is the number of bits spent on one byte"
        " of the same held-out text, text that the model was not trained on. Lower is better; 8 is knowing nothing.</p>"
    ]
    names = list(dict.fromkeys(row.data for row in record.evaluation.compression))
    for name in names:
        rows = [row for row in record.evaluation.compression if row.data == name]
        if len(names) > 1:
            parts.append(f"<h3>{escape(name)}</h3>")
        parts.append(
            bars([(row.name, row.bits_per_byte, f"{row.bits_per_byte:.3f}") for row in rows], ours=rows[0].name)
        )
        parts += [note(f"{row.name}: {row.about}.") for row in rows if row.about]
    return section("How well it predicts", *parts)


def _loss_unit(record: RunRecord) -> str:
    return "nats per pair" if record.learns_preferences else "nats per token"


def _samples_section(record: RunRecord) -> str:
    if not record.samples and (answers := record.answers()):
        rows = [
            f"<blockquote><b>{escape(one.prompt)}</b>"
            + ("" if one.first is None else f"<br><small>first</small> {escape(one.first)}")
            + f"<br><small>last</small> {escape(one.last)}</blockquote>"
            for one in answers
        ]
        return section("What it writes", note("At the run's first validation and at its last."), *rows)
    if not record.samples:
        return section("What it writes", note("Left out: no samples.json in the run folder."))
    quotes = [f"<blockquote><b>{escape(s.prompt)}</b>{escape(s.text)}</blockquote>" for s in record.samples]
    return section("What it writes", note("The prompt in colour, the model's continuation after it."), *quotes)


def _training_section(record: RunRecord) -> str:
    if not record.metrics:
        return section("How it learned", note("Left out: no metrics.jsonl in the run folder."))
    validation = {f"held-out, {name}": points for name, points in record.validation().items()}
    loss = {"training": record.series("loss"), **validation}
    parts = [
        figure(line_chart("Loss", loss, x_label="step", y_label=_loss_unit(record))),
        _curve(record, "Learning rate", "learning_rate", "learning rate"),
        _curve(record, "Gradient norm, before clipping", "grad_norm", "norm", log_y=True),
        _curve(record, "Throughput", "tokens_per_second", "tokens per second"),
        _curve(record, "Share of the card's peak FLOP/s", "utilisation", "share"),
    ]
    return section("How it learned", *parts, _mix(record))


def _preferences_section(record: RunRecord) -> str:
    if not record.learns_preferences:
        return ""
    names = {"reward_chosen": "chosen", "reward_rejected": "rejected"}

    def held_out(key: str) -> dict[str, tuple[list[float], list[float]]]:
        return {f"held-out, {name}": points for name, points in record.validation(f"val_{key}").items()}

    def chart(title: str, series: Mapping[str, tuple[list[float], list[float]]], y_label: str) -> str:
        return figure(line_chart(title, series, x_label="step", y_label=y_label)) if series else ""

    def lines(keys: Mapping[str, str]) -> dict[str, tuple[list[float], list[float]]]:
        return {name: record.series(key) for key, name in keys.items()}

    margins = lines({"reward_margin": "training"}) | held_out("reward_margin")
    accuracies = lines({"preference_accuracy": "training"}) | held_out("preference_accuracy")
    log_probs = lines({"log_prob_chosen": "chosen", "log_prob_rejected": "rejected"})
    return section(
        "What it prefers",
        "<p>Of two answers to a prompt one was preferred, the chosen; the other is the rejected. An answer's reward is"
        " how much likelier it has become than it was to the model before, times beta.</p>",
        chart("Reward", lines(names), "reward"),
        chart("Reward of the chosen less that of the rejected", margins, "reward"),
        chart("Pairs whose chosen answer has the higher reward", accuracies, "share of pairs"),
        chart("Distance from the model before", held_out("kl"), "KL, nats per token"),
        chart("Log-probability of the answers of the training pairs", log_probs, "nats per answer"),
    )


def _curve(record: RunRecord, title: str, key: str, y_label: str, *, log_y: bool = False) -> str:
    points = record.series(key)
    if not points[0]:
        return note(f"{title}: not recorded on this machine.")
    return figure(line_chart(title, {y_label: points}, x_label="step", y_label=y_label, log_y=log_y))


def _mix(record: RunRecord) -> str:
    mixes = [r["mix"] for r in record.metrics if r.get("mix")]
    total = sum(mixes[-1].values()) if mixes else 0
    if not total:
        return note("Data mix: not recorded.")
    rows = [(name, drawn / total, f"{100 * drawn / total:.1f} %, {drawn:,} rows") for name, drawn in mixes[-1].items()]
    return "<h3>Data mix, as drawn</h3>" + bars(rows) + _curriculum(record)


def _curriculum(record: RunRecord) -> str:
    """Return the share of each data set along the run, and where its data phases begin."""
    shares = shares_along(record.metrics)
    if len(shares) < 2:
        return ""  # a single data set has nothing to show
    chart = figure(line_chart("Share of the rows of each step", shares, x_label="step", y_label="share"))
    phases = record.run.get("phases", [])
    notes = [
        note(f"From step {phase['start_step']:,}: {', '.join(escape(data['name']) for data in phase['data'])}.")
        for phase in phases
    ]
    return chart + "".join(notes if len(notes) > 1 else [])


def shares_along(metrics: Sequence[Mapping[str, Any]], windows: int = 60) -> dict[str, tuple[list[float], list[float]]]:
    """Return (steps, shares of the rows drawn since the point before) of each data set, at ``windows`` points at most.

    A new data phase counts from zero again.
    """
    lines = [record for record in metrics if record.get("mix")]
    every = -(-len(lines) // windows) or 1
    shares: dict[str, tuple[list[float], list[float]]] = {}
    before: Mapping[str, int] = {}
    for number, record in enumerate(lines, 1):
        anew = number < len(lines) and sum(lines[number]["mix"].values()) < sum(record["mix"].values())
        if number % every and number < len(lines) and not anew:
            continue
        drawn = {name: rows - before.get(name, 0) for name, rows in record["mix"].items()}
        for name, rows in drawn.items():
            steps, values = shares.setdefault(name, ([], []))
            steps.append(record["step"])
            values.append(rows / max(sum(drawn.values()), 1))
        before = {} if anew else record["mix"]
    return shares


def _perplexity_section(record: RunRecord) -> str:
    if record.evaluation is None:
        return ""
    measured = (*record.evaluation.held_out, *record.evaluation.text)
    header = ("text", "bits/byte", "token ppl", "word ppl", "byte ppl", "tokens", "bytes")
    rows = [
        (
            m.name,
            f"{m.bits_per_byte:.4f}",
            *(shown_perplexity(p) for p in (m.token_perplexity, m.word_perplexity, m.byte_perplexity)),
            f"{m.tokens:,}",
            f"{m.bytes:,}",
        )
        for m in measured
    ]
    protocols = [note(f"{m.name}: {m.protocol}") for m in measured]
    return section("Perplexity, with its protocol", table(header, rows), *protocols)


def _config_section(record: RunRecord) -> str:
    run = record.run
    parts = []
    if record.command:
        program, *rest = record.command
        parts += [
            "<p>The command that made this checkpoint:</p>",
            f'<pre class="command">{escape(shlex.join([_program(program), *rest]))}</pre>',
        ]
    else:
        parts.append(note("The command is not recorded (no run_info.json)."))
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    commit = run.get("git_commit")
    parts.append(note(f"{versions}{'; commit ' + commit if commit else ''}"))
    resolved = escape(json.dumps(run.get("config", {}), indent=1, ensure_ascii=False))
    parts.append(
        f"<details><summary>The resolved config, every default filled in</summary><pre>{resolved}</pre></details>"
    )
    return section("Make it again", *parts)


def _program(path: str) -> str:
    """Write a script as it is called from the repository, an installed command by its name."""
    pure = PurePath(path)
    return f"python scripts/{pure.name}" if pure.suffix == ".py" else pure.name
