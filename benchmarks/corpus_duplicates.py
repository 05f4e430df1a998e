"""Planted duplicates, the exact truth about them, and the score of a tool that claims some.

    passages --> copies: exact, written otherwise, edited, half rewritten --> documents
    documents --> sets of 5 words in a row --> every pair of them with its exact Jaccard similarity --> score

Truth is worked out with Python sets over all pairs of documents, not over the planted ones alone: real text holds
near duplicates that nobody planted, and a tool is right to remove them.
"""

import random
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

SHINGLE = 5  # words
TRUE = 0.8  # Jaccard similarity from which a tool should remove one of two
TOLERATED = 0.7  # below it a removal is wrong
BELOW = "J 0.3-0.7"  # the kind of copies that should stay
_WORD = re.compile(r"[^\W_]+")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Planted:
    """A document of the trial; ``base`` is the passage that it was made of, ``kind`` the way ("" for a passage)."""

    number: int
    base: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """How a tool did.

    Attributes:
        recall: share of the pairs of `TRUE` similarity and more of which at most one is left.
        precision: share of the removed that are as similar as `TOLERATED` to some other document.
        covered: share of the removed that are so to a document that was kept.
        by_kind: recall among the planted pairs of each kind.
        spared: share of the pairs planted below `TOLERATED` of which both are left, as they should.
        removed: how many documents went.
    """

    recall: float
    precision: float
    covered: float
    by_kind: Mapping[str, float]
    spared: float
    removed: int


