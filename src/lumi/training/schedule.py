"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to fall out of step."""

import math
from typing import Literal

from pydantic import Field

from lumi.config import Config


class ScheduleConfig(Config):
    """How the learning rate moves."""

    lr_schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine; wsd = warm-up, stable, linear decay (arXiv:2404.06395); constant after the warm-up."""
    max_steps: int = Field(gt=0)
    """Optimiser steps (of the present data phase)."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of max_steps during which the rate rises linearly from 0."""
    decay_ratio: float = Field(default=0.2, gt=0, le=1)
    """wsd: share of max_steps at the end during which the rate falls."""
    min_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Last learning rate as a share of the highest."""


def learning_rate_factor(step: int, config: ScheduleConfig) -> float:
    """Return the share of the highest learning rate that step (counted from 0) uses."""
    warmup = math.ceil(config.warmup_ratio * config.max_steps)
    if step < warmup:
        return (step + 1) / warmup
    floor = config.min_learning_rate_ratio
    if config.lr_schedule == "cosine":
        # the last step (max_steps - 1) reaches the floor exactly
        done = min(1.0, (step - warmup) / max(1, config.max_steps - 1 - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    if config.lr_schedule == "wsd":
        decay = max(1, math.ceil(config.decay_ratio * config.max_steps))
        left = max(0, config.max_steps - 1 - step) / decay
        return floor + (1 - floor) * min(1.0, left)
    return 1.0
