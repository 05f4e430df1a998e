"""Head and cross entropy together, chunk by chunk, so that the logits never exist whole.

With 32768 classes the logits are by far the largest tensor of a small model. The gradient of the *summed* loss
is linear in the incoming gradient, so it is made in the forward pass, while a chunk's logits are at hand, and
only scaled in the backward pass. Shapes: N positions, D d_model, V vocabulary, C positions in a chunk.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lumi.model.attention import Mask
from lumi.model.llama import Linear, Llama
from lumi.model.lora import RowHead

IGNORE = -100  # label of a position that is not scored
_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**27}  # logits in one chunk


def chunk_positions(device_type: str, vocab_size: int) -> int:
    """Return how many positions to take at once."""
    return max(1, _CHUNK_LOGITS.get(device_type, 2**24) // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """sum over positions of -log softmax(hidden W^T)[label].

    What is trained of W: all of it, or, where ``ids`` are given, the rows that stand in for those of W there.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, rows_KD: Tensor | None, ids_K: Tensor | None
    ) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        if rows_KD is not None and ids_K is not None:
            weight = weight.index_copy(0, ids_K, rows_KD.to(hidden_ND.dtype))
        total = torch.zeros((), device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.zeros_like(weight_VD if rows_KD is None else rows_KD, dtype=torch.float32)
        step = chunk_positions(hidden_ND.device.type, weight.shape[0])
        for start in range(0, hidden_ND.shape[0], step):
            hidden_CD, labels_C = hidden_ND[start : start + step], labels_N[start : start + step]
            scored_C = labels_C != IGNORE
            target_C1 = labels_C.clamp(min=0).unsqueeze(1)
            logits_CV = F.linear(hidden_CD, weight).float()
            log_sum_C1 = logits_CV.logsumexp(1, keepdim=True)
            label_logit_C1 = logits_CV.gather(1, target_C1)
            total = total + ((log_sum_C1 - label_logit_C1).squeeze(1) * scored_C).sum()
            grad_CV = logits_CV.sub_(log_sum_C1).exp_()  # softmax; minus the one-hot label:
            if torch.compiler.is_compiling():  # a comparison fuses into the same pass, an index would not
                grad_CV = grad_CV - (torch.arange(weight.shape[0], device=weight.device) == target_C1).float()
            else:
                grad_CV.scatter_add_(1, target_C1, torch.full_like(log_sum_C1, -1.0))
            grad_CV = grad_CV.mul_(scored_C.unsqueeze(1)).to(hidden_ND.dtype)
            grad_hidden[start : start + step] = grad_CV @ weight
            grad_weight += (grad_CV if ids_K is None else grad_CV[:, ids_K]).t() @ hidden_CD
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.of_rows = rows_KD is not None
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        grad_hidden, grad_weight = grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0]
        return (grad_hidden, None, None, grad_weight, None) if ctx.of_rows else (grad_hidden, grad_weight) + (None,) * 3


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(hidden W^T)[label] of each position; the logits are made again in the backward pass.

    There each position has a factor of its own, which is known only once all of them are summed up.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        labels_N: Tensor,
        rows_KD: Tensor | None,
        ids_K: Tensor | None,
        weight_is_trained: bool,
    ) -> Tensor:
        weight = _whole_head(weight_VD, rows_KD, ids_K, hidden_ND.dtype)
        step = chunk_positions(hidden_ND.device.type, weight.shape[0])
        log_probs, log_sums = [], []
        for start in range(0, hidden_ND.shape[0], step):
            labels_C = labels_N[start : start + step]
            logits_CV = _wide(F.linear(hidden_ND[start : start + step], weight))
            log_sum_C = logits_CV.logsumexp(1)
            label_logit_C = logits_CV.gather(1, labels_C.clamp(min=0).unsqueeze(1)).squeeze(1)
            log_probs.append((label_logit_C - log_sum_C) * (labels_C != IGNORE))
            log_sums.append(log_sum_C)
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N, rows_KD, ids_K, torch.cat(log_sums))
        ctx.weight_is_trained = weight_is_trained
        return torch.cat(log_probs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, labels_N, rows_KD, ids_K, log_sum_N = ctx.saved_tensors
        factor_N = grads[0] * (labels_N != IGNORE)
        weight = _whole_head(weight_VD, rows_KD, ids_K, hidden_ND.dtype)
        grad_hidden = torch.empty_like(hidden_ND)
        trained = rows_KD if rows_KD is not None else weight_VD if ctx.weight_is_trained else None
        grad_weight = None if trained is None else torch.zeros_like(trained)
        step = chunk_positions(hidden_ND.device.type, weight.shape[0])
        for start in range(0, hidden_ND.shape[0], step):
            here = slice(start, start + step)
            hidden_CD, factor_C1 = hidden_ND[here], factor_N[here].unsqueeze(1)
            target_C1 = labels_N[here].clamp(min=0).unsqueeze(1)
            prob_CV = (_wide(F.linear(hidden_CD, weight)) - log_sum_N[here].unsqueeze(1)).exp()
            one_hot_CV = torch.arange(weight.shape[0], device=weight.device) == target_C1
            grad_CV = ((one_hot_CV.to(prob_CV.dtype) - prob_CV) * factor_C1).to(hidden_ND.dtype)
            grad_hidden[here] = grad_CV @ weight
            if grad_weight is not None:
                grad_weight += (grad_CV if ids_K is None else grad_CV[:, ids_K]).t() @ hidden_CD
        of_rows = rows_KD is not None
        return grad_hidden, None if of_rows else grad_weight, None, grad_weight if of_rows else None, None, None


def _whole_head(weight_VD: Tensor, rows_KD: Tensor | None, ids_K: Tensor | None, dtype: torch.dtype) -> Tensor:
    weight = weight_VD.to(dtype)
    return weight if rows_KD is None or ids_K is None else weight.index_copy(0, ids_K, rows_KD.to(dtype))


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def token_log_probs(model: Llama, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the log-probability of each label in nats, float32 [B, T]; 0 where the label is `IGNORE`."""
    hidden_ND, labels_N = hidden_BTD.flatten(0, 1), labels_BT.flatten()
    head = model.lm_head
    rows = isinstance(head, RowHead) and head.adapting
    rows_KD, ids_K = (head.rows, head.ids_K) if rows else (None, None)
    found: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight, labels_N, rows_KD, ids_K, head.weight.requires_grad
    )
    return found.view_as(labels_BT)


def summed_loss(model: Llama, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
    """Return the summed cross entropy in nats, a float32 scalar; positions labelled `IGNORE` do not count.

    The chunked form needs to know what the head is made of, so one that it does not know is called as it is.
    """
    hidden_ND, labels_N = hidden_BTD.flatten(0, 1), labels_BT.flatten()
    head = model.lm_head
    if not torch.is_grad_enabled():
        return _losses(model, hidden_ND, labels_N).sum()
    if type(head) not in (Linear, RowHead):
        return F.cross_entropy(head(hidden_ND).float(), labels_N, ignore_index=IGNORE, reduction="sum")
    rows_KD, ids_K = (head.rows, head.ids_K) if isinstance(head, RowHead) else (None, None)
    loss: Tensor = _LinearCrossEntropy.apply(hidden_ND, head.weight, labels_N, rows_KD, ids_K)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def next_token_losses(model: Llama, tokens_BT: Tensor, labels_BT: Tensor, *, mask: Mask = None) -> Tensor:
    """Return the loss of every position in nats, float32 [B, T]; 0 where the label is `IGNORE`."""
    hidden = model.hidden(tokens_BT, mask=mask)
    return _losses(model, hidden.flatten(0, 1), labels_BT.flatten()).view_as(labels_BT)


def _losses(model: Llama, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
    step = chunk_positions(hidden_ND.device.type, model.config.vocab_size)
    return torch.cat(
        [
            F.cross_entropy(model.lm_head(hidden).float(), labels, ignore_index=IGNORE, reduction="none")
            for hidden, labels in zip(torch.split(hidden_ND, step), torch.split(labels_N, step), strict=True)
        ]
    )
