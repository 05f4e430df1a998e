"""`lumi monitor`: watch a run from another terminal or machine, by reading its files.

    metrics.jsonl, status.json  ->  Tail (what was appended)  ->  View  ->  a dashboard, or a line per record when piped

Nothing is written, and only what was appended is read.
"""

import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lumi.config import Config
from lumi.errors import DataError
from lumi.training import METRICS
from lumi.training.status import read_status

_BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_RUNS = Path("checkpoints")
_RECENT = 11  # log lines that the rate is taken from


class MonitorConfig(Config):
    """Watch a training run; Ctrl-C leaves it alone."""

    run_dir: Path | None = None
    """Run folder; default: the one under checkpoints/ that was written last."""
    interval: float = Field(default=2.0, gt=0)
    """Seconds between two looks."""


def monitor(config: MonitorConfig) -> None:
    """Show a run until it ends.

    Raises:
        DataError: there is no run.
    """
    folder = config.run_dir or newest_run(_RUNS)
    if not (folder / METRICS).is_file():
        raise DataError(f"there is no run in {folder} (no {METRICS})", "make pretrain-tiny starts one")
    view = View(folder)
    console = Console(highlight=False)
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for _ in _looks(view, config.interval):
                    live.update(dashboard(view, time.time()), refresh=True)
        else:
            recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
            for records in _looks(view, config.interval):
                for record in records:
                    if "loss" in record:
                        recent.append(record)
                        print(plain_line(recent, view.status.get("last_step")), flush=True)
            print(f"{view.name}: {view.state}", file=sys.stderr)
    except KeyboardInterrupt:
        return


