"""A raw row: what reading a source gives, before anything is judged; and its values, once they are wanted."""

import json
import re
from dataclasses import dataclass
from typing import Any

_DEEPEST = 100  # brackets within brackets
_BOM = "\ufeff".encode()
_JSON = json.JSONDecoder(parse_constant=lambda _name: None)  # NaN and Infinity, which are not JSON, become null

Position = dict[str, Any]  # JSON; where a stream stands


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read: JSON bytes still to be parsed, or values already taken apart."""

    place: str  # file and line, for messages
    data: bytes | dict[str, Any]
    position: Position | None = None  # hub: from which reading goes on behind this row


class BrokenRow(Exception):
    """A row that cannot be used; says why."""


def row_values(row: RawRow) -> dict[str, Any]:
    """Return the values of a row by key.

    Raises:
        BrokenRow: it is not a JSON object.
    """
    try:
        if not isinstance(row.data, bytes):
            return dict(row.data)
        _require_flat(row.data)
        values = _JSON.decode(row.data.removeprefix(_BOM).decode())
    except UnicodeError as error:
        raise BrokenRow(f"not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise BrokenRow(f"not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise BrokenRow(f"not JSON that can be read: {error}") from None
    if not isinstance(values, dict):
        raise BrokenRow("not a JSON object")
    return values


def _require_flat(data: bytes) -> None:
    """Refuse JSON that is nested more deeply than every interpreter can read, wherever its own limit lies.

    Brackets inside of strings are counted only where there are so many of them at all.
    """
    if data.count(b"[") + data.count(b"{") <= _DEEPEST:
        return
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            raise BrokenRow(f"nested more than {_DEEPEST} deep")
