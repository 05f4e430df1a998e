"""The objective of preference tuning: log-probabilities of both answers, beside the reference's, into a loss a pair.

Shapes: B rows of two lines, T tokens of a line, P pairs in a row at most (fewer: zeros stand in), S = 2 sides.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lumi.model import IGNORE, Llama, Mask, mask_documents, token_log_probs
from lumi.model.lora import set_adapters
from lumi.posttraining.preference_dataset import REFERENCE, SIDES, TOKENS
from lumi.posttraining.preference_losses import LOSSES, OF_MEANS, LossName, LossSettings, PairSums
from lumi.tokenizer import BOS_ID


class Reference(Protocol):
    """The model that a policy is held against."""

    def __call__(self, policy: Llama, measure: Callable[[Llama], Tensor]) -> Tensor:
        """Return what is measured of the reference, without gradients."""
        ...


class AdaptersOff:
    """The policy itself without its adapters."""

    def __call__(self, policy: Llama, measure: Callable[[Llama], Tensor]) -> Tensor:
        set_adapters(policy, on=False)
        with torch.no_grad():
            found = measure(policy)
        set_adapters(policy, on=True)
        return found


class FrozenCopy:
    """A model of its own, with the weights that the policy began with."""

    def __init__(self, model: Llama) -> None:
        self.model = model.requires_grad_(False).eval()

    def __call__(self, policy: Llama, measure: Callable[[Llama], Tensor]) -> Tensor:
        with torch.no_grad():
            return measure(self.model)


class DPOObjective:
    """A loss over pairs (see `lumi.posttraining.preference_losses`).

    Args:
        loss: which.
        settings: its numbers.
        pairs_per_row: the most that stand in a row.
        nll_weight: adds this much of the chosen answer's mean loss a token (arXiv:2404.19733).
        reference: asked at every step; None: the rows bring its log-probabilities along, or the loss needs none.
    """

    metrics: Sequence[str] = (
        "reward_chosen", "reward_rejected", "reward_margin", "preference_accuracy", "likelihood_accuracy",
        "log_prob_chosen", "log_prob_rejected", "tokens_chosen", "tokens_rejected",
    )  # fmt: skip

    def __init__(
        self,
        loss: LossName,
        settings: LossSettings,
        *,
        pairs_per_row: int,
        nll_weight: float = 0.0,
        reference: Reference | None = None,
    ) -> None:
        self.function, self.settings, self.nll_weight = LOSSES[loss], settings, nll_weight
        self.of_means = loss in OF_MEANS
        self.pairs_per_row, self.reference = pairs_per_row, reference

    def count(self, rows: Tensor) -> Tensor:
        """Return the number of pairs."""
        count: Tensor = ((rows[:, :, SIDES].amax((1, 2)) + 1) // 2).sum()
        return count

    def loss(self, model: Llama, rows: Tensor) -> tuple[Tensor, Tensor]:
        sums_BPS, tokens_BPS = self.log_probs(model, rows)
        if self.reference is not None:
            reference_BPS = self.reference(model, lambda other: self.log_probs(other, rows)[0])
        else:
            reference_BPS = stored_reference(rows, self.pairs_per_row)
        there_BP = tokens_BPS[..., 0] > 0
        lengths_BPS = tokens_BPS.clamp(min=1)
        pair = PairSums(*sums_BPS.unbind(-1), *reference_BPS.unbind(-1), *lengths_BPS.unbind(-1))
        loss_BP = self.function(pair, self.settings) - self.nll_weight * pair.chosen_mean
        loss = torch.where(there_BP, loss_BP, torch.zeros_like(loss_BP)).sum()
        with torch.no_grad():
            gained_BPS = sums_BPS - reference_BPS
            rewards_BPS = self.settings.beta * (gained_BPS / lengths_BPS if self.of_means else gained_BPS)
            margin_BP = rewards_BPS[..., 0] - rewards_BPS[..., 1]
            means_BPS = sums_BPS / lengths_BPS
            figures = (
                *rewards_BPS.unbind(-1), margin_BP, _wins(margin_BP), _wins(means_BPS[..., 0] - means_BPS[..., 1]),
                *sums_BPS.unbind(-1), *tokens_BPS.unbind(-1),
            )  # fmt: skip
            metrics = (torch.stack(figures) * there_BP).sum((1, 2)).float()
        return loss, metrics

    def log_probs(self, model: Llama, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed log-probabilities of the answers and their numbers of tokens, [B, P, S] each."""
        tokens, labels, mask = self.batch(rows, model.compute_dtype)
        found = token_log_probs(model, model.hidden(tokens, mask=mask), labels).view(rows.shape[0], 1, -1)
        side = rows[:, :, SIDES, 1:].flatten(1).unsqueeze(1)
        of_answer = side == torch.arange(1, 2 * self.pairs_per_row + 1, device=rows.device).view(1, -1, 1)
        shape = (rows.shape[0], self.pairs_per_row, 2)
        return (found * of_answer).sum(-1).view(shape), of_answer.sum(-1).view(shape).to(found.dtype)

    def batch(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Mask]:
        """Return inputs and labels [2 B, T] of all lines, and the mask that keeps attention inside conversations."""
        lines = rows[:, :, TOKENS].flatten(0, 1)
        scored = rows[:, :, SIDES].flatten(0, 1) > 0
        tokens = lines[:, :-1]
        labels = lines[:, 1:].masked_fill(~scored[:, 1:], IGNORE)
        return tokens, labels, mask_documents(tokens, BOS_ID, self.pairs_per_row, dtype)


def stored_reference(rows: Tensor, pairs_per_row: int) -> Tensor:
    """Return the log-probabilities [B, P, S] whose bits came along in the rows."""
    halves = rows[:, 0, REFERENCE, : 4 * pairs_per_row].view(rows.shape[0], pairs_per_row, 2, 2)
    return (halves[..., 0] + (halves[..., 1] << 16)).to(torch.int32).view(torch.float32)


def _wins(gap: Tensor) -> Tensor:
    """Return 1 where the chosen answer leads, 0 where it does not, a half where they are level."""
    return (torch.sign(gap) + 1) / 2
