"""Exact duplicates: a text that stood earlier in the corpus goes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BUDGET = 4_000_000  # documents sorted at once: 100 MB


def first_of_each(digests: Sequence[NDArray[np.uint64]], budget: int = _BUDGET) -> NDArray[np.bool_]:
    """Return for each document, in order over all arrays, whether no earlier one has the same digest.

    Args:
        digests: two uint64 a document, [documents, 2] each; they may be mapped from disk.
        budget: documents in memory at once; more are sorted in pieces, by a part of their digest.
    """
    total = sum(len(part) for part in digests)
    first = np.zeros(total, dtype=np.bool_)
    pieces = -(-total // budget)
    for piece in range(pieces):
        keys, places = [], []
        start = 0
        for part in digests:
            chosen = np.flatnonzero(part[:, 0] % np.uint64(pieces) == piece)
            keys.append(part[chosen])
            places.append(chosen + start)
            start += len(part)
        key, place = np.concatenate(keys), np.concatenate(places)
        order = np.lexsort((key[:, 1], key[:, 0]))  # stable: the earliest of equal ones comes first
        ordered = key[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        first[place[order[new]]] = True
    return first
