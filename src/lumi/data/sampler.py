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
        ConfigError: a wrong number of weights, no number, a negative one, none above zero, or too many decimals;
            a data set without rows that is to be drawn from.
    """
    if weights is None:
        total = max(1, sum(num_rows))
        parts = [max(Fraction(1), Fraction(round(rows * _GRID / total))) for rows in num_rows]
    else:
        if len(weights) != len(num_rows):
            raise ConfigError(
                f"{len(weights)} weights for {len(num_rows)} data sets", "give one weight per data set, in their order"
            )
        shown = "data_weights " + " ".join(str(weight) for weight in weights)
        try:
            parts = [Fraction(str(weight)) for weight in weights]
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"{shown}: not all are numbers", "write weights such as 0.3 0.7") from None
        if min(parts) < 0 or max(parts) == 0:
            raise ConfigError(shown, "weights must not be negative, and one must be above zero")
    empty = [index for index, rows in enumerate(num_rows) if rows < 1 and parts[index]]
    if empty:
        raise ConfigError(f"data set {empty[0]} (counted from 0) has no rows", "leave it out, or give it the weight 0")
    shares = [part / sum(parts) for part in parts]
    period = math.lcm(*(share.denominator for share in shares))
    if period > _LONGEST_PERIOD:
        raise ConfigError(
            f"these data weights repeat only after {period:,} rows (at most {_LONGEST_PERIOD:,} are handled)",
            "write the weights with fewer decimals",
        )
    return shares


def mixing_pattern(shares: Sequence[Fraction]) -> NDArray[np.uint16]:
    """Return the data set of every position of one period, each prefix less than one row off the shares.

    Tijdeman, "The chairman assignment problem" (1980): of the n data sets whose next row may come by now without
    running more than 1 - 1/(2n - 2) rows ahead of its share, take the one whose next row is due first, that is,
    would first fall that far behind. The greedy choice, largest debt first, can be more than one row off.
    """
    period = math.lcm(*(share.denominator for share in shares))
    drawn = [index for index, share in enumerate(shares) if share]
    if len(drawn) == 1:
        return np.full(period, drawn[0], dtype=np.uint16)
    # In whole numbers: after k rows data set i should have given rates[i] * k / scale of them, and may be off by
    # bound / scale. Row j (from 0) may be the k-th when rates * k >= scale * (j + 1) - bound, and must be by the
    # first k with rates * k >= scale * j + bound.
    unit = 2 * len(drawn) - 2
    scale, bound = unit * period, (unit - 1) * period
    rates = [unit * int(shares[index] * period) for index in drawn]
    release = [-((bound - scale) // rate) for rate in rates]
    due = [-(-bound // rate) for rate in rates]
    taken = [0] * len(drawn)
    pattern = np.empty(period, dtype=np.uint16)
    for position in range(1, period + 1):
        best, earliest = -1, period + 1
        for index, deadline in enumerate(due):
            if deadline < earliest and release[index] <= position:
                best, earliest = index, deadline
        assert best >= 0, "Tijdeman's theorem: some data set may always be drawn"
        pattern[position - 1] = drawn[best]
        taken[best] += 1
        given = scale * taken[best]
        release[best] = -((bound - given - scale) // rates[best])
        due[best] = -(-(given + bound) // rates[best])
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
        # of the present epochs, and of those that end or begin within a batch
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
        for index in range(len(self.num_rows)):
            mine = np.flatnonzero(dataset == index)
            # Along the positions the epoch only grows: its borders cut `mine` into one run an epoch.
            for run in np.split(mine, np.flatnonzero(np.diff(epoch[mine])) + 1) if len(mine) else ():
                row[run] = self._permutation(index, int(epoch[run[0]]))[within[run]]
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
