"""Cleaning: what is mended in a text. Newlines, indentation, code and paragraphs survive.

Each step is a function of the text; a document counts for a step when the step changed it.
"""

import re
from collections.abc import Callable

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x84\x86-\x9f]")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")


def unify_newlines(text: str) -> str:
    r"""Write every line end as ``\n``: ``\r\n``, ``\r``, form feeds, and U+0085, U+2028, U+2029."""
    if text.isascii() and "\r" not in text and "\f" not in text:
        return text
    return re.sub(r"\r\n|[\r\f\x85\u2028\u2029]", "\n", text)


def drop_control_characters(text: str) -> str:
    """Remove C0 and C1 controls (not newline and tab) and byte-order marks."""
    return _CONTROL.sub("", text).replace("\ufeff", "")


def replace_sentencepiece_marker(text: str) -> str:
    """Replace U+2581, which SentencePiece writes for a space and could not give back, by an underscore."""
    return text.replace("\u2581", "_")


def trim_blanks(text: str) -> str:
    """Remove blanks at line ends, newlines at both ends, and all but two of several blank lines."""
    return _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("unify_newlines", unify_newlines),
    ("drop_control_characters", drop_control_characters),
    ("replace_sentencepiece_marker", replace_sentencepiece_marker),
    ("trim_blanks", trim_blanks),
)


def clean(text: str, drop_lines_with: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """Return the cleaned text and the names of the steps that changed something."""
    changed = []
    if drop_lines_with:
        kept = [line for line in text.split("\n") if not any(part in line for part in drop_lines_with)]
        if (shorter := "\n".join(kept)) != text:
            text = shorter
            changed.append("drop_lines")
    for name, step in STEPS:
        if (mended := step(text)) != text:
            text = mended
            changed.append(name)
    return text, changed
