"""Cleaning: what is mended in a text. Newlines, indentation, code, tables and paragraphs survive.

Each step is a function of the text; a document counts for a step when the step changed it. Most texts need no
mending, so a step first looks, with searches that run at memory speed, whether there is anything to do.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable

from lumi.config import Config
from lumi.corpus.boilerplate import drop_gutenberg_licence, drop_navigation, drop_notices
from lumi.corpus.personal_data import mask_emails, mask_ips, mask_keys, mask_phones
from lumi.corpus.unicode_repair import (
    compose,
    drop_terminal_escapes,
    plain_characters,
    repair_mojibake,
    unescape_entities,
)

_NEWLINES = ("\r", "\f", "\x85", "\u2028", "\u2029")
_NEWLINE = re.compile(r"\r\n|[\r\f\x85\u2028\u2029]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x84\x86-\x9f\ufeff]")
# The same as UTF-8 bytes: one byte each, which never stands inside another character, or 0xC2 and one byte.
_C0 = bytes(code for code in range(0x20) if chr(code) not in "\t\n") + b"\x7f"
_C1 = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]")
_BLANK_LINES = re.compile(r"\n{4,}")
_MOST_CHANGES = 1000  # a text that is still not at rest was made for it


class CleaningConfig(Config):
    """What is mended in a text; line ends, controls and blanks always are."""

    repair_unicode: bool = True
    """Mojibake, HTML entities, terminal escapes, ligatures, no-break blanks, invisible characters, composition."""
    drop_boilerplate: bool = True
    """Project Gutenberg's licence, cookie and policy notices, navigation lines."""
    mask_personal_data: bool = True
    """[email], [ip], [phone], [key] for addresses, numbers and secrets."""


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
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n")


Step = Callable[[str], str]

_UNICODE: list[tuple[str, Step]] = [
    ("drop_terminal_escapes", drop_terminal_escapes),
    ("repair_mojibake", repair_mojibake),  # before line ends: U+0085 may be a part of it
    ("unescape_entities", unescape_entities),
]
_CHARACTERS: list[tuple[str, Step]] = [("plain_characters", plain_characters), ("compose", compose)]
_BOILERPLATE: list[tuple[str, Step]] = [
    ("drop_gutenberg_licence", drop_gutenberg_licence),
    ("drop_notices", drop_notices),
    ("drop_navigation", drop_navigation),
]
_PERSONAL: list[tuple[str, Step]] = [
    ("mask_keys", mask_keys),
    ("mask_emails", mask_emails),
    ("mask_ips", mask_ips),
    ("mask_phones", mask_phones),
]


def steps(config: CleaningConfig, drop_lines_with: tuple[str, ...] = ()) -> list[tuple[str, Step]]:
    """Return the named steps in their order; lines are dropped once they are lines, whatever their ends were."""
    return [
        *(_UNICODE if config.repair_unicode else []),
        ("unify_newlines", unify_newlines),
        ("drop_control_characters", drop_control_characters),
        ("trim_blanks", trim_blanks),
        *(_CHARACTERS if config.repair_unicode else []),
        ("replace_sentencepiece_marker", replace_sentencepiece_marker),
        *([("drop_lines", lambda text: drop_lines(text, drop_lines_with))] if drop_lines_with else []),
        *(_BOILERPLATE if config.drop_boilerplate else []),
        *(_PERSONAL if config.mask_personal_data else []),
    ]


_DEFAULT = CleaningConfig()


def clean(text: str, config: CleaningConfig = _DEFAULT, drop_lines_with: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    """Return the cleaned text and the names of the steps that changed something.

    What one step leaves may be work for an earlier one (an entity may stand for a control character), so the steps
    are gone through, round and round, until each has found nothing to do: cleaning a clean text changes nothing.
    """
    named = steps(config, drop_lines_with)
    changed: Counter[str] = Counter()
    at_rest = 0  # steps in a row that changed nothing
    for name, step in itertools.cycle(named):
        mended = step(text)
        at_rest = at_rest + 1 if mended == text else 0
        if at_rest == len(named) or changed.total() == _MOST_CHANGES:
            return text, list(changed)
        if not at_rest:
            text = mended
            changed[name] += 1
    raise AssertionError("the steps never end")
