"""What preference tuning minimises: functions of four log-probabilities and two lengths, each with its paper.

    margin h = (log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected))

Each gives the loss of every pair, of whatever shape the pairs come in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LossName = Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo"]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Summed log-probabilities of the answers, in nats, and how many tokens they have."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor  # zeros for losses without a reference, as the next
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def margin(self) -> Tensor:
        return (self.chosen - self.rejected) - (self.reference_chosen - self.reference_rejected)

    @property
    def chosen_mean(self) -> Tensor:
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        return self.rejected / self.rejected_tokens


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The numbers in the losses."""

    beta: float
    label_smoothing: float = 0.0
    gamma: float = 0.0


def sigmoid(sums: PairSums, settings: LossSettings) -> Tensor:
    """DPO (arXiv:2305.18290): the negative logarithm of the sigmoid of beta h."""
    return -logsigmoid(settings.beta * sums.margin)


def robust(sums: PairSums, settings: LossSettings) -> Tensor:
    """Robust DPO (arXiv:2403.00409): unbiased where a known share of the pairs has its sides swapped."""
    share, reward = settings.label_smoothing, settings.beta * sums.margin
    return (share * logsigmoid(-reward) - (1 - share) * logsigmoid(reward)) / (1 - 2 * share)


def hinge(sums: PairSums, settings: LossSettings) -> Tensor:
    """SLiC's hinge on the normalised margin (arXiv:2305.10425, arXiv:2309.06657): max(0, 1 - beta h)."""
    return torch.relu(1 - settings.beta * sums.margin)


def ipo(sums: PairSums, settings: LossSettings) -> Tensor:
    """IPO (arXiv:2310.12036): (h - 1 / (2 beta))^2, log-probabilities averaged over tokens, as its authors advise."""
    chosen = (sums.chosen - sums.reference_chosen) / sums.chosen_tokens
    rejected = (sums.rejected - sums.reference_rejected) / sums.rejected_tokens
    return (chosen - rejected - 1 / (2 * settings.beta)).square()


def simpo(sums: PairSums, settings: LossSettings) -> Tensor:
    """SimPO (arXiv:2405.14734), without a reference: -log sigmoid(beta (mean log-probabilities' gap) - gamma)."""
    return -logsigmoid(settings.beta * (sums.chosen_mean - sums.rejected_mean) - settings.gamma)


def orpo(sums: PairSums, settings: LossSettings) -> Tensor:
    """ORPO (arXiv:2403.07691), without a reference: loss of the chosen answer + beta x -log sigmoid(log odds ratio)."""
    chosen, rejected = sums.chosen_mean, sums.rejected_mean
    log_odds_ratio = (chosen - rejected) - (_log1m_exp(chosen) - _log1m_exp(rejected))
    return -chosen - settings.beta * logsigmoid(log_odds_ratio)


def _log1m_exp(log_prob: Tensor) -> Tensor:
    """Return log(1 - p) of a log-probability, which rounding may have brought to 0."""
    return torch.log(-torch.expm1(log_prob.clamp(max=-1e-6)))


LOSSES: dict[LossName, Callable[[PairSums, LossSettings], Tensor]] = {
    "sigmoid": sigmoid, "ipo": ipo, "hinge": hinge, "robust": robust, "simpo": simpo, "orpo": orpo,
}  # fmt: skip
WITHOUT_REFERENCE: frozenset[LossName] = frozenset({"simpo", "orpo"})
OF_MEANS: frozenset[LossName] = frozenset({"ipo", "simpo", "orpo"})
"""Losses that see log-probabilities averaged over an answer's tokens; their rewards are made of those too."""
