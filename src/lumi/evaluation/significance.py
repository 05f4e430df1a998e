"""How sure a figure is, and whether two models differ.

    pieces (rows of a task, documents of a text) --> the standard error of the figure they make
    the same pieces under two models -------------> difference, interval, p-value --> Holm over all comparisons

A figure is the sum of values over the sum of weights: right answers over rows, bits over bytes. Two models that read
the same pieces are compared piece by piece, as the hardness of a piece, which both share, then cancels out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lumi.randomness import generator

Values = NDArray[np.float64]

_DRAWN_AT_ONCE = 2**20  # pieces: 8 MB of indices, and as much of what they point at
_FEW_KINDS = 16
_LONE_ERROR = 0.5  # the standard deviation of a yes or no is nowhere larger


@dataclass(frozen=True)
class PairedDifference:
    """What one model's figure is more than another's, on the same pieces."""

    difference: float
    low: float
    """Of the 95 % interval, percentiles of the resampled differences."""
    high: float
    p_value: float
    """Of a difference this far from zero, were there none; two-sided."""
    pieces: int


def accuracy_error(outcomes: ArrayLike) -> float:
    """Return the standard error of a mean: the sample's deviation over the root of its size, as lm-eval's
    ``mean_stderr``.

    One row alone deviates from nothing; the most that an accuracy can be off, 0.5, is returned for it.

    Raises:
        ValueError: there is no row, or one that is not finite.
    """
    values = _checked(outcomes)
    return _LONE_ERROR if len(values) == 1 else float(values.std(ddof=1)) / math.sqrt(len(values))


def ratio_error(values: ArrayLike, weights: ArrayLike) -> float | None:
    """Return the standard error of sum(values) / sum(weights) by the delta method; None for a single piece.

    The linearised ratio (Cochran 1977, Sampling Techniques, 3rd edition, chapter 6): with r the ratio, the pieces'
    residuals are v - r w, and the error is sqrt(n / (n - 1) sum of their squares) / sum(weights). Pieces are taken
    as drawn independently, each with its weight. With weights of 1 it is `accuracy_error`.

    Raises:
        ValueError: no piece, another number of weights, weights below zero or of zero in all.
    """
    of_pieces = _checked(values)
    by_weight = _checked_weights(weights, of_pieces)
    if len(of_pieces) == 1:
        return None
    total = float(by_weight.sum())
    residuals = of_pieces - float(of_pieces.sum()) / total * by_weight
    return math.sqrt(len(of_pieces) / (len(of_pieces) - 1) * float(residuals @ residuals)) / total


def paired_bootstrap(
    values_a: ArrayLike, values_b: ArrayLike, weights: ArrayLike, *, seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Compare two models on the same pieces: a's sum(values) / sum(weights), less b's.

    Pieces are drawn with replacement, both models' values of a piece together (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap). The p-value is the share of resamples on the other side of zero, doubled, each
    count with one added (Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 4): equal
    inputs give 1. Resamples of a few pieces know no other sign than theirs, so it is never less than swapping the
    models piece by piece could give: 2 ** (1 - number of pieces that differ).

    A lone piece has no spread: its interval is the difference, its p-value 1.

    Raises:
        ValueError: as `ratio_error`, or the models have another number of pieces.
    """
    a, b = _checked(values_a), _checked(values_b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} pieces cannot be paired with {len(b)}")
    by_weight = _checked_weights(weights, a)
    gains = a - b
    resampled = _resampled(gains, by_weight, seed, resamples)
    low, high = (float(edge) for edge in np.percentile(resampled, [2.5, 97.5]))
    beyond = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    at_least = 2.0 ** (1 - min(int(np.count_nonzero(gains)), 1000))
    p_value = min(1.0, max(2 * (beyond + 1) / (resamples + 1), at_least))
    return PairedDifference(float(gains.sum() / by_weight.sum()), low, high, p_value, len(gains))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, so that all at once are wrong no more often than one would be.

    Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure: the k-th smallest of m is multiplied by
    m - k + 1, and none is less than one before it.
    """
    corrected = [1.0] * len(p_values)
    reached = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = reached
    return corrected


def _resampled(gains: Values, weights: Values, seed: int, resamples: int) -> Values:
    """Return the figure's difference in each resample."""
    draws = generator(seed, "paired bootstrap")
    kinds, counts = np.unique(np.stack([gains, weights]), axis=1, return_counts=True)
    if len(counts) <= _FEW_KINDS:
        # right and wrong answers: how often each kind of piece is drawn is all that matters, and is drawn at once
        drawn = draws.multinomial(len(gains), counts / len(gains), size=resamples)
        return _ratios(drawn @ kinds[0], drawn @ kinds[1])
    at_once = max(1, _DRAWN_AT_ONCE // len(gains))
    chunks = []
    for start in range(0, resamples, at_once):
        drawn = draws.integers(len(gains), size=(min(at_once, resamples - start), len(gains)))
        chunks.append(_ratios(gains[drawn].sum(axis=1), weights[drawn].sum(axis=1)))
    return np.concatenate(chunks)


def _ratios(sums: Values, totals: Values) -> Values:
    """Divide; nothing but pieces without weight (empty documents) says nothing."""
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def _checked(values: ArrayLike) -> Values:
    found: Values = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"one value a piece and at least one are needed, not an array of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("a value is not finite")
    return found


def _checked_weights(weights: ArrayLike, values: Values) -> Values:
    found = _checked(weights)
    if len(found) != len(values):
        raise ValueError(f"{len(values)} values and {len(found)} weights")
    if (found < 0).any() or not found.any():
        raise ValueError("weights are 0 or more, and not 0 in all")
    return found
