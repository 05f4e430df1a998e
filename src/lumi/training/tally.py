"""What a step leaves to be logged: sums on the device, which the host looks at only when it writes a line."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Tally:
    """Device scalars over all ranks since the last line, and of bad steps since the beginning.

    Attributes:
        loss_sum: summed loss of the good steps.
        count_sum: what their losses average over.
        norm: gradient norm of the last step.
        bad_in_row: steps in a row that were not finite.
        bad_total: all of them.
        metric_sums: what the objective measures beside the loss, summed as the loss is, [M].
    """

    _KEPT = ("loss_sum", "count_sum", "bad_in_row", "bad_total")

    def __init__(self, device: torch.device, num_metrics: int = 0) -> None:
        self.metric_sums = torch.zeros(num_metrics, device=device)
        self.loss_sum, self.count_sum, self.norm, self.bad_in_row, self.bad_total = (
            torch.zeros((), device=device) for _ in range(5)
        )

    def add(self, loss: Tensor, metrics: Tensor, count: Tensor, norm: Tensor, bad: Tensor, at_fault: Tensor) -> None:
        """Add one step; ``bad``: it was skipped; ``at_fault``: and that is a fault."""
        nothing = torch.zeros_like(loss)
        self.loss_sum = self.loss_sum + torch.where(bad, nothing, loss)
        self.count_sum = self.count_sum + torch.where(bad, nothing, count)
        self.metric_sums = self.metric_sums + torch.where(bad, nothing, metrics)
        self.norm = norm
        # a step that only searched for fp16's scale leaves the row as it is
        self.bad_in_row = torch.where(at_fault, self.bad_in_row + 1, torch.where(bad, self.bad_in_row, nothing))
        self.bad_total = self.bad_total + at_fault

    def take(self) -> tuple[dict[str, float], list[float]]:
        """Read all of it, waiting for the device, and begin a new line; return the scalars, and the metrics' sums."""
        names = (*self._KEPT, "norm")
        scalars = torch.stack([getattr(self, name) for name in names])
        values = torch.cat([scalars, self.metric_sums]).tolist()
        self.loss_sum, self.count_sum = torch.zeros_like(self.loss_sum), torch.zeros_like(self.count_sum)
        self.metric_sums = torch.zeros_like(self.metric_sums)
        return dict(zip(names, values, strict=False)), values[len(names) :]

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, so that the next line is the uninterrupted run's."""
        metrics = {f"metric_{number}": value for number, value in enumerate(self.metric_sums)}
        return {name: getattr(self, name) for name in self._KEPT} | metrics

    def load(self, values: Mapping[str, float]) -> None:
        """Put `tensors` back."""
        for name in self._KEPT:
            setattr(self, name, torch.full_like(getattr(self, name), values[name]))
        for number in range(len(self.metric_sums)):
            self.metric_sums[number] = values[f"metric_{number}"]
