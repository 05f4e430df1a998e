"""Near duplicates: a text that is almost an earlier one, which stays, goes.

    bands of all texts --> texts that share one (candidates) --> their shingle sets, from disk --> verified Jaccard

Texts are asked in the order of source, then id. One goes only if its true Jaccard similarity with a text that was
kept before reaches the threshold; so neither the order of files nor the number of workers changes what stays, and a
chain of small changes never removes a text that is unlike all that stay. Memory holds what candidates share, never
anything of the others.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumi.config import Config
from lumi.corpus.minhash import BANDS, jaccard, least_agreement

_BUDGET = 8_000_000  # band keys sorted at once: 130 MB

_MANY = 8  # candidates that are compared one by one


class Shingles(Protocol):
    """What is known of candidates."""

    def of(self, text: int) -> NDArray[np.uint64]:
        """Return the shingle set of a text, ascending."""
        ...

    def sketches(self, texts: Sequence[int]) -> NDArray[np.uint16]:
        """Return the sketches of texts, [texts, SKETCH]."""
        ...


class NearDuplicatesConfig(Config):
    """Drop texts that are almost an earlier one."""

    drop_near_duplicates: bool = True
    """Look for them."""
    jaccard: float = Field(default=0.8, ge=0.7, le=1)
    """The Jaccard similarity, of the sets of 5 words in a row, from which a text goes."""


@dataclass(frozen=True)
class Candidates:
    """Texts that share a band with another: (text, bucket) pairs, ascending by text.

    A bucket is a band and a value of it; its number has no other meaning.
    """

    texts: NDArray[np.int64]
    buckets: NDArray[np.int64]

    @property
    def distinct(self) -> NDArray[np.int64]:
        """The texts, each once, ascending."""
        return np.unique(self.texts)


def candidates(bands: Sequence[NDArray[np.uint64]], chosen: NDArray[np.bool_], budget: int = _BUDGET) -> Candidates:
    """Find the texts that share a band.

    Args:
        bands: [BANDS, texts] each; they may be mapped from disk.
        chosen: which of all texts are looked at, [texts of all].
        budget: keys in memory at once; more are sorted in pieces, by a part of their value.
    """
    texts: list[NDArray[np.int64]] = []
    buckets: list[NDArray[np.int64]] = []
    number = 0
    starts = np.concatenate(([0], np.cumsum([part.shape[1] for part in bands])))
    pieces = max(1, -(-int(chosen.sum()) // budget))
    for band in range(BANDS):
        for piece in range(pieces):
            keys, places = [], []
            for start, part in zip(starts[:-1].tolist(), bands, strict=True):
                key = part[band]
                wanted = chosen[start : start + len(key)] & (key != 0)
                if pieces > 1:
                    wanted &= key % np.uint64(pieces) == piece
                here = np.flatnonzero(wanted)
                keys.append(key[here])
                places.append(here + start)
            key, place = np.concatenate(keys), np.concatenate(places)
            if not len(key):
                continue
            order = np.argsort(key)
            ordered = key[order]
            same = np.concatenate(([False], ordered[1:] == ordered[:-1], [False]))
            shared = same[:-1] | same[1:]
            texts.append(place[order[shared]])
            bucket = np.cumsum((~same[:-1])[shared])  # a new one where a value first occurs
            buckets.append(bucket + number)
            number += int(bucket[-1]) if len(bucket) else 0
    if not texts:
        return Candidates(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    all_texts, all_buckets = np.concatenate(texts), np.concatenate(buckets)
    order = np.argsort(all_texts, kind="stable")
    return Candidates(all_texts[order], all_buckets[order])


@dataclass(frozen=True)
class Duplicate:
    """A text that goes, and the kept one because of which."""

    text: int
    kept: int
    jaccard: float


@dataclass
class Clusters:
    """What near-dedup found."""

    duplicates: list[Duplicate] = field(default_factory=list)
    candidates: int = 0  # texts that share a band with another
    verified: int = 0  # pairs whose Jaccard similarity was worked out

    @property
    def sizes(self) -> Counter[int]:
        """How many clusters there are of each size, the kept text included."""
        return Counter(size + 1 for size in Counter(duplicate.kept for duplicate in self.duplicates).values())

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of them."""
        return {
            "clusters": {str(size): number for size, number in sorted(self.sizes.items())},
            "candidates": self.candidates,
            "verified_pairs": self.verified,
        }


def near_duplicates(
    found: Candidates,
    order: NDArray[np.int64],
    shingles: Shingles,
    threshold: float,
    on_done: Callable[[int], None] = lambda number: None,
) -> Clusters:
    """Decide which candidates go.

    Args:
        found: the candidates.
        order: the candidates' texts (`Candidates.distinct`) in the order in which they are asked.
        shingles: of the candidates.
        threshold: the Jaccard similarity from which a text goes.
        on_done: told after each text.
    """
    clusters = Clusters(candidates=len(order))
    members: defaultdict[int, list[int]] = defaultdict(list)  # kept texts by bucket
    starts = np.searchsorted(found.texts, order)
    ends = np.searchsorted(found.texts, order, side="right")
    for text, start, end in zip(order.tolist(), starts.tolist(), ends.tolist(), strict=True):
        buckets = found.buckets[start:end].tolist()
        others = list(dict.fromkeys(kept for bucket in buckets for kept in members[bucket]))
        twin = _twin(text, others, shingles, threshold, clusters)
        if twin is not None:
            clusters.duplicates.append(twin)
        else:
            for bucket in buckets:
                members[bucket].append(text)
        on_done(1)
    return clusters


def _twin(
    text: int, others: Sequence[int], shingles: Shingles, threshold: float, clusters: Clusters
) -> Duplicate | None:
    """Return the first of the others that a text is a near duplicate of."""
    if len(others) > _MANY:
        # Pages of one template share bands by the thousand: all sketches are compared at once.
        (own,), theirs = shingles.sketches([text]), shingles.sketches(others)
        alike = (theirs == own).sum(axis=1) >= least_agreement(threshold)
        others = [other for other, is_alike in zip(others, alike.tolist(), strict=True) if is_alike]
    for other in others:
        a, b = shingles.of(text), shingles.of(other)
        if min(len(a), len(b)) < threshold * max(len(a), len(b)):
            continue  # sets of such different sizes cannot be that similar
        clusters.verified += 1
        if (similarity := jaccard(a, b)) >= threshold:
            return Duplicate(text, other, similarity)
    return None
