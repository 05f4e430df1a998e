"""Data order as a pure function: ``samples(position) -> (data set, row)``, from sizes, weights and seed alone.

    position --> pattern (one period, every prefix within one row of the shares) --> data set, how often before
                                                                                        |
                                          permutation of its rows, keyed by (seed, data set, epoch) --> row

There is no state to save but the position, and any position is reached in constant time.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lumi.errors import ConfigError
from lumi.randomness import generator

Indices = NDArray[np.int64]
_GRID = 4096  # default weights (data set sizes) are rounded to 1/4096, which keeps the period short
_LONGEST_PERIOD = 4_000_000


def exact_shares(num_rows: Sequence[int], weights: Sequence[float | str | Fraction] | None) -> list[Fraction]:
    """Return the share of each data set, exactly, adding up to 1.

    Weights are read as the decimals they are written as (0.3 is 3/10). Without weights the shares are the data
    sets' sizes, rounded to 1/4096 and at least that.

    Raises:
        ConfigError: a wrong number of weights, a negative one, none above zero, or too many decimals.
    """
    if weights is None:
        total = sum(num_rows)
        parts = [max(Fraction(1), Fraction(round(rows * _GRID / total))) for rows in num_rows]
    else:
        if len(weights) != len(num_rows):
            raise ConfigError(
                f"{len(weights)} weights for {len(num_rows)} data sets", "give one weight per data set, in their order"
            )
        parts = [Fraction(str(weight)) for weight in weights]
        if min(parts) < 0 or max(parts) == 0:
            shown = " ".join(str(weight) for weight in weights)
            raise ConfigError(f"data_weights {shown}", "weights must not be negative, and one must be above zero")
    shares = [part / sum(parts) for part in parts]
    period = math.lcm(*(share.denominator for share in shares))
    if period > _LONGEST_PERIOD:
        raise ConfigError(
            f"these data weights repeat only after {period:,} rows (at most {_LONGEST_PERIOD:,} are handled)",
            "write the weights with fewer decimals",
        )
    return shares


def mixing_pattern(shares: Sequence[Fraction]) -> NDArray[np.uint8]:
    """Return the data set of every position of one period, each prefix less than one row off the shares.

    Tijdeman, "The chairman assignment problem" (1980): of the data sets whose next row is due within the next
    1 - 1/(2n - 2) rows, take the one whose deadline comes first. Plain greedy choice exceeds one row from three
    data sets on.
    """
    period = math.lcm(*(share.denominator for share in shares))
    drawn = [index for index, share in enumerate(shares) if share]
    pattern = np.empty(period, dtype=np.uint8)
    if len(drawn) == 1:
        pattern[:] = drawn[0]
        return pattern
    # All in whole numbers of 1/((2n - 2) period): share s is `counts` rows a period, slack is 2n - 3.
    unit = 2 * len(drawn) - 2
    counts = [int(shares[index] * period) for index in drawn]
    slack = (unit - 1) * period
    taken = [0] * len(drawn)
    for position in range(period):
        best, best_deadline = -1, math.inf
        for index, count in enumerate(counts):
            # due: share * (position + 1) - taken >= 1/(2n - 2)
            if unit * count * (position + 1) - unit * period * taken[index] >= period:
                # deadline: first k with share * k - taken >= 1 - 1/(2n - 2)
                deadline = -(-(slack + unit * period * taken[index]) // (unit * count))
                if deadline < best_deadline:
                    best, best_deadline = index, deadline
        assert best >= 0, "Tijdeman's theorem: some data set is always due"
        taken[best] += 1
        pattern[position] = drawn[best]
    return pattern


class WeightedMultiDatasetSampler:
    """The order in which rows of several data sets are drawn.

    Args:
        num_rows: rows of each data set.
        weights: share of rows of each; default: their sizes (see `exact_shares`). A weight of 0: never drawn.
        seed: names the permutations of the rows.

    Raises:
        ConfigError: impossible weights.
    """

    def __init__(
        self, num_rows: Sequence[int], weights: Sequence[float | str | Fraction] | None = None, seed: int = 0
    ) -> None:
        self.num_rows = tuple(num_rows)
        self.shares = exact_shares(num_rows, weights)
        self.seed = seed
        self._pattern = mixing_pattern(self.shares)
        # how often the data set of a position was drawn earlier in its period
        self._earlier = np.empty(len(self._pattern), dtype=np.int64)
        self._per_period = np.zeros(len(num_rows), dtype=np.int64)
        for index in range(len(num_rows)):
            places = np.flatnonzero(self._pattern == index)
            self._earlier[places] = np.arange(len(places))
            self._per_period[index] = len(places)
        self._permutation = lru_cache(maxsize=2 * len(num_rows))(self._draw_permutation)

    def _draw_permutation(self, dataset: int, epoch: int) -> NDArray[np.uint32]:
        rows = generator(self.seed, "rows", dataset, epoch).permutation(self.num_rows[dataset])
        return rows.astype(np.uint32)

    def samples(self, start: int, count: int) -> tuple[Indices, Indices]:
        """Return data set and row of the positions start..start + count - 1, int64 [count] each."""
        period, place = np.divmod(np.arange(start, start + count, dtype=np.int64), len(self._pattern))
        dataset = self._pattern[place].astype(np.int64)
        drawn = period * self._per_period[dataset] + self._earlier[place]
        epoch, within = np.divmod(drawn, np.asarray(self.num_rows, dtype=np.int64)[dataset])
        row = np.empty(count, dtype=np.int64)
        for key in np.unique(np.stack([dataset, epoch]), axis=1).T.tolist():
            chosen = (dataset == key[0]) & (epoch == key[1])
            row[chosen] = self._permutation(key[0], key[1])[within[chosen]]
        return dataset, row

    def sample(self, position: int) -> tuple[int, int]:
        """Return data set and row of one position."""
        dataset, row = self.samples(position, 1)
        return int(dataset[0]), int(row[0])

    def rows_drawn(self, position: int) -> list[int]:
        """Return how many rows of each data set stand before this position."""
        periods, rest = divmod(position, len(self._pattern))
        within = np.bincount(self._pattern[:rest], minlength=len(self.num_rows))
        return [int(n) for n in periods * self._per_period + within]

    def epochs(self, position: int) -> list[float]:
        """Return how often each data set was gone through before this position."""
        return [drawn / rows for drawn, rows in zip(self.rows_drawn(position), self.num_rows, strict=True)]
