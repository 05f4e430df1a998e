"""What training minimises. The Trainer knows time, data and checkpoints; an objective knows the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lumi.model import IGNORE, Llama, Mask, mask_documents, summed_loss
from lumi.tokenizer.ids import BOS_ID, PAD_ID


class Objective(Protocol):
    """A loss that can be split over micro-batches and ranks without changing its gradient."""

    metrics: Sequence[str]
    """Names of what is measured beside the loss, and averaged as it is."""

    def count(self, rows: Tensor) -> Tensor:
        """Return how many units the loss of these rows averages over, a scalar on their device."""
        ...

    def loss(self, model: Llama, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss *summed* over those units, a float32 scalar, and the sums of the metrics, float32 [M]."""
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
    mask: Mask


class CausalLMObjective:
    """Next-token cross entropy over packed rows, of text or of conversations (see `next_token_labels`).

    Args:
        documents_per_row: attention does not cross from one document or conversation into the next, of which this
            many stand in a row at most; None: it does.
    """

    metrics: Sequence[str] = ()

    def __init__(self, *, documents_per_row: int | None = None) -> None:
        self.documents_per_row = documents_per_row

    def count(self, rows: Tensor) -> Tensor:
        count: Tensor = (next_token_labels(rows)[1] != IGNORE).sum()
        return count

    def batch(self, rows: Tensor, dtype: torch.dtype) -> Batch:
        """Return inputs, labels and mask of packed rows, for attention in a type."""
        tokens_BT, labels_BT = next_token_labels(rows)
        most = self.documents_per_row
        mask = None if most is None else mask_documents(tokens_BT, BOS_ID, most, dtype)
        return Batch(tokens_BT, labels_BT, mask)

    def loss(self, model: Llama, rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = self.batch(rows, model.compute_dtype)
        loss = summed_loss(model, model.hidden(batch.tokens_BT, mask=batch.mask), batch.labels_BT)
        return loss, loss.new_zeros(0)


class LossModule(nn.Module):
    """Model and objective as one module, whose forward returns loss and metrics.

    This is what torch.compile and the parallel wrappers wrap, so that the head is used inside their forward.
    """

    def __init__(self, model: Llama, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.objective.loss(self.model, rows)


def mean_loss(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count, and 0 where nothing was counted (an all-padding batch changes nothing)."""
    return total / torch.clamp(count, min=1)
