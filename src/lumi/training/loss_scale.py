"""The loss scale that fp16 needs: without it, small gradients vanish in its narrow range."""

from collections.abc import Mapping

import torch
from torch import Tensor

_LEAST = 1.0


class LossScale:
    """Dynamic loss scaling (arXiv:1710.03740), kept on the device so that no step waits for the host.

    The scale doubles after 2000 good steps in a row and halves, down to 1, after a step with a non-finite gradient.
    Outside fp16 it stays 1.
    """

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.scale = torch.tensor(65536.0 if enabled else 1.0, device=device)
        self.good_steps = torch.zeros((), device=device)

    def at_fault(self, bad: Tensor) -> Tensor:
        """Say whether a bad step is a fault: in fp16 it is none while a smaller scale may still mend it."""
        return bad & (self.scale <= _LEAST)

    def update(self, bad: Tensor) -> None:
        if not self.enabled:
            return
        self.good_steps = torch.where(bad, torch.zeros_like(self.good_steps), self.good_steps + 1)
        grown = self.good_steps >= 2000
        halved = (self.scale * 0.5).clamp(min=_LEAST)
        self.scale = torch.where(bad, halved, torch.where(grown, self.scale * 2, self.scale))
        self.good_steps = torch.where(grown, torch.zeros_like(self.good_steps), self.good_steps)

    def tensors(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load(self, values: Mapping[str, float]) -> None:
        self.scale.fill_(values["scale"])
        self.good_steps.fill_(values["good_steps"])
