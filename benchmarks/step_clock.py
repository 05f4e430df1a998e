"""When each training step ends, on the card's own clock where there is one."""

import itertools
import time
from typing import Any

import torch


class StepClock:
    """Marks the end of each step, without making the host wait for the card."""

    def __init__(self) -> None:
        self.marks: list[Any] = []

    def mark(self) -> None:
        if torch.cuda.is_available():
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the time from each mark to the next."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(self.marks)]
        return [b - a for a, b in itertools.pairwise(self.marks)]
