"""What a person sees while a stage works: one bar with rate and ETA in a terminal, plain lines when piped."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


@cache
def console() -> Console:
    """Return the console of all messages (standard error; results go to standard output)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


class Bar:
    """One running step; made by `progress`.

    Amounts are in ``unit``; ``scale`` raw units make one shown (1e6 bytes = 1 MB).
    """

    def __init__(self, label: str, total: float | None, unit: str, scale: float, start: float) -> None:
        self.label, self.total, self.unit, self.scale = label, total, unit, scale
        self.done = start
        self._first = start
        self._note = ""
        self._started = self._printed = time.monotonic()
        self._live: Progress | None = None
        if console().is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.description}"),
                BarColumn(28),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
                console=console(),
                transient=True,
            )
            self._task = self._live.add_task(label, total=total, completed=start, status="")  # type: ignore[arg-type]
            self._live.start()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Count ``amount`` raw units as done; ``note`` (a loss, a file) is shown beside the rate."""
        self.done += amount
        if note is not None:
            self._note = note
        if self._live is not None:
            self._live.update(self._task, completed=self.done, status=self._status())
        elif time.monotonic() - self._printed >= _PLAIN_SECONDS:
            self._printed = time.monotonic()
            console().print(f"{self.label}: {self._share()}{self._status()}{self._eta()}")

    def expect(self, total: float) -> None:
        """Set or better the expected amount, where it can only be estimated while working."""
        self.total = total
        if self._live is not None:
            self._live.update(self._task, total=self.total)

    @property
    def rate(self) -> float:
        """Return the mean rate so far, in raw units a second."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def _status(self) -> str:
        return " ".join(filter(None, [f"{self.rate / self.scale:,.1f} {self.unit}/s", self._note]))

    def _share(self) -> str:
        return f"{100 * self.done / self.total:.0f}% " if self.total else f"{self.done / self.scale:,.1f} {self.unit} "

    def _eta(self) -> str:
        if not self.total or self.rate <= 0:
            return ""
        return f", {(self.total - self.done) / self.rate:,.0f} s left"

    def _close(self, *, finished: bool) -> None:
        if self._live is not None:
            self._live.stop()
        seconds = time.monotonic() - self._started
        if finished:
            amount = f"{self.done / self.scale:,.1f}".removesuffix(".0")
            console().print(f"{self.label}: {amount} {self.unit} in {seconds:,.1f} s ({self._status()})")


@contextmanager
def progress(
    label: str, *, total: float | None = None, unit: str = "it", scale: float = 1.0, start: float = 0.0
) -> Iterator[Bar]:
    """Show one step's progress; ends with one summary line."""
    bar = Bar(label, total, unit, scale, start)
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar._close(finished=finished)


def say(message: str) -> None:
    """Print one line for the person running the stage."""
    console().print(message, markup=False)
