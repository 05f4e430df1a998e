"""Loss spikes: a logged loss that stands out from those before it."""

from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import fmean, pstdev
from typing import Any

_LINES = 50  # looked back at
_FEWEST = 20


def recent_losses(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the logged losses that a new one is held against, in their order; only the end of the run is looked at."""
    found = (record["loss"] for record in reversed(records) if record.get("loss") is not None)
    return list(islice(found, _LINES))[::-1]


def is_spike(earlier: Sequence[float], loss: float) -> bool:
    """Say whether a loss lies six standard deviations above the mean of up to 50 logged before it.

    With fewer than 20 nothing is a spike. A fall or a slow rise is none either: it widens the deviation.
    """
    recent = earlier[-_LINES:]
    return len(recent) >= _FEWEST and loss > fmean(recent) + 6 * max(pstdev(recent), 1e-3 * abs(fmean(recent)))
