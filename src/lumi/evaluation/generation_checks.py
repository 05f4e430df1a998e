"""What can be said of answers without judging them: whether they end, how much they repeat, how varied and long.

No score of quality is made of these; each says one thing, and how it is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from lumi.inference import Completion


@dataclass(frozen=True)
class GenerationFigures:
    """Figures of some answers; words are what blanks separate."""

    answers: int
    stop_rate: float
    """Share that ended by themselves, before their longest length."""
    repetition: float
    """Mean over the answers of the share of their 4-word runs that stood before in the same answer."""
    distinct_2: float
    """Share of different ones among all pairs of neighbouring words, over all answers (arXiv:1510.03055)."""
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
        distinct_2=distinct(words),
        mean_tokens=sum(len(completion.token_ids) for completion in completions) / count,
    )


def repetition(words: Sequence[str], n: int = 4) -> float:
    """Return the share of runs of n words that stood before; 0 for texts that have none."""
    runs = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


def distinct(texts: Sequence[Sequence[str]]) -> float:
    """Return the share of different pairs of neighbouring words among all; 0 where there are none."""
    pairs = [pair for words in texts for pair in pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
