"""From logits to the next token, as a pure function: no generator is hidden anywhere.

    logits -> bias, penalties -> temperature -> top-k -> top-p, min-p -> probabilities -> inverse of their sum at u

Each row has settings of its own. Chance enters as one number u in [0, 1) per row, so what a row answers depends on
its own logits and numbers and not on its company. What is cut is cut by value: tokens of equal logits stay or go
together, whatever their order. `lumi.inference.card.kernels` does the same in one kernel.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lumi.inference.settings import GenerationConfig

_FEW = 256  # tokens among which nearly every cut is found


class Sampling(NamedTuple):
    """The settings of each row, float32 [B] each; see `GenerationConfig`."""

    temperature_B: Tensor
    top_k_B: Tensor  # 0: all
    top_p_B: Tensor
    min_p_B: Tensor
    repetition_B: Tensor
    presence_B: Tensor
    frequency_B: Tensor

    @classmethod
    def of(cls, settings: Sequence[GenerationConfig], device: str | torch.device = "cpu") -> "Sampling":
        """Return the settings of each row as tensors."""
        return cls(*torch.tensor([sampling_row(one) for one in settings], device=device).T.contiguous())


def sampling_row(settings: GenerationConfig) -> tuple[float, ...]:
    """Return settings as numbers, in the order of `Sampling`."""
    return (
        settings.temperature, float(settings.top_k or 0), settings.top_p, settings.min_p,
        settings.repetition_penalty, settings.presence_penalty, settings.frequency_penalty,
    )  # fmt: skip


PROMPTED = 1 << 14  # in a row of counts: the prompt has the token


def adjust(logits_BV: Tensor, counts_BV: Tensor, bias_BV: Tensor | None, sampling: Sampling) -> Tensor:
    """Apply bias and penalties; returns float32 [B, V].

    Repetition (CTRL, arXiv:1909.05858) divides positive logits and multiplies negative ones of tokens that prompt or
    answer has; presence and frequency count the answer alone.

    Args:
        logits_BV: as the model gives them.
        counts_BV: int16, how often the answer has each token, plus `PROMPTED` where the prompt has it.
        bias_BV: added to the logits.
        sampling: the settings of each row.
    """
    logits_BV = logits_BV.float()
    if bias_BV is not None:
        logits_BV = logits_BV + bias_BV
    times_BV = (counts_BV & (PROMPTED - 1)).float()
    penalty_B1 = sampling.repetition_B.unsqueeze(1)
    penalized_BV = torch.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    logits_BV = torch.where(counts_BV > 0, penalized_BV, logits_BV)
    frequency_BV = times_BV * sampling.frequency_B.unsqueeze(1)
    return logits_BV - frequency_BV - (times_BV > 0) * sampling.presence_B.unsqueeze(1)


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """Return the distribution that is sampled from, float32 [B, V]; it sums to 1.

    top-k keeps the k most likely tokens, top-p (arXiv:1904.09751) of these the smallest set whose probability
    reaches p, min-p (arXiv:2407.01082) those with at least this share of the most likely one's. Temperatures are
    above 0.
    """
    logits_BV = logits_BV.float()
    logits_BV = logits_BV - logits_BV.amax(-1, keepdim=True)  # so that no temperature makes one infinite
    logits_BV = logits_BV / sampling.temperature_B.unsqueeze(1)
    if (sampling.top_k_B > 0).any():
        logits_BV = logits_BV.masked_fill(logits_BV < _kth_largest(logits_BV, sampling.top_k_B), float("-inf"))
    chance_BV = logits_BV.softmax(-1)
    least_B1 = chance_BV.amax(-1, keepdim=True) * sampling.min_p_B.unsqueeze(1)
    if (sampling.top_p_B < 1.0).any():
        least_B1 = torch.maximum(least_B1, _nucleus_border(chance_BV, sampling.top_p_B))
    chance_BV = torch.where(chance_BV >= least_B1, chance_BV, 0.0)
    return chance_BV / chance_BV.sum(-1, keepdim=True)


def _kth_largest(logits_BV: Tensor, k_B: Tensor) -> Tensor:
    """Return the k-th largest value of each row, [B, 1]; k = 0: of all."""
    vocabulary = logits_BV.shape[1]
    wanted_B = torch.where(k_B > 0, k_B, vocabulary).long().clamp(max=vocabulary)
    most = int(torch.where(wanted_B == vocabulary, 1, wanted_B).max())
    values = logits_BV.topk(most, dim=-1).values
    border_B1 = values.gather(1, (wanted_B - 1).clamp(max=most - 1).unsqueeze(1))
    return torch.where((wanted_B == vocabulary).unsqueeze(1), float("-inf"), border_B1)


def _nucleus_border(chance_BV: Tensor, p_B: Tensor) -> Tensor:
    """Return the largest chance such that the tokens with at least it have the probability p together, [B, 1]."""
    few = min(_FEW, chance_BV.shape[1])
    for most in (few, chance_BV.shape[1]):  # a whole row is sorted only where a few are not enough
        sorted_BN = chance_BV.topk(most, dim=-1).values
        reached_BN = sorted_BN.double().cumsum(-1) >= p_B.double().unsqueeze(1)
        if most == chance_BV.shape[1] or bool((reached_BN[:, -1] | (p_B >= 1.0)).all()):
            break
    first_B1 = reached_BN.int().argmax(-1, keepdim=True)
    first_B1 = torch.where(reached_BN.any(-1, keepdim=True), first_B1, most - 1)  # a sum rounded below p
    return torch.where(p_B.unsqueeze(1) < 1.0, sorted_BN.gather(1, first_B1), 0.0)


def sample(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """Return one token id per row, int64 [B]; the most likely one at temperature 0.

    Args:
        logits_BV: after bias and penalties.
        uniform_B: a number in [0, 1) per row, float64.
        sampling: the settings of each row.
    """
    greedy_B = logits_BV.argmax(-1)
    is_greedy_B = sampling.temperature_B == 0.0
    if is_greedy_B.all():
        return greedy_B
    warm = sampling._replace(temperature_B=torch.where(is_greedy_B, 1.0, sampling.temperature_B))
    chance_BV = probabilities(logits_BV, warm).double()
    reached_BV = chance_BV.cumsum(-1)
    target_B1 = uniform_B.unsqueeze(1) * reached_BV[:, -1:]
    drawn_B = torch.searchsorted(reached_BV, target_B1, right=True).squeeze(1)
    last_B = reached_BV.shape[-1] - 1 - chance_BV.flip(-1).gt(0).int().argmax(-1)  # u next to 1, rounded up
    return torch.where(is_greedy_B, greedy_B, torch.minimum(drawn_B, last_B))
