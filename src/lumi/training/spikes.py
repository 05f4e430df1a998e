"""Loss spikes: a logged loss that stands out from those before it."""

from collections.abc import Sequence
from statistics import fmean, pstdev

_LINES = 50  # looked back at
_FEWEST = 20


def is_spike(earlier: Sequence[float], loss: float) -> bool:
    """Say whether a loss lies six standard deviations above the mean of up to 50 logged before it.

    With fewer than 20 nothing is a spike. A fall or a slow rise is none either: it widens the deviation.
    """
    recent = earlier[-_LINES:]
    return len(recent) >= _FEWEST and loss > fmean(recent) + 6 * max(pstdev(recent), 1e-3 * abs(fmean(recent)))
