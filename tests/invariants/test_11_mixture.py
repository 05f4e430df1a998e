"""Invariant 11: the properties of the data order (DESIGN: data order is a pure function)."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.errors import ConfigError, ResumeError

WEIGHTS = st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(any)


@given(WEIGHTS, st.integers(0, 200))
def test_every_prefix_is_within_one_row_of_the_shares(weights, extra):
    sampler = WeightedMultiDatasetSampler([7] * len(weights), weights)
    length = 2 * sum(weights) + extra  # across the end of the period
    drawn, _ = sampler.samples(0, length)
    positions = np.arange(1, length + 1)
    for index, weight in enumerate(weights):
        share = Fraction(weight, sum(weights))
        off = np.cumsum(drawn == index) * share.denominator - positions * share.numerator
        assert np.abs(off).max() < share.denominator
    assert sampler.rows_drawn(length) == np.bincount(drawn, minlength=len(weights)).tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 5))
def test_each_row_comes_once_per_epoch(sizes, seed):
    sampler = WeightedMultiDatasetSampler(sizes, [1] * len(sizes), seed)
    drawn, rows = sampler.samples(0, 3 * max(sizes) * len(sizes))
    orders = []
    for index, size in enumerate(sizes):
        mine = rows[drawn == index]
        for epoch in range(len(mine) // size):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == list(range(size))
            orders.append(tuple(mine[epoch * size : (epoch + 1) * size]))
    if max(sizes) > 10:
        assert len(set(orders)) > 1  # epochs are shuffled anew


@given(WEIGHTS, st.integers(0, 500), st.integers(1, 60))
def test_any_position_is_reached_directly(weights, start, count):
    sizes = [5 + 3 * index for index in range(len(weights))]
    sampler = WeightedMultiDatasetSampler(sizes, weights, seed=1)
    whole = np.stack(sampler.samples(0, start + count))
    assert np.array_equal(whole[:, start:], np.stack(sampler.samples(start, count)))
    assert sampler.sample(start) == tuple(whole[:, start])


def test_weights_are_the_decimals_they_are_written_as():
    assert WeightedMultiDatasetSampler([5, 5], [0.3, 0.7]).shares == [Fraction(3, 10), Fraction(7, 10)]
    assert WeightedMultiDatasetSampler([100, 300]).shares == [Fraction(1, 4), Fraction(3, 4)]
    assert 0 not in WeightedMultiDatasetSampler([5, 5], [0, 1]).samples(0, 50)[0]


@pytest.mark.parametrize("weights", [[0.5], [1, -1], [0, 0], [0.1234567891, 0.8765432109]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ConfigError):
        WeightedMultiDatasetSampler([5, 5], weights)


@pytest.fixture
def loader(packed, packed_other):
    made = []

    def make(**options):
        datasets = [ShardedTokenizedDataset(path, "train") for path in (packed, packed_other)]
        sampler = WeightedMultiDatasetSampler(
            [len(d) for d in datasets], options.pop("weights", [0.3, 0.7]), options.pop("seed", 3)
        )
        made.append(BatchLoader(datasets, sampler, batch_size=8, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_order_does_not_depend_on_the_number_of_ranks(loader, world_size):
    alone = loader()
    ranks = [loader(rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(40):
        assert np.array_equal(alone.next_batch(), np.concatenate([rank.next_batch() for rank in ranks]))


@pytest.mark.parametrize("stop", [0, 1, 7, 23, 39])
def test_a_resumed_loader_goes_on_where_it_stopped(loader, stop):
    """40 batches of 8 rows go through several epochs of the smaller data set."""
    whole = loader()
    expected = [whole.next_batch() for _ in range(40)]
    first = loader()
    for _ in range(stop):
        first.next_batch()
    again = loader()
    again.next_batch()  # what it read ahead must not show
    again.load_state_dict(first.state_dict())
    for batch in expected[stop:]:
        assert np.array_equal(again.next_batch(), batch)
    assert again.rows_drawn() == whole.rows_drawn()


@pytest.mark.parametrize("other", [{"seed": 4}, {"weights": [0.4, 0.6]}])
def test_a_position_of_other_data_is_refused(loader, other):
    with pytest.raises(ResumeError, match="other data"):
        loader(**other).load_state_dict(loader().state_dict())
