"""Text of others, made safe to show: a model, or a server, could write what a terminal takes for commands."""

import re

# controls but newline and tab; marks that change the direction of writing; separators of lines
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return text with every control character as its picture (ESC as U+241B), or as U+FFFD."""
    return _UNSAFE.sub(_picture, text.replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\u2421" if code == 0x7F else chr(0x2400 + code) if code < 0x20 else "\ufffd"
