"""The parts of a report that show how a run went: losses, rates, the mix along the way, what it came to prefer."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lumi.pictures import line_chart
from lumi.reporting.markup import bars, figure, note, section
from lumi.reporting.run_record import Points, RunRecord


def training_section(record: RunRecord) -> str:
    """Show the curves of a run and what it drew from its data sets."""
    if not record.metrics:
        return section("How it learned", note("Left out: no metrics.jsonl in the run folder."))
    validation = {f"held-out, {name}": points for name, points in record.validation().items()}
    loss = {"training": record.series("loss"), **validation}
    parts = [
        figure(line_chart("Loss", loss, x_label="step", y_label=record.loss_unit)),
        _curve(record, "Learning rate", "learning_rate", "learning rate"),
        _curve(record, "Gradient norm, before clipping", "grad_norm", "norm", log_y=True),
        _curve(record, "Throughput", "tokens_per_second", "tokens per second"),
        _curve(record, "Share of the card's peak FLOP/s", "utilisation", "share"),
    ]
    return section("How it learned", *parts, _mix(record))


def preferences_section(record: RunRecord) -> str:
    """Show rewards and accuracies of a run that learned from preferences; nothing for others."""
    if not record.learns_preferences:
        return ""
    names = {"reward_chosen": "chosen", "reward_rejected": "rejected"}

    def held_out(key: str) -> dict[str, Points]:
        return {f"held-out, {name}": points for name, points in record.validation(f"val_{key}").items()}

    def chart(title: str, series: Mapping[str, Points], y_label: str) -> str:
        return figure(line_chart(title, series, x_label="step", y_label=y_label)) if series else ""

    def lines(keys: Mapping[str, str]) -> dict[str, Points]:
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


def last_mix(metrics: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the rows drawn from each data set, in the run's last data phase."""
    return next((dict(line["mix"]) for line in reversed(metrics) if line.get("mix")), {})


def _mix(record: RunRecord) -> str:
    mix = last_mix(record.metrics)
    total = sum(mix.values())
    if not total:
        return note("Data mix: not recorded.")
    rows = [(name, drawn / total, f"{100 * drawn / total:.1f} %, {drawn:,} rows") for name, drawn in mix.items()]
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


def shares_along(metrics: Sequence[Mapping[str, Any]], windows: int = 60) -> dict[str, Points]:
    """Return (steps, shares of the rows drawn since the point before) of each data set, at ``windows`` points at most.

    A new data phase counts from zero again.
    """
    lines = [record for record in metrics if record.get("mix")]
    every = -(-len(lines) // windows) or 1
    shares: dict[str, Points] = {}
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
