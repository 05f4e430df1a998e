"""Which checkpoint is the best: the one with the lowest held-out loss, averaged over the data sets.

Read from the run's own records, so that a resumed run decides as the uninterrupted one. Records of an earlier data
phase, which was validated on other data, do not count.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any


def is_best(records: Iterable[Mapping[str, Any]], step: int, since: int) -> bool:
    """Say whether the validation of this step has the lowest loss of those after step ``since``."""
    validations = _validations(records, since)
    return bool(validations) and validations[-1][0] == step and validations[-1][1] <= min(v for _, v in validations)


def validations_since_best(records: Iterable[Mapping[str, Any]], since: int) -> int:
    """Return how many validations came after the best one after step ``since``."""
    losses = [loss for _, loss in _validations(records, since)]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def _validations(records: Iterable[Mapping[str, Any]], since: int) -> list[tuple[int, float]]:
    return [(r["step"], fmean(r["val_loss"].values())) for r in records if r.get("val_loss") and r["step"] > since]
