"""Answers on their way to the reader: exact where they are piped, as Markdown in a terminal.

A block of Markdown is settled once another has begun behind it. Settled blocks are printed for good. The last one is
drawn again as it grows, below them, its beginning cut off where it is higher than the screen; so nothing that may
change is ever out of the cursor's reach. Lines that are as before are not written again.
"""

import itertools
import sys
import time
from typing import IO, Protocol

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text
from rich.theme import Theme

from lumi.inference.chat.visible import visible
from lumi.progress import say

_REDRAW_SECONDS = 0.05


class View(Protocol):
    """Where an answer is shown."""

    def write(self, text: str) -> None:
        """Take the next bit."""
        ...

    def note(self, line: str) -> None:
        """Show a line that is not of the answer."""
        ...

    def close(self) -> None:
        """End the answer here."""
        ...


def open_view() -> View:
    """Return the view that standard output is fit for."""
    console = Console(highlight=False, theme=Theme({"markdown.code": "bold cyan"}))  # the terminal's own background
    if console.is_terminal and not console.is_dumb_terminal:
        return MarkdownView(console)
    return PlainView(exact=not sys.stdout.isatty())


class PlainView:
    """Text as it comes, and a newline behind it.

    Args:
        exact: leave control characters as they are.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._is_empty = True

    def write(self, text: str) -> None:
        self._is_empty = False
        print(text if self._exact else visible(text), end="", flush=True)

    def note(self, line: str) -> None:
        say(line)

    def close(self) -> None:
        if not self._is_empty:
            print(flush=True)


class MarkdownView:
    """Markdown in a terminal."""

    def __init__(self, console: Console) -> None:
        self._console, self._pane = console, _Pane(console.file)
        self._open = ""  # what is not settled
        self._next_draw = 0.0
        self._pane.show(["..."])

    def write(self, text: str) -> None:
        self._open += text
        if time.monotonic() > self._next_draw:
            self._draw()

    def note(self, line: str) -> None:
        self._pane.show([visible(line), "..."])
        self._pane.settle(1)

    def close(self) -> None:
        self._draw()
        last = self._lines(self._open, settled=True)
        self._pane.show([*last, ""] if last else [])

    def _draw(self) -> None:
        begun = time.monotonic()
        settled, self._open = _cut(visible(self._open))
        done = self._lines(settled, settled=True)
        done += [""] if done else []
        growing = self._lines(self._open, settled=False) or [""]  # the cursor's, not a settled one
        self._pane.show([*done, *growing[1 - self._console.height :]])
        self._pane.settle(len(done))
        now = time.monotonic()
        self._next_draw = now + max(_REDRAW_SECONDS, 4 * (now - begun))  # most of the time is the model's

    def _lines(self, source: str, *, settled: bool) -> list[str]:
        """Return Markdown as lines for the terminal, a blank one between two blocks."""
        blocks = [self._block_lines(block, settled=settled) for block in _blocks(source)]
        return [line for block in blocks if block for line in ["", *block]][1:]

    def _block_lines(self, source: str, *, settled: bool) -> list[str]:
        """Return a block as lines; code has its colours once it is settled."""
        markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
        markdown.parsed = _parse(source)
        for token in markdown.parsed:
            if token.type == "fence" and not settled:
                token.info = ""
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"  # a model that begins a new line means it
        with self._console.capture() as captured:
            # a line as wide as the terminal would leave the cursor between two lines
            self._console.print(markdown, width=self._console.width - 1)
        lines = [line.rstrip() for line in captured.get().split("\n")]
        filled = [number for number, line in enumerate(lines) if Text.from_ansi(line).plain.strip()]
        return lines[filled[0] : filled[-1] + 1] if filled else []


def _parse(source: str) -> list[Token]:
    """Parse Markdown; what is HTML, an entity or a definition of a link stands there as it was written."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return parser.disable(["entity", "reference"]).parse(source)


def _starts(source: str) -> list[int]:
    """Return the number of the line with which each block begins."""
    return [token.map[0] for token in _parse(source) if token.level == 0 and token.map and token.nesting >= 0]


def _blocks(source: str) -> list[str]:
    """Cut Markdown into its blocks."""
    lines = source.split("\n")
    places = [0, *_starts(source)[1:], len(lines)]
    return ["\n".join(lines[start:end]) for start, end in itertools.pairwise(places)]


def _cut(source: str) -> tuple[str, str]:
    """Cut Markdown in two: what is settled, and what may still change.

    The last line has not ended; what looks like the beginning of a block there may be none: ``#`` becomes ``#1``.
    """
    lines = source.split("\n")
    certain = [start for start in _starts(source) if start < len(lines) - 1]
    place = certain[-1] if len(certain) > 1 else 0
    return "\n".join(lines[:place]), "\n".join(lines[place:])


class _Pane:
    """The last lines of a terminal; the cursor is behind them."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._shown: list[str] = []

    def show(self, lines: list[str]) -> None:
        """Let these lines stand where the pane's stood, from the first that differs; the last is always written, as
        a key that was pressed may have left its mark there.
        """
        pairs = zip(self._shown[:-1], lines[:-1], strict=False)
        same = next((number for number, (before, now) in enumerate(pairs) if before != now), None)
        if same is None:
            same = max(0, min(len(self._shown), len(lines)) - 1)
        up = max(0, len(self._shown) - 1 - same)
        self._file.write(
            "\r" + (f"\x1b[{up}A" if up else "") + "\n".join(f"{line}\x1b[K" for line in lines[same:]) + "\x1b[J"
        )
        self._file.flush()
        self._shown = lines

    def settle(self, count: int) -> None:
        """Take the first lines out of the pane: they stay as they are."""
        self._shown = self._shown[count:]
