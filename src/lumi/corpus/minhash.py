"""MinHash: short signatures of texts that agree as often as the texts' words do (Broder 1997).

    words --> shingles, 5 words in a row --> the least of 100 permuted hashes --> 20 bands of 5

Two texts whose shingle sets have Jaccard similarity J share at least one band with probability
1 - (1 - J^5)^20: 0.9996 at 0.8, 0.976 at 0.7, 0.47 at 0.5. Bands only propose; `near_duplicates` verifies.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lumi.corpus.words import Words, mixed

SHINGLE = 5  # words
BANDS = 20
ROWS = 5  # hashes in a band
SKETCH = 256  # hashes that candidates are compared by before they are verified
_SEED = 0x6C756D69
_MULTIPLIERS = np.random.Generator(np.random.Philox(_SEED)).integers(1 << 63, size=SKETCH, dtype=np.uint64) * 2 + 1
_NONE = np.uint64(0)  # the band of a text without a word


def _shingles(words: Words) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the shingles text after text, with repetitions, and where each text's begin ([texts + 1])."""
    parts = [(hashes, whole) for n, hashes, whole in words.ngrams(SHINGLE)]
    hashes, whole = parts[-1]
    places = np.flatnonzero(whole)
    chosen = hashes[places]
    short = np.flatnonzero((words.counts > 0) & (words.counts < SHINGLE))  # one shingle of all the words there are
    if len(short):
        first = words.first[short]
        whole_texts = [parts[count - 1][0][at] for at, count in zip(first, words.counts[short], strict=True)]
        places = np.concatenate((places, first))
        order = np.argsort(places, kind="stable")
        places, chosen = places[order], np.concatenate((chosen, np.array(whole_texts, dtype=np.uint64)))[order]
    return mixed(chosen), np.searchsorted(places, words.first)


def shingle_sets(words: Words) -> list[NDArray[np.uint64]]:
    """Return the set of shingles of each text, ascending."""
    hashes, starts = _shingles(words)
    return [np.unique(hashes[start:end]) for start, end in itertools.pairwise(starts)]


def bands_of(words: Words) -> NDArray[np.uint64]:
    """Return the bands of each text, [BANDS, texts]; 0 stands for a text without a word."""
    bands = np.repeat(np.arange(1, BANDS + 1, dtype=np.uint64)[:, None], len(words.counts), axis=1)
    for number, least in enumerate(_minima(words, BANDS * ROWS)):
        bands[number // ROWS] = mixed(bands[number // ROWS] ^ least)
    bands[:, words.counts == 0] = _NONE
    return bands


def sketches_of(words: Words) -> NDArray[np.uint16]:
    """Return 16 bits of each of `SKETCH` minima of each text, [texts, SKETCH]: what many candidates are compared by."""
    return np.stack([(least >> np.uint64(48)).astype(np.uint16) for least in _minima(words, SKETCH)], axis=1)


def least_agreement(similarity: float) -> int:
    """Return the fewest equal numbers in the sketches of two texts of at least this Jaccard similarity.

    Six standard deviations below their mean: fewer come once in a thousand million pairs.
    """
    return int(SKETCH * similarity - 6 * (SKETCH * similarity * (1 - similarity)) ** 0.5)


def _minima(words: Words, count: int) -> Iterator[NDArray[np.uint64]]:
    """Yield the least of each text's hashes, [texts], under one permutation after the other; 0 for a text without any.

    Multiplying by an odd number permutes the 64-bit numbers; the high bits of the products are what the order is by.
    """
    hashes, starts = _shingles(words)
    filled = np.flatnonzero(np.diff(starts))
    for multiplier in _MULTIPLIERS[:count]:
        least = np.zeros(len(starts) - 1, dtype=np.uint64)
        if len(filled):
            least[filled] = np.minimum.reduceat(hashes * multiplier, starts[filled])
        yield least


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Return the Jaccard similarity of two sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(len(a) + len(b) - shared, 1)
