"""What becomes of one raw row: a document, a verdict against it, or the reason why it cannot be used at all.

    raw row -> parse -> clean -> judge by the rules -> outcome

This is the part of the corpus stage that workers run; it knows no other row, so any worker may do any row.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lumi.corpus.cleaning import clean
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.document import Document
from lumi.corpus.rules import Rule, rules_of
from lumi.corpus.sources import RawRow

_EXCERPT = 200
_BOM = "\ufeff".encode()
_JSON = json.JSONDecoder(parse_constant=lambda _name: None)  # NaN and Infinity, which are not JSON, become null


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's fate; the text itself is only in ``line``, as it will stand in a shard."""

    place: str
    digest: bytes = b""  # sha256 of the cleaned text
    line: bytes = b""  # the document, where no rule dropped it
    reason: str = ""  # the rule that dropped it
    broken: str = ""  # why the row could not be used at all
    excerpt: str = ""
    changed: tuple[str, ...] = ()  # the cleaning steps that changed something
    num_bytes: int = 0  # of the cleaned text, in UTF-8
    num_characters: int = 0


class _BrokenRow(Exception):
    """A row without a usable text."""


def outcomes_of(rows: Sequence[RawRow], *, config: CorpusConfig, source: SourceConfig) -> list[Outcome]:
    """Return what becomes of each row, in order."""
    rules = rules_of(config, source)
    outcomes = []
    for row in rows:
        try:
            outcomes.append(_outcome(row, source, rules))
        except _BrokenRow as error:
            outcomes.append(Outcome(row.place, broken=str(error), excerpt=_excerpt(row.data)))
    return outcomes


def _outcome(row: RawRow, source: SourceConfig, rules: Sequence[Rule]) -> Outcome:
    text, metadata = _parse(row, source.text_field)
    text, changed = clean(text, source.drop_lines_with)
    if not text.strip():
        raise _BrokenRow("the text is empty")
    data = text.encode()
    digest = hashlib.sha256(data).digest()
    document = Document(digest.hex()[:32], text, source.name, metadata)
    reason = next((verdict.reason for rule in rules if not (verdict := rule(document)).keep), "")
    return Outcome(
        row.place,
        digest,
        b"" if reason else _line(document),
        reason,
        excerpt=excerpt_of(text),
        changed=tuple(changed),
        num_bytes=len(data),
        num_characters=len(text),
    )


def _parse(row: RawRow, text_field: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a row and its other values."""
    try:
        if isinstance(row.data, bytes):
            values = _JSON.decode(row.data.removeprefix(_BOM).decode())
        else:
            values = dict(row.data)
        if not isinstance(values, dict) or text_field not in values:
            raise _BrokenRow(f"no text under {text_field!r}")
        text = values.pop(text_field)
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise _BrokenRow(f"no text under {text_field!r}")
        text.encode()  # lone surrogates, which JSON can spell and UTF-8 cannot
    except UnicodeError as error:
        raise _BrokenRow(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise _BrokenRow(f"not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise _BrokenRow(f"not JSON that can be read: {error}") from None
    return text, values


def _line(document: Document) -> bytes:
    try:
        return document.to_line()
    except UnicodeError as error:
        raise _BrokenRow(f"metadata are not UTF-8: {error}") from None
    except (TypeError, ValueError):  # rare, so looked at only now
        return _line(replace(document, metadata=_json_values(document.metadata)))
    except RecursionError as error:
        raise _BrokenRow(f"metadata are nested too deeply: {error}") from None


def _json_values(value: Any) -> Any:
    """Return the nearest JSON: dates (parquet has them) in ISO form, non-finite numbers as null, others as text."""
    if isinstance(value, dict):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf8", "backslashreplace")
    return str(value)


def excerpt_of(text: str) -> str:
    """Return the beginning of a text, for people."""
    return text[:_EXCERPT]


def _excerpt(data: bytes | dict[str, Any]) -> str:
    if isinstance(data, dict):
        start = {key: value[:_EXCERPT] if isinstance(value, (str, bytes)) else value for key, value in data.items()}
        data = repr(start).encode("utf8", "backslashreplace")
    return data[:_EXCERPT].decode("utf8", "backslashreplace")
