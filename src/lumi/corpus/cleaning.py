"""Cleaning: what is mended in a text. Newlines, indentation, code and paragraphs survive.

Each step is a function of the text; a document counts for a step when the step changed it. Most texts need no
mending, so a step first looks, with searches that run at memory speed, whether there is anything to do.
"""

import re
from collections.abc import Callable

_NEWLINES = ("\r", "\f", "\x85", "\u2028", "\u2029")
_NEWLINE = re.compile(r"\r\n|[\r\f\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x84\x86-\x9f\ufeff]")
# The same as UTF-8 bytes: one byte each, which never stands inside another character, or 0xC2 and one byte.
_C0 = bytes(code for code in range(0x20) if chr(code) not in "\t\n") + b"\x7f"
_C1 = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]")
_BLANK_LINES = re.compile(r"\n{4,}")


def unify_newlines(text: str) -> str:
    r"""Write every line end as ``\n``: ``\r\n``, ``\r``, form feeds, and U+0085, U+2028, U+2029."""
    return _NEWLINE.sub("\n", text) if any(end in text for end in _NEWLINES) else text


def drop_lines(text: str, parts: tuple[str, ...]) -> str:
    """Remove the lines in which one of ``parts`` stands."""
    if not any(part in text for part in parts):
        return text
    return "\n".join([line for line in text.split("\n") if not any(part in line for part in parts)])


def drop_control_characters(text: str) -> str:
    """Remove C0 and C1 controls (not newline and tab) and byte-order marks."""
    data = text.encode("utf8", "surrogatepass")
    clean_already = len(data.translate(None, _C0)) == len(data) and _C1.search(data) is None and "\ufeff" not in text
    return text if clean_already else _CONTROL.sub("", text)


def replace_sentencepiece_marker(text: str) -> str:
    """Replace U+2581, which SentencePiece writes for a space and could not give back, by an underscore."""
    return text.replace("\u2581", "_")


def trim_blanks(text: str) -> str:
    """Remove blanks at line ends, newlines at both ends, and all but two of several blank lines."""
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        # Not a regex: "[ \t]+$" takes quadratic time on a long run of blanks inside a line.
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n")


def steps(drop_lines_with: tuple[str, ...] = ()) -> list[tuple[str, Callable[[str], str]]]:
    """Return the named steps in their order; lines are dropped once they are lines, whatever their ends were."""
    return [
        ("unify_newlines", unify_newlines),
        *([("drop_lines", lambda text: drop_lines(text, drop_lines_with))] if drop_lines_with else []),
        ("drop_control_characters", drop_control_characters),
        ("replace_sentencepiece_marker", replace_sentencepiece_marker),
        ("trim_blanks", trim_blanks),
    ]


def clean(text: str, drop_lines_with: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """Return the cleaned text and the names of the steps that changed something."""
    changed = []
    for name, step in steps(drop_lines_with):
        if (mended := step(text)) != text:
            text = mended
            changed.append(name)
    return text, changed
