"""NEFTune: noise on the embeddings while an instruction is learned (arXiv:2310.05914)."""

from typing import Any

import torch
from torch import Tensor

from lumi.model import Llama
from lumi.tokenizer import BOS_ID, PAD_ID


def add_neftune(model: Llama, alpha: float) -> None:
    """Add uniform noise within alpha / sqrt(tokens x width) to embeddings in training.

    The tokens counted are those of the conversation that a token belongs to, so that packing changes nothing.
    """

    def noisy(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
        if not module.training:
            return output
        largest_BT = alpha * (conversation_lengths(inputs[0]) * output.shape[-1]).float().rsqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * largest_BT.unsqueeze(-1)

    model.model.embed_tokens.register_forward_hook(noisy)


def conversation_lengths(tokens_BT: Tensor) -> Tensor:
    """Return for each token how many tokens its conversation has, [B, T]; padding stands for itself alone."""
    width = tokens_BT.shape[1]
    place_T = torch.arange(width, device=tokens_BT.device)
    begins_BT = (tokens_BT == BOS_ID) | (tokens_BT == PAD_ID)
    start_BT = torch.where(begins_BT, place_T, 0).cummax(1).values
    following_BT = torch.where(begins_BT, place_T, width).roll(-1, 1)
    following_BT[:, -1] = width
    end_BT = following_BT.flip(1).cummin(1).values.flip(1)
    return end_BT - start_BT
