"""Standard errors and the paired bootstrap, against closed forms and by simulation."""

import math
import statistics

import numpy as np
import pytest

from lumi.evaluation.significance import accuracy_error, holm, paired_bootstrap, ratio_error


def test_the_error_of_an_accuracy_is_the_deviation_over_the_root():
    outcomes = [1.0] * 30 + [0.0] * 70
    assert accuracy_error(outcomes) == pytest.approx(statistics.stdev(outcomes) / math.sqrt(100))
    assert accuracy_error(outcomes) == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    assert accuracy_error([1.0] * 9) == 0.0
    assert accuracy_error([1.0]) == 0.5  # nothing is known, and nothing is worse


def test_the_error_of_a_ratio_with_equal_weights_is_that_of_a_mean():
    outcomes = np.random.default_rng(0).random(200)
    assert ratio_error(outcomes, np.ones(200)) == pytest.approx(accuracy_error(outcomes))
    assert ratio_error(outcomes * 8, np.full(200, 8.0)) == pytest.approx(accuracy_error(outcomes))
    assert ratio_error([3.0], [2.0]) is None
    assert ratio_error([3.0, 6.0, 30.0], [1.0, 2.0, 10.0]) == 0.0  # all pieces have the same ratio


def test_the_error_of_a_ratio_is_the_deviation_over_many_samples():
    draws = np.random.default_rng(1)

    def sample():
        weights = draws.gamma(2.0, 500.0, 300)
        return weights * (1.7 + 0.4 * draws.standard_normal(300)), weights

    ratios, errors = [], []
    for _ in range(400):
        values, weights = sample()
        ratios.append(values.sum() / weights.sum())
        errors.append(ratio_error(values, weights))
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(ratios), rel=0.1)


def test_the_interval_covers_the_true_difference():
    """Documents of different length; the second model is better by 0.05 bits per byte."""
    draws = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        weights = draws.gamma(4.0, 250.0, 80)
        hardness = 1.8 + 0.5 * draws.standard_normal(80)  # of both models: what pairing takes out
        first = weights * (hardness + 0.05 * draws.standard_normal(80))
        second = weights * (hardness - 0.05 + 0.05 * draws.standard_normal(80))
        found = paired_bootstrap(second, first, weights, seed=trial, resamples=1000)
        covered += found.low <= -0.05 <= found.high
        assert found.low <= found.difference <= found.high
        assert found.p_value < 0.01  # with pairing; the models' own errors are as large as the difference
    assert 0.90 <= covered / 200 <= 0.98


@pytest.mark.parametrize("kind", ["accuracy", "bits"])
def test_where_there_is_no_difference_p_is_uniform(kind):
    draws = np.random.default_rng(3)
    found = []
    for trial in range(400):
        if kind == "accuracy":
            weights = np.ones(120)
            one, other = ((draws.random(120) < 0.4).astype(float) for _ in range(2))
        else:
            weights = draws.gamma(4.0, 250.0, 120)
            one, other = (weights * (1.8 + 0.3 * draws.standard_normal(120)) for _ in range(2))
        found.append(paired_bootstrap(one, other, weights, seed=trial, resamples=1000).p_value)
    for level in (0.05, 0.25, 0.5, 0.75):
        # four standard deviations of a share of 400; ties of accuracies make p rather too large
        room = 4 * math.sqrt(level * (1 - level) / 400)
        assert level - room - 0.05 * (kind == "accuracy") <= np.mean(np.array(found) <= level) <= level + room


def test_equal_inputs_differ_by_nothing():
    values, weights = np.random.default_rng(4).random((2, 50))
    found = paired_bootstrap(values, values, weights, seed=0)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_piece_keeps_its_weight():
    """Better by the same share of every byte, however long the pieces are: there is nothing uncertain about that."""
    weights = np.random.default_rng(8).gamma(1.0, 500.0, 50)
    found = paired_bootstrap(1.75 * weights, 1.80 * weights, weights, seed=0)
    assert found.low == pytest.approx(-0.05)
    assert found.high == pytest.approx(-0.05)


def test_the_sign_is_that_of_the_first_less_the_second():
    first, second = np.ones(40), np.zeros(40)
    found = paired_bootstrap(first, second, np.full(40, 2.0), seed=0)
    assert found.difference == found.low == found.high == 0.5
    assert found.p_value == pytest.approx(2 / 10_001)
    assert paired_bootstrap(second, first, np.full(40, 2.0), seed=0).difference == -0.5


def test_a_few_pieces_prove_nothing():
    lone = paired_bootstrap([1.0], [0.0], [1.0], seed=0)
    assert (lone.difference, lone.p_value) == (1.0, 1.0)
    # three of 100 differ, all one way: swapping models piece by piece gives as much one time in four
    first = np.array([1.0] * 3 + [0.0] * 97)
    assert paired_bootstrap(first, np.zeros(100), np.ones(100), seed=0).p_value >= 0.25


def test_pieces_without_weight_are_borne():
    weights = [0.0] * 30 + [5.0]
    found = paired_bootstrap([0.0] * 30 + [10.0], [0.0] * 30 + [5.0], weights, seed=0)
    assert found.difference == 1.0
    assert (found.low, found.high) == (0.0, 1.0)


def test_few_kinds_of_pieces_are_drawn_like_many():
    """Counts of kinds are drawn at once; values that all differ, piece by piece. Both must say the same."""
    draws = np.random.default_rng(5)
    first, second = (draws.random((2, 400)) < 0.5).astype(float)
    jitter = 1e-9 * draws.standard_normal(400)  # makes every piece a kind of its own
    plain = paired_bootstrap(first + jitter, second, np.ones(400), seed=0)
    quick = paired_bootstrap(first, second, np.ones(400), seed=0)
    assert quick.low == pytest.approx(plain.low, abs=0.006)
    assert quick.high == pytest.approx(plain.high, abs=0.006)
    assert quick.p_value == pytest.approx(plain.p_value, abs=0.05)


def test_the_same_seed_gives_the_same():
    first, second, weights = np.random.default_rng(6).random((3, 60))
    assert paired_bootstrap(first, second, weights, seed=1) == paired_bootstrap(first, second, weights, seed=1)
    assert paired_bootstrap(first, second, weights, seed=1) != paired_bootstrap(first, second, weights, seed=2)


def test_chunks_do_not_change_the_draws(monkeypatch):
    first, second, weights = np.random.default_rng(7).random((3, 60))
    whole = paired_bootstrap(first, second, weights, seed=1, resamples=1000)
    monkeypatch.setattr("lumi.evaluation.significance._DRAWN_AT_ONCE", 600)
    assert paired_bootstrap(first, second, weights, seed=1, resamples=1000) == whole


def test_holm():
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    # the example of Holm's step-down: 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 (not less than the one before)
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "values, weights, message",
    [
        ([], [], "at least one"),
        ([1.0, math.nan], [1.0, 1.0], "not finite"),
        ([1.0, 1.0], [1.0], "2 values and 1 weights"),
        ([1.0, 1.0], [0.0, 0.0], "not 0 in all"),
        ([1.0, 1.0], [2.0, -1.0], "0 or more"),
    ],
)
def test_what_cannot_be_reckoned(values, weights, message):
    with pytest.raises(ValueError, match=message):
        ratio_error(values, weights)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(values, values, weights, seed=0)


def test_models_with_other_pieces_cannot_be_paired():
    with pytest.raises(ValueError, match="2 pieces cannot be paired with 3"):
        paired_bootstrap([1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0], seed=0)
