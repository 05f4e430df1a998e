"""From logits to the next token, as a pure function: no generator is hidden anywhere.

    logits -> repetition penalty -> temperature -> top-k -> top-p -> probabilities -> inverse of their sum at u

Chance enters as one number u in [0, 1) per row, so what a row answers depends on its own logits and numbers and
not on its company. Shapes: B rows, V vocabulary.
"""

import torch
from torch import Tensor


def penalize_repetition(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Make tokens seen before less likely (CTRL, arXiv:1909.05858): positive logits divided, negative multiplied."""
    if penalty == 1.0:
        return logits_BV
    penalized_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, penalized_BV, logits_BV)


def probabilities(
    logits_BV: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Return the distribution that is sampled from, float32 [B, V]; it sums to 1.

    Args:
        logits_BV: as the model gives them.
        temperature: above 0.
        top_k: keep the k most likely tokens (and those equal to the k-th).
        top_p: keep the smallest set of most likely tokens whose probability reaches p (arXiv:1904.09751).
    """
    logits_BV = logits_BV.float() / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    probabilities_BV = logits_BV.softmax(-1)
    if top_p < 1.0:
        sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV  # a token is needed while what precedes it falls short of p
        before_BV[:, 0] = 0.0
        kept_BV = torch.where(before_BV < top_p, sorted_BV, 0.0)
        probabilities_BV = torch.zeros_like(kept_BV).scatter_(-1, order_BV, kept_BV)
        probabilities_BV = probabilities_BV / probabilities_BV.sum(-1, keepdim=True)
    return probabilities_BV


def sample(
    logits_BV: Tensor,
    uniform_B: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Return one token id per row, [B]; the most likely one at temperature 0.

    Args:
        logits_BV: as the model gives them (after the repetition penalty).
        uniform_B: a number in [0, 1) per row, float64.
        temperature: 0 is greedy.
        top_k: as `probabilities`.
        top_p: as `probabilities`.
    """
    if temperature == 0.0:
        return logits_BV.argmax(-1)
    chance_BV = probabilities(logits_BV, temperature=temperature, top_k=top_k, top_p=top_p).double()
    reached_BV = chance_BV.cumsum(-1)
    target_B1 = uniform_B.unsqueeze(1) * reached_BV[:, -1:]
    drawn_B = torch.searchsorted(reached_BV, target_B1, right=True).squeeze(1)
    last_B = reached_BV.shape[-1] - 1 - chance_BV.flip(-1).gt(0).int().argmax(-1)  # u next to 1, rounded up
    return torch.minimum(drawn_B, last_B)