def newest_run(root: Path) -> Path:
    """Return the run that was written last.

    Raises:
        DataError: there is none.
    """
    found = sorted(root.glob(f"*/*/{METRICS}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"there is no run under {root}/", "make pretrain-tiny starts one; or name it: --run_dir FOLDER")
    return found[-1].parent


def _looks(view: "View", interval: float) -> Iterator[list[dict[str, Any]]]:
    """Yield what is new, again and again, until the run has ended."""
    while True:
        over = view.is_over  # before reading: what came last is still seen
        yield view.look()
        if over:
            return
        if not view.is_over:
            time.sleep(interval)


class Tail:
    """Reads whole lines that were appended to a file; a file that was written anew is read from its beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode, self._offset = 0, 0

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Return whether the file was begun anew, and the new records."""
        try:
            status = self.path.stat()
        except FileNotFoundError:  # between a rename and the next
            return False, []
        anew = status.st_ino != self._inode or status.st_size < self._offset
        if anew:
            self._inode, self._offset = status.st_ino, 0
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return anew, [json.loads(line) for line in whole.splitlines()]


@dataclass
class View:
    """What is known of a run."""

    folder: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tail = Tail(self.folder / METRICS)

    def look(self) -> list[dict[str, Any]]:
        """Read what is new, and return it."""
        self.status = read_status(self.folder) or {}
        anew, records = self._tail.read()
        self.records = records if anew else self.records + records
        return records

    @property
    def name(self) -> str:
        return str(self.status.get("name", self.folder.name))

    @property
    def state(self) -> str:
        return str(self.status.get("state", "training"))

    @property
    def is_over(self) -> bool:
        return self.state != "training"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The records of log steps."""
        return [record for record in self.records if "loss" in record]

    def last(self, key: str) -> Any:
        return next((record[key] for record in reversed(self.records) if record.get(key) is not None), None)

    def seconds_left(self) -> float | None:
        """Return the time to the last step at the rate of the last lines; None where it is not known."""
        return seconds_left(self.lines, self.status.get("last_step"))


def seconds_left(lines: Sequence[Mapping[str, Any]], last_step: int | None) -> float | None:
    """Return the seconds that are left, from the steps and seconds of the last ten lines."""
    recent = lines[-_RECENT:]
    if last_step is None or len(recent) < 2:
        return None
    steps: int = recent[-1]["step"] - recent[0]["step"]
    seconds: float = sum(line["seconds"] for line in recent[1:])
    to_go: int = last_step - recent[-1]["step"]
    return to_go * seconds / max(steps, 1)


def silence(status: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """Return for how many seconds a run that should be training has said nothing; None while that is nothing odd."""
    if status.get("state") != "training":
        return None
    usual = max((line["seconds"] for line in lines[-10:]), default=0.0)
    since: float = now - status["time"]
    return since if since > max(60.0, 5 * usual) else None


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as blocks, ``width`` at most: each the mean of its stretch, low to high over the whole range."""
    if not values:
        return ""
    width = min(width, len(values))
    borders = [round(place * len(values) / width) for place in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(borders)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(_BLOCKS[1 + round((mean - low) / span * 7)] for mean in means)


def duration(seconds: float) -> str:
    """Write a time as people say it."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def plain_line(recent: Sequence[Mapping[str, Any]], last: int | None) -> str:
    """Return the last of the recent log lines as text."""
    record = recent[-1]
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
    left = seconds_left(list(recent), last)
    eta = "" if left is None else f", {duration(left)} left"
    spike = ", SPIKE" if record.get("spike") else ""
    step = f"{record['step']}/{last}" if last else str(record["step"])
    return f"step {step}: loss {loss}, {record['tokens_per_second']:,.0f} tokens/s{eta}{spike}"


def dashboard(view: View, now: float) -> RenderableType:
    """Return the whole picture."""
    parts: list[RenderableType] = [_head(view, now), _Curve(view.lines), _figures(view)]
    for make in (_held_out, _mix, _samples):
        if (part := make(view)) is not None:
            parts.append(part)
    title = f"[bold]{view.name}[/] \u00b7 {view.state}"
    colour = {"training": "cyan", "finished": "green", "interrupted": "yellow", "failed": "red"}[view.state]
    return Panel(Group(*parts), title=title, border_style=colour, padding=(0, 1))


def _head(view: View, now: float) -> RenderableType:
    status, lines = view.status, view.lines
    step = lines[-1]["step"] if lines else 0
    table = Table.grid(expand=True)
    place = f"{status['world_size']} x {status['device']} on {status['host']}" if status else str(view.folder)
    last = status.get("last_step")
    left = view.seconds_left()
    right = f"step {step:,}" + (f" of {last:,}" if last else "")
    if left is not None and not view.is_over:
        right += f", {duration(left)} left"
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_row(Text(place, style="dim"), Text(right))
    rows: list[RenderableType] = [table]
    if last:
        rows.append(ProgressBar(total=last, completed=step))
    if (quiet := silence(status, lines, now)) is not None:
        rows.append(Text(f"no sign of life for {duration(quiet)}", style="bold red"))
    return Group(*rows, Text())


class _Curve:
    """The loss over the run, as wide as the terminal."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self.losses = [line["loss"] for line in lines if line["loss"] is not None]

    def __rich_console__(self, console: Console, options: Any) -> Iterator[RenderableType]:
        if self.losses:
            yield Text(sparkline(self.losses, options.max_width), style="cyan")
            yield Text(f"loss {self.losses[-1]:.4f}, lowest {min(self.losses):.4f}, at first {self.losses[0]:.4f}")
        else:
            yield Text("no loss yet", style="dim")
        yield Text()


def _figures(view: View) -> RenderableType:
    line = view.lines[-1] if view.lines else {}
    figures: list[tuple[str, str]] = []

    def show(label: str, key: str, form: str, scale: float = 1) -> None:
        if line.get(key) is not None:
            figures.append((label, form.format(line[key] * scale)))

    show("tokens/s", "tokens_per_second", "{:,.0f}")
    show("utilisation", "utilisation", "{:.1%}")
    show("memory", "memory_bytes", "{:.2f} GiB", 2.0**-30)
    show("temperature", "temperature", "{:.0f} \u00b0C")
    show("tokens seen", "tokens", "{:.1f}M", 1e-6)
    show("learning rate", "learning_rate", "{:.2e}")
    show("gradient norm", "grad_norm", "{:.2f}")
    show("reward margin", "reward_margin", "{:.3f}")
    show("told apart", "preference_accuracy", "{:.1%}")
    show("bad steps", "bad_steps", "{:,}")
    figures.append(("spikes", str(sum(bool(each.get("spike")) for each in view.lines))))
    table = Table.grid(padding=(0, 3, 0, 0))
    for start in range(0, len(figures), 3):
        cells = [Text.assemble((f"{label} ", "dim"), value) for label, value in figures[start : start + 3]]
        table.add_row(*cells)
    return table


_HELD_OUT = {
    "val_loss": ("loss", "{:.4f}", min),
    "val_preference_accuracy": ("told apart", "{:.1%}", max),
    "val_reward_margin": ("reward margin", "{:.3f}", max),
    "val_kl": ("KL from before", "{:.3f}", None),
}


def _held_out(view: View) -> RenderableType | None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, (label, form, best) in _HELD_OUT.items():
        found: dict[str, list[float]] = {}
        for record in view.records:
            for name, value in (record.get(key) or {}).items():
                found.setdefault(name, []).append(value)
        if found:
            shown = (
                f"{name} {form.format(values[-1])}" + (f" (best {form.format(best(values))})" if best else "")
                for name, values in found.items()
            )
            table.add_row(Text(label), ", ".join(shown))
    return Group(Text("\nheld out", style="dim"), table) if table.row_count else None


def _mix(view: View) -> RenderableType | None:
    mix, epochs = view.last("mix"), view.last("epochs") or {}
    total = sum(mix.values()) if mix else 0
    if not total:
        return None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
    for name, rows in mix.items():
        bar = "\u2588" * round(16 * rows / total)
        passes = f"{epochs[name]:.2f} epochs" if name in epochs else ""
        table.add_row(name, Text(f"{bar:<16}", style="cyan"), f"{rows / total:.1%}", Text(passes, style="dim"))
    return Group(Text("\nrows by data set", style="dim"), table)


def _samples(view: View) -> RenderableType | None:
    samples = view.last("samples")
    if not samples:
        return None
    rows = [Text.assemble((one["prompt"], "bold"), one["text"].replace("\n", " "), overflow="ellipsis", no_wrap=True)
            for one in samples[:3]]  # fmt: skip
    return Group(Text("\nsamples", style="dim"), *rows)
