r"""Unicode repair: characters that a wrong program on the way left in a text.

Mojibake is mended by ftfy (Speer 2019, doi:10.5281/zenodo.2591652), which knows what encodings do to one another, and
only in lines that look like it. Quotation marks, widths and what else is a matter of style stay as they were written.
"""

import html
import html.entities
import re
import unicodedata

# UTF-8 read as a one-byte encoding begins with U+00C2..U+00F4 (in Mac Roman often U+221A), and goes on with one of the
# characters that the bytes 80..BF stand for. In UTF-8 itself, where a search from a rare byte is quick. Without U+00D7:
# a table of crosses and dots is not Hebrew.
_SUSPECT = re.compile(rb"\xc3(?:[\x82-\x96\x98-\xb4](?:\xc2|\xc5|\xc6\x92|\xcb|\xe2)|\x83 )|\xe2\x88\x9a[\xc2\xc3\xe2]")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BLANKS, _LIGATURES = "\xa0\u2007\u202f", "\ufb00-\ufb06"
_INVISIBLES = "\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069"
_BLANK, _LIGATURE, _INVISIBLE, _SPECIAL = (
    re.compile(f"[{some}]") for some in (_BLANKS, _LIGATURES, _INVISIBLES, _BLANKS + _LIGATURES + _INVISIBLES)
)
# Hebrew to Arabic and their presentation forms are written from the right; Thai to Khmer mark words by U+200B.
_NEEDS_INVISIBLE = re.compile("[\u0590-\u08ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ufb1d-\ufdff\ufe70-\ufefc]")


def repair_mojibake(text: str) -> str:
    """Undo UTF-8 that was read as another encoding, line by line: `schÃ¶n` -> `schön`."""
    if text.isascii() or not _is_suspect(text):
        return text
    import ftfy

    lines = text.split("\n")
    return "\n".join([ftfy.fix_encoding(line) if _is_suspect(line) else line for line in lines])


def _is_suspect(text: str) -> bool:
    return _SUSPECT.search(text.encode("utf8", "surrogatepass")) is not None


def unescape_entities(text: str) -> str:
    """Write HTML entities as their characters, in lines without ``<``, which may be HTML itself."""
    if "&" not in text or ";" not in text or _ENTITY.search(text) is None:
        return text
    return "\n".join(
        [line if "&" not in line or "<" in line else _ENTITY.sub(_character, line) for line in text.split("\n")]
    )


def _character(entity: re.Match[str]) -> str:
    name = entity[0]
    if name[1] != "#":  # html.unescape would also take the beginning of a longer name
        return html.entities.html5.get(name[1:], name)
    character = html.unescape(name)
    return name if "\ud800" <= character <= "\udfff" or character == "\ufffd" else character


def drop_terminal_escapes(text: str) -> str:
    """Remove what colours a terminal: ``ESC [ 31 m``."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def plain_characters(text: str) -> str:
    """Write ligatures as letters and no-break blanks as blanks; drop soft hyphens and what is not seen.

    Direction marks and zero-width blanks stay in texts of the scripts that need them.
    """
    if text.isascii() or _SPECIAL.search(text) is None:
        return text
    text = _BLANK.sub(" ", text)
    text = _LIGATURE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return text if _NEEDS_INVISIBLE.search(text) else _INVISIBLE.sub("", text)


def compose(text: str) -> str:
    """Write letters with marks as one character where there is one (NFC)."""
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
