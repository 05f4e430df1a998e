"""Rows of conversations: each once, none too full, nearly all of them full, and the same again."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.posttraining.packing import fill, pack_lengths
from lumi.randomness import generator


@st.composite
def packings(draw):
    capacity = draw(st.integers(1, 200))
    lengths = draw(st.lists(st.integers(1, capacity), max_size=80))
    return np.array(lengths, dtype=np.int64), capacity, draw(st.integers(0, 2**40))


def as_lists(rows):
    return [row.tolist() for row in rows]


def first_fit_decreasing(lengths, capacity):
    """The number of rows that the textbook's way needs."""
    rooms = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = next((number for number, room in enumerate(rooms) if room >= length), None)
        if fitting is None:
            rooms.append(capacity - length)
        else:
            rooms[fitting] -= length
    return len(rooms)


@given(packings())
def test_each_conversation_stands_once_and_no_row_is_too_full(packing):
    lengths, capacity, seed = packing
    rows = pack_lengths(lengths, capacity, seed)
    assert sorted(chain.from_iterable(as_lists(rows))) == list(range(len(lengths)))
    assert all(0 < lengths[row].sum() <= capacity for row in rows)
    assert all(row.dtype == np.int64 for row in rows)


@given(packings())
def test_rows_follow_from_lengths_and_seed_alone(packing):
    lengths, capacity, seed = packing
    before = lengths.copy()
    assert as_lists(pack_lengths(lengths, capacity, seed)) == as_lists(pack_lengths(lengths.copy(), capacity, seed))
    assert np.array_equal(lengths, before)


@given(packings())
def test_no_two_rows_would_fit_into_one_and_first_fit_is_hardly_better(packing):
    lengths, capacity, seed = packing
    rows = pack_lengths(lengths, capacity, seed)
    filled = sorted(int(lengths[row].sum()) for row in rows)
    assert len(filled) < 2 or filled[0] + filled[1] > capacity
    assert len(rows) <= first_fit_decreasing(lengths, capacity) + 2


@pytest.mark.parametrize("capacity, lowest, highest", [(1025, 20, 400), (1025, 5, 60), (257, 10, 120)])
def test_many_short_conversations_fill_their_rows(capacity, lowest, highest):
    lengths = generator(3, "lengths").integers(lowest, highest, 4000)
    rows = pack_lengths(lengths, capacity, seed=1)
    assert fill(rows, lengths, capacity) >= 0.98
    assert len(rows) <= first_fit_decreasing(lengths, capacity) + 2
    assert fill(rows, lengths, capacity) == pytest.approx(lengths.sum() / (len(rows) * capacity))


def test_long_and_short_ones_among_one_another():
    lengths = np.array([1, 1024, 2, 1023, 500, 500, 25, 1025])
    rows = pack_lengths(lengths, 1025, seed=0)
    assert sorted(sorted(row.tolist()) for row in rows) == [[0, 1], [2, 3], [4, 5, 6], [7]]
    assert fill(rows, lengths, 1025) == 1.0


def test_another_seed_is_another_order_of_rows_and_of_equals():
    lengths = np.full(60, 10)
    one, other = (as_lists(pack_lengths(lengths, 30, seed)) for seed in (1, 2))
    assert one != other
    assert sorted(map(sorted, one)) != sorted(map(sorted, other))  # also other neighbours, not only another order
    unequal = np.arange(1, 61)
    assert as_lists(pack_lengths(unequal, 60, 1)) != as_lists(pack_lengths(unequal, 60, 2))


def test_the_order_of_rows_is_not_that_of_their_lengths():
    lengths = np.arange(1, 401)
    first = np.array([lengths[row].max() for row in pack_lengths(lengths, 400, seed=5)])
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.3


def test_no_conversations_make_no_rows():
    nothing = np.zeros(0, dtype=np.int64)
    assert pack_lengths(nothing, 10, seed=0) == []
    assert fill([], nothing, 10) == 0.0
