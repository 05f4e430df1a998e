"""A raw row: what reading a source gives, before anything is parsed or judged."""

from dataclasses import dataclass
from typing import Any

Position = dict[str, Any]  # JSON; where a stream stands


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read: JSON bytes still to be parsed, or values already taken apart."""

    place: str  # file and line, for messages
    data: bytes | dict[str, Any]
    position: Position | None = None  # hub: from which reading goes on behind this row
