"""What can be said of texts without judging them: whether they end, how much they repeat, how varied and long.

No score of quality is made of these; each says one thing, and how it is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lumi.inference import Completion


@dataclass(frozen=True)
class GenerationFigures:
    """Figures of some answers; words are what blanks separate."""

    answers: int
    stop_rate: float
    """Share that ended by themselves, before their longest length."""
    repetition: float
    """Mean over the answers of the share of their 4-word runs that stood before in the same answer."""
    distinct_1: float
    """Share of different ones among all words, over all answers (arXiv:1510.03055)."""
    distinct_2: float
    """The same of pairs of neighbouring words."""
    mean_tokens: float
    """Mean length, end tokens not counted."""

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def figures_of(completions: Sequence[Completion]) -> GenerationFigures:
    """Return the figures of answers; there is at least one."""
    words = [completion.text.split() for completion in completions]
    count = len(completions)
    return GenerationFigures(
        answers=count,
        stop_rate=sum(completion.finish_reason == "stop" for completion in completions) / count,
        repetition=sum(repetition(answer) for answer in words) / count,
        distinct_1=distinct(words, 1),
        distinct_2=distinct(words, 2),
        mean_tokens=sum(len(completion.token_ids) for completion in completions) / count,
    )


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Return the share of runs of n words that stood before; 0 for texts that have none."""
    runs = Counter(_runs(words, n))
    return 1 - len(runs) / runs.total() if runs else 0.0


def distinct(texts: Sequence[Sequence[str]], n: int = 2) -> float:
    """Return the share of different runs of n words among all; 0 where there are none."""
    runs = [run for words in texts for run in _runs(words, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
