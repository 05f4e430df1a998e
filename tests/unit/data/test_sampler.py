"""The sampler's weights and patterns, beyond the properties of invariant 11."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.data import WeightedMultiDatasetSampler
from lumi.data.sampler import mixing_pattern
from lumi.errors import ConfigError


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6))
def test_a_prefix_is_off_by_no_more_than_the_bound_of_tijdeman(weights):
    """1 - 1/(2n - 2) rows, which is less than one."""
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    pattern = mixing_pattern(shares)
    bound = 1 - Fraction(1, 2 * len(weights) - 2)
    drawn = np.cumsum(pattern[None] == np.arange(len(weights))[:, None], axis=1)
    for index, share in enumerate(shares):
        assert drawn[index, -1] == share * len(pattern)  # so that the next period begins without a debt
        off = drawn[index] * share.denominator - np.arange(1, len(pattern) + 1) * share.numerator
        assert np.abs(off).max() <= bound * share.denominator


def test_shares_for_which_the_greedy_choice_runs_more_than_a_row_off():
    """Largest debt first is 1.08 rows off here; the pattern must not."""
    weights = [1, 1, 1, 7, 7, 7]
    shares = [Fraction(weight, 24) for weight in weights]

    def largest_error(pattern):
        drawn = np.cumsum(np.asarray(pattern)[None] == np.arange(6)[:, None], axis=1)
        return np.abs(drawn - np.outer([float(share) for share in shares], np.arange(1, 25))).max()

    greedy, taken = [], [0] * 6
    for position in range(1, 25):
        greedy.append(max(range(6), key=lambda index: shares[index] * position - taken[index]))
        taken[greedy[-1]] += 1
    assert largest_error(greedy) > 1
    assert largest_error(mixing_pattern(shares)) < 1


def test_default_weights_are_the_sizes_on_a_grid_that_keeps_the_period_short():
    sampler = WeightedMultiDatasetSampler([27_855_123, 3, 9_999_991])
    assert sum(sampler.shares) == 1
    assert sampler.shares[1] > 0  # even the smallest takes part
    assert float(sampler.shares[0]) == pytest.approx(27_855_123 / 37_855_117, abs=1 / 2048)
    assert max(share.denominator for share in sampler.shares) <= 4096 + 3


def test_a_far_position_costs_no_more_than_a_near_one():
    sampler = WeightedMultiDatasetSampler([100, 300], ["0.3", "0.7"], seed=1)
    far = 10**13
    assert sampler.rows_drawn(far) == [3 * 10**12, 7 * 10**12]
    assert sampler.epochs(far) == [3 * 10**10, 7 * 10**12 / 300]
    dataset, row = sampler.sample(far)
    assert 0 <= row < (100, 300)[dataset]


def test_the_seed_decides_the_order():
    orders = {tuple(WeightedMultiDatasetSampler([50], None, seed).samples(0, 50)[1]) for seed in (1, 2, 1)}
    assert len(orders) == 2


def test_data_sets_of_one_size_are_shuffled_apart():
    drawn, rows = WeightedMultiDatasetSampler([50, 50], [1, 1], seed=1).samples(0, 100)
    assert rows[drawn == 0].tolist() != rows[drawn == 1].tolist()


@pytest.mark.parametrize(
    "sizes, weights, message",
    [
        ([5, 5], [0.5], "1 weights for 2 data sets"),
        ([5, 5], [0.5, 0.2, 0.3], "3 weights for 2 data sets"),
        ([5, 5], [-0.1, 1.1], "must not be negative"),
        ([5, 5], [0, 0], "one must be above zero"),
        ([5, 5], ["a", 1], "not all are numbers"),
        ([5, 5], ["nan", 1], "not all are numbers"),
        ([5, 5], [0.123456789, 0.876543211], "fewer decimals"),
        ([5, 0], None, "data set 1 .* has no rows"),
        ([0, 5], [0.5, 0.5], "data set 0 .* has no rows"),
    ],
)
def test_impossible_weights_are_refused_with_the_way_out(sizes, weights, message):
    with pytest.raises(ConfigError, match=message) as caught:
        WeightedMultiDatasetSampler(sizes, weights)
    assert caught.value.way_out


def test_a_data_set_without_rows_may_have_no_weight():
    drawn, _ = WeightedMultiDatasetSampler([0, 5], [0, 1]).samples(0, 20)
    assert set(drawn) == {1}