def words_of(text: str) -> list[str]:
    """Return the words: maximal runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def shingles_of(text: str) -> list[str]:
    """Return the shingles of a text, with repetitions; of a text of fewer words, all its words as one."""
    words = words_of(text)
    return [" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))] if words else []


def jaccard(a: Set[int], b: Set[int]) -> float:
    """Return the Jaccard similarity of two sets; 0 for two empty ones."""
    shared = len(a & b)
    return shared / max(len(a) + len(b) - shared, 1)


def numbered(texts: Sequence[str]) -> list[frozenset[int]]:
    """Return the shingle sets of texts, each distinct shingle a number: exact, and less to hold than strings."""
    numbers: dict[str, int] = {}
    return [frozenset(numbers.setdefault(shingle, len(numbers)) for shingle in shingles_of(text)) for text in texts]


def similar_pairs(sets: Sequence[Set[int]], threshold: float) -> dict[tuple[int, int], float]:
    """Return every pair (lower number first) of at least this Jaccard similarity, above 0, with it.

    No pair is missed: two sets that similar share one of the rarest ``|S| - threshold |S| + 1`` members of each
    (prefix filtering, Chaudhuri et al. 2006), so only sets that do are compared.
    """
    counts = Counter(member for members in sets for member in members)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    pairs: dict[tuple[int, int], float] = {}
    for number, members in enumerate(sets):
        rarest = sorted(members, key=lambda member: (counts[member], member))
        prefix = rarest[: len(members) - int(threshold * len(members)) + 1]
        for other in sorted({other for member in prefix for other in holders[member]}):
            if (similarity := jaccard(members, sets[other])) >= threshold:
                pairs[other, number] = similarity
        for member in prefix:
            holders[member].append(number)
    return pairs


def passages(texts: Iterator[str], shortest: int, longest: int, rng: random.Random) -> Iterator[str]:
    """Yield passages of ``shortest`` to ``longest`` words: short texts whole, of a long one a part from within."""
    for text in texts:
        spans = [found.span() for found in _WORD.finditer(text)]
        if shortest <= len(spans) <= longest:
            yield text
        elif len(spans) > longest:
            length = rng.randint(shortest, longest)
            first = rng.randint(0, len(spans) - length)
            yield text[spans[first][0] : spans[first + length - 1][1]]


def _replaced(text: str, places: Sequence[int], vocabulary: Sequence[str], rng: random.Random) -> str:
    """Return the text with other words at these places."""
    chosen = set(places)
    parts, at = [], 0
    for number, found in enumerate(_WORD.finditer(text)):
        if number in chosen:
            parts += [text[at : found.start()], rng.choice(vocabulary)]
            at = found.end()
    return "".join([*parts, text[at:]])


def _block(share: float, text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """Replace this share of the words, all in one place."""
    total = len(_WORD.findall(text))
    length = max(1, round(share * total))
    first = rng.randint(0, total - length)
    return _replaced(text, range(first, first + length), vocabulary, rng)


def _with_similarity(lowest: float, highest: float) -> Callable[[str, Sequence[str], random.Random], str]:
    def edit(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
        similarity = rng.uniform(lowest, highest)
        share = (1 - similarity) / (1 + similarity)  # Jaccard similarity of n shingles with this share replaced
        return _block(share, text, vocabulary, rng)

    return edit


def _rewritten(text: str, _vocabulary: Sequence[str], rng: random.Random) -> str:
    """Return the same words in other case and with other blanks between them."""
    cased = rng.choice([str.upper, str.lower, str.title, str.swapcase])(text)
    return _BLANKS.sub(lambda _blank: rng.choice([" ", "  ", "\n", "\t", "\n\n"]), cased)


def _scattered(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """Replace every hundredth word, anywhere."""
    total = len(_WORD.findall(text))
    return _replaced(text, rng.sample(range(total), max(1, round(0.01 * total))), vocabulary, rng)


KINDS: dict[str, Callable[[str, Sequence[str], random.Random], str]] = {
    "exact": lambda text, _vocabulary, _rng: text,
    "blanks and case": _rewritten,
    "block of 5 %": lambda text, vocabulary, rng: _block(0.05, text, vocabulary, rng),
    "scattered 1 %": _scattered,
    "J 0.80-0.85": _with_similarity(0.8, 0.85),
    BELOW: _with_similarity(0.3, 0.7),
}


def plant(bases: Sequence[str], seed: int = 0) -> list[Planted]:
    """Return passages and copies of them, shuffled: a sixth of the passages for each kind, one copy or two."""
    rng = random.Random(seed)
    vocabulary = sorted({word for text in bases for word in words_of(text)})
    kinds = list(KINDS)
    made: list[tuple[int, str, str]] = []
    for base, text in enumerate(bases):
        kind = kinds[base % len(kinds)]
        made.append((base, "", text))
        made += [(base, kind, KINDS[kind](text, vocabulary, rng)) for _ in range(1 + (base % 4 == 0))]
    rng.shuffle(made)
    return [Planted(number, *rest) for number, rest in enumerate(made)]


@dataclass(frozen=True)
class Truth:
    """What is known of the documents.

    Attributes:
        similar: every pair of at least `TOLERATED`, with its Jaccard similarity.
        planted: every pair made of one passage, with it.
        kinds: the kind of each planted pair.
    """

    similar: Mapping[tuple[int, int], float]
    planted: Mapping[tuple[int, int], float]
    kinds: Mapping[tuple[int, int], str]

    @classmethod
    def of(cls, documents: Sequence[Planted]) -> "Truth":
        """Work out the truth; ``documents`` are numbered as they stand."""
        sets = numbered([document.text for document in documents])
        groups: defaultdict[int, list[Planted]] = defaultdict(list)
        for document in documents:
            groups[document.base].append(document)
        kinds = {
            (a.number, b.number): a.kind or b.kind
            for group in groups.values()
            for at, b in enumerate(group)
            for a in group[:at]
        }
        planted = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in kinds}
        return cls(similar_pairs(sets, TOLERATED), planted, kinds)

    def score(self, kept: Set[int], total: int) -> Score:
        """Return how good it is to keep these of ``total`` documents."""
        removed = set(range(total)) - kept
        twins: defaultdict[int, list[int]] = defaultdict(list)
        for a, b in self.similar:
            twins[a].append(b)
            twins[b].append(a)
        due = [pair for pair, similarity in self.similar.items() if similarity >= TRUE]
        by_kind: defaultdict[str, list[bool]] = defaultdict(list)
        spared = []
        for pair, similarity in self.planted.items():
            both = pair[0] in kept and pair[1] in kept
            if similarity >= TRUE:
                by_kind[self.kinds[pair]].append(not both)
            elif similarity < TOLERATED and self.kinds[pair] == BELOW:
                spared.append(both)
        return Score(
            recall=_share([not (a in kept and b in kept) for a, b in due]),
            precision=_share([bool(twins[number]) for number in removed]),
            covered=_share([any(twin in kept for twin in twins[number]) for number in removed]),
            by_kind={kind: _share(found) for kind, found in by_kind.items()},
            spared=_share(spared),
            removed=len(removed),
        )

    def histogram(self, edges: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)) -> dict[str, int]:
        """Return how many planted pairs there are from each edge to the next, 1 by itself."""
        counts = Counter(max(0, bisect_left(edges, similarity + 1e-12) - 1) for similarity in self.planted.values())
        return {f"{edge:g}": counts[at] for at, edge in enumerate(edges)}


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 1.0
