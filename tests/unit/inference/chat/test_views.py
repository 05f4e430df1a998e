"""Answers in a terminal: whatever the pieces, the screen ends as if all had come at once, and obeys nobody but us."""

import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from lumi.inference.chat.views import MarkdownView, PlainView
from lumi.inference.chat.visible import visible

WIDTH, HEIGHT = 40, 8
ANSWER = """# Title

A paragraph with **bold** that is long enough to be wrapped over the end of a line, and
a line of its own.

```python
def f(n):
    return n
""" + "".join(f"# line {number}\n" for number in range(3 * HEIGHT)) + """```
1. one
2. two with <b>html</b> and &#27;[31m

| a | b |
| --- | --- |
| 1 | 2 |

""" + "".join(f"- item {number}\n" for number in range(2 * HEIGHT)) + """
[name]: http://example.com
> quoted

The end."""  # fmt: skip


class Terminal(io.StringIO):
    """Lines that scroll off a small screen and are out of reach of the cursor."""

    def __init__(self):
        super().__init__()
        self.lines, self.row, self.column, self.num_written = [""], 0, 0, 0

    def isatty(self):
        return True

    def write(self, text):
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]|\x1b", text):
            self._take(part)
        return len(text)

    def _take(self, part):
        top = max(0, len(self.lines) - HEIGHT)
        if part == "\n":
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part == "\r":
            self.column = 0
        elif part.startswith("\x1b["):
            if part.endswith("A"):
                self.row = max(top, self.row - int(part[2:-1]))
            elif part == "\x1b[K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif part == "\x1b[J":
                self.lines[self.row] = self.lines[self.row][: self.column]
                self.lines[self.row + 1 :] = [""] * (len(self.lines) - self.row - 1)
            else:
                assert part.endswith("m"), part
        else:
            assert part.isprintable(), repr(part)
            assert self.column < WIDTH
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += 1
            self.num_written += 1

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


def screen(pieces, *, eager=True):
    terminal = Terminal()
    view = MarkdownView(
        Console(file=terminal, force_terminal=True, width=WIDTH, height=HEIGHT, color_system="standard")
    )
    for piece in pieces:
        if eager:
            view._next_draw = 0.0
        view.write(piece)
    view.close()
    assert terminal.column == 0
    return terminal


def cut(text, size):
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 7, 40, 200])
def test_pieces_end_as_the_whole_does(size):
    whole = screen([ANSWER]).text
    assert screen(cut(ANSWER, size)).text == whole
    for once in ("Title", "a line of its own", "# line 0", "# line 23", "two with <b>html</b> and &#27;[31m", "item 15",
                 "[name]: http://example.com", "The end."):  # fmt: skip
        assert whole.count(once) == 1, once


def test_blocks_have_a_blank_line_between_them():
    assert screen(cut("# h\n\n```\ncode\n```\n- a\n\ntwo", 1)).text.split("\n")[1:] == [
        "",
        " code",
        "",
        " \u2022 a",
        "",
        "two",
    ]


def test_a_line_that_is_as_before_is_not_written_again():
    text = "\n".join(f"word {number}" for number in range(HEIGHT - 2))
    assert screen(cut(text, 1)).num_written < 12 * len(text)


@settings(max_examples=40)
@example(["1\n#", "1"])
@given(st.lists(st.text(st.sampled_from("ab \n*`#->|\\_~[](1.)\t"), max_size=12), max_size=12))
def test_any_text_ends_as_the_whole_does(pieces):
    assert screen(pieces).text == screen(["".join(pieces)]).text


@settings(max_examples=60)
@given(st.text(max_size=60) | st.text(st.sampled_from("a\x1b[31m]0;\x07\x9b\r\b\n\x7f&#27;x1b\u202e`<"), max_size=40))
def test_no_text_commands_the_terminal(text):
    shown = visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    terminal = Terminal()
    terminal._take = lambda part: None  # only what is written counts
    written = []
    terminal.write = written.append
    view = MarkdownView(
        Console(file=terminal, force_terminal=True, width=WIDTH, height=HEIGHT, color_system="standard")
    )
    view.write(text)
    view.close()
    rest = re.sub(r"\x1b\[[0-9;]*[mAKJ]", "", "".join(written))
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest)


def test_marks_are_shown_as_pictures_and_markup_as_text():
    assert visible("a\x1b[31mb\x07\x7f\x9b\u202ec\td\r\ne") == "a\u241b[31mb\u2407\u2421\ufffd\ufffdc\td\ne"
    assert "[bold]x[/bold] \u241b[31m" in screen(["[bold]x[/bold] \x1b[31m"]).text


def test_a_note_stands_above_the_answer():
    terminal = Terminal()
    view = MarkdownView(Console(file=terminal, force_terminal=True, width=WIDTH, height=HEIGHT))
    view.note("wait \x1b[31m")
    view.write("answer")
    view.close()
    assert terminal.text == "wait \u241b[31m\nanswer"


def test_nothing_is_nothing():
    assert screen([]).text == screen([" \n"]).text == ""


def test_what_is_piped_is_exact(capsys):
    for exact, expected in ((True, "a\x1b[31m\r\n"), (False, "a\u241b[31m\u240d\n")):
        view = PlainView(exact=exact)
        view.write("a\x1b[31m")
        view.write("\r")
        view.close()
        assert capsys.readouterr().out == expected
    PlainView(exact=True).close()
    assert capsys.readouterr().out == ""
