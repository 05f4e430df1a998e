"""Packing conversations into rows: a pure function of their lengths and the seed.

    lengths --(best fit, longest first)--> rows --(shuffled by the seed)--> row i: conversations, in order

Which conversations share a row means nothing, as attention stays inside each; so rows are made once, and the data
order takes them epoch by epoch like rows of packed text.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lumi.randomness import generator

Row = NDArray[np.int64]


def pack_lengths(lengths: NDArray[np.int64], capacity: int, seed: int) -> list[Row]:
    """Return which conversations stand in each row.

    Best fit decreasing needs at most 11/9 of the fewest rows (Johnson 1973); with many short conversations it wastes
    next to nothing.

    Args:
        lengths: tokens of each conversation, none above the capacity.
        capacity: tokens of a row.
        seed: names the order of rows and, among equal lengths, of conversations.
    """
    draw = generator(seed, "conversation rows")
    order = draw.permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # rows by the tokens they have left
    rooms: list[int] = []  # the keys, ascending
    for conversation in order.tolist():
        length = int(lengths[conversation])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room]
                rooms.pop(at)
        rows[row].append(conversation)
        if (left := room - length) > 0:
            if left not in with_room:
                insort(rooms, left)
                with_room[left] = []
            with_room[left].append(row)
    return [np.array(rows[number], dtype=np.int64) for number in draw.permutation(len(rows))]


def fill(rows: Sequence[Row], lengths: NDArray[np.int64], capacity: int) -> float:
    """Return the share of the rows' places that hold a token."""
    return float(lengths.sum()) / (len(rows) * capacity) if len(rows) else 0.0
