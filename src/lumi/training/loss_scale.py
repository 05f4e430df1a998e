"""The loss scale that fp16 needs: without it, small gradients vanish in its narrow range."""

import torch
from torch import Tensor


class LossScale:
    """Dynamic loss scaling (arXiv:1710.03740), kept on the device so that no step waits for the host.

    The scale doubles after 2000 good steps in a row and halves after a step with a non-finite gradient. Outside
    fp16 it stays 1.
    """

    def __init__(self, *, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.scale = torch.tensor(65536.0 if enabled else 1.0, device=device)
        self.good_steps = torch.zeros((), device=device)

    def update(self, bad: Tensor) -> None:
        if not self.enabled:
            return
        self.good_steps = torch.where(bad, torch.zeros_like(self.good_steps), self.good_steps + 1)
        grown = self.good_steps >= 2000
        self.scale = torch.where(bad, self.scale * 0.5, torch.where(grown, self.scale * 2, self.scale))
        self.good_steps = torch.where(grown, torch.zeros_like(self.good_steps), self.good_steps)

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale.item(), "good_steps": self.good_steps.item()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale.fill_(state["scale"])
        self.good_steps.fill_(state["good_steps"])
