"""What training minimises. The Trainer knows time, data and checkpoints; an objective knows the loss."""

from dataclasses import dataclass
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
    """Split packed rows into inputs and labels [B, T].

    Rows are [B, T + 1] tokens, of which padding is not scored, or [B, 2, T + 1]: tokens, and which of them are
    scored. This is the one place in Lumi where labels are shifted.
    """
    if rows.ndim == 2:
        tokens, scored = rows, rows != PAD_ID
    else:
        tokens, scored = rows[:, 0], rows[:, 1] != 0
    return tokens[:, :-1], tokens[:, 1:].masked_fill(~scored[:, 1:], IGNORE)


@dataclass(frozen=True)
class Batch:
    """Packed rows as a model takes them."""

    tokens_BT: Tensor
    labels_BT: Tensor
    mask_B1TS: Tensor | None  # None: plain causal attention


class CausalLMObjective:
    """Next-token cross entropy over packed rows, of text or of conversations (see `next_token_labels`).

    Args:
        document_masking: attention does not cross from one document or conversation into the next.
    """

    def __init__(self, *, document_masking: bool = False) -> None:
        self.document_masking = document_masking

    def count(self, rows: Tensor) -> Tensor:
        count: Tensor = (next_token_labels(rows)[1] != IGNORE).sum()
        return count

    def batch(self, rows: Tensor) -> Batch:
        """Return inputs, labels and mask of packed rows."""
        tokens_BT, labels_BT = next_token_labels(rows)
        mask_B1TS = document_mask(tokens_BT, BOS_ID) if self.document_masking else None
        return Batch(tokens_BT, labels_BT, mask_B1TS)

    def loss(self, model: Llama, rows: Tensor) -> Tensor:
        batch = self.batch(rows)
        return summed_loss(model, model.hidden(batch.tokens_BT, mask_B1TS=batch.mask_B1TS), batch.labels_BT)


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
