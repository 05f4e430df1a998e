"""What training minimises. The Trainer knows time, data and checkpoints; an objective knows the loss."""

from typing import Protocol

import torch
from torch import Tensor, nn

from lumi.model import IGNORE, Llama, document_mask, summed_loss
from lumi.tokenizer.ids import BOS_ID, PAD_ID


class Objective(Protocol):
    """A loss that can be split over micro-batches and ranks without changing its gradient."""

    def count(self, rows: Tensor) -> Tensor:
        """Return how many units the loss of these rows averages over, a scalar on their device."""
        ...

    def loss(self, model: Llama, rows: Tensor) -> Tensor:
        """Return the loss *summed* over those units, a float32 scalar."""
        ...


def next_token_labels(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split packed rows [B, T + 1] into inputs and labels [B, T]; padding is not scored.

    This is the one place in Lumi where labels are shifted.
    """
    return rows[:, :-1], rows[:, 1:].masked_fill(rows[:, 1:] == PAD_ID, IGNORE)


class CausalLMObjective:
    """Next-token cross entropy over packed rows.

    Args:
        document_masking: attention does not cross from one document into the next.
    """

    def __init__(self, *, document_masking: bool = False) -> None:
        self.document_masking = document_masking

    def count(self, rows: Tensor) -> Tensor:
        count: Tensor = (rows[:, 1:] != PAD_ID).sum()
        return count

    def loss(self, model: Llama, rows: Tensor) -> Tensor:
        tokens_BT, labels_BT = next_token_labels(rows)
        mask = document_mask(tokens_BT, BOS_ID) if self.document_masking else None
        return summed_loss(model, model.hidden(tokens_BT, mask_B1TS=mask), labels_BT)


class LossModule(nn.Module):
    """Model and objective as one module, whose forward returns the loss.

    This is what torch.compile and the parallel wrappers wrap, so that the head is used inside their forward.
    """

    def __init__(self, model: Llama, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, rows: Tensor) -> Tensor:
        return self.objective.loss(self.model, rows)


def mean_loss(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count, and 0 where nothing was counted (an all-padding batch changes nothing)."""
    return total / torch.clamp(count, min=1)
