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
    examples: dict[str, list[str]] = field(default_factory=dict)  # of dropped texts by rule
    cut: Counter[str] = field(default_factory=Counter)  # paragraphs by test set
    cut_examples: dict[str, list[str]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)  # of all texts of a usable length
    bins: dict[str, list[int]] = field(default_factory=dict)  # of the same texts, by statistic (`quality.HISTOGRAMS`)

    def keep(self, num_bytes: int) -> None:
        self.kept += 1
        self.kept_bytes += num_bytes

    def drop(self, reason: str, excerpt: str) -> None:
        self.dropped[reason] += 1
        _add_example(self.examples, reason, excerpt)

    def count_cut(self, test_set: str, excerpt: str) -> None:
        self.cut[test_set] += 1
        _add_example(self.cut_examples, test_set, excerpt)

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
        self.cut.update(other.cut)
        self.languages.update(other.languages)
        for mine, others in ((self.examples, other.examples), (self.cut_examples, other.cut_examples)):
            for name, examples in others.items():
                mine[name] = [*mine.get(name, []), *examples][:EXAMPLES]
        for name, bins in other.bins.items():
            own = self.bins.get(name, [0] * len(bins))
            self.bins[name] = [a + b for a, b in zip(own, bins, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Return the counts as the manifest has them."""
        return {
            "rows_read": self.read,
            "documents": self.kept,
            "bytes": self.kept_bytes,
            "broken": self.broken,
            "dropped": dict(sorted(self.dropped.items())),
            "cleaned": dict(sorted(self.cleaned.items())),
            "cut": dict(sorted(self.cut.items())),
            "languages": dict(self.languages.most_common()),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            **self.summary(), "examples": self.examples, "cut_examples": self.cut_examples, "bins": self.bins,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            read=data["rows_read"],
            broken=data["broken"],
            kept=data["documents"],
            kept_bytes=data["bytes"],
            dropped=Counter(data["dropped"]),
            cleaned=Counter(data["cleaned"]),
            cut=Counter(data["cut"]),
            languages=Counter(data["languages"]),
            examples=data["examples"],
            cut_examples=data["cut_examples"],
            bins=data["bins"],
        )


def _add_example(examples: dict[str, list[str]], name: str, excerpt: str) -> None:
    shown = examples.setdefault(name, [])
    if len(shown) < EXAMPLES:
        shown.append(excerpt)
