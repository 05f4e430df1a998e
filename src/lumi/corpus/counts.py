"""What happened to the rows of a source, counted with examples."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

EXAMPLES = 3  # of each rule, in the card


@dataclass
class SourceCounts:
    """What happened to the rows of one source, or of a part of it."""

    read: int = 0
    broken: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, num_bytes: int) -> None:
        self.kept += 1
        self.kept_bytes += num_bytes

    def drop(self, reason: str, excerpt: str) -> None:
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(excerpt)

    def take_back(self, num_bytes: int, reason: str, excerpt: str) -> None:
        """Count a document that was kept as dropped after all."""
        self.kept -= 1
        self.kept_bytes -= num_bytes
        self.drop(reason, excerpt)

    def add(self, other: "SourceCounts") -> None:
        """Take in what was counted of a later part."""
        self.read += other.read
        self.broken += other.broken
        self.kept += other.kept
        self.kept_bytes += other.kept_bytes
        self.dropped.update(other.dropped)
        self.cleaned.update(other.cleaned)
        for reason, examples in other.examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *examples][:EXAMPLES]

    def summary(self) -> dict[str, Any]:
        """Return the counts as the manifest has them."""
        return {
            "rows_read": self.read,
            "documents": self.kept,
            "bytes": self.kept_bytes,
            "broken": self.broken,
            "dropped": dict(sorted(self.dropped.items())),
            "cleaned": dict(sorted(self.cleaned.items())),
        }

    def to_json(self) -> dict[str, Any]:
        return {**self.summary(), "examples": self.examples}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            read=data["rows_read"],
            broken=data["broken"],
            kept=data["documents"],
            kept_bytes=data["bytes"],
            dropped=Counter(data["dropped"]),
            cleaned=Counter(data["cleaned"]),
            examples=data["examples"],
        )
