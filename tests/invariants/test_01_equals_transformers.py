"""Invariant 1: logits and gradients equal transformers' Llama on copied weights."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lumi.model import ModelConfig, create_model, summed_loss

SHAPES = {
    "multi-head": {},
    "grouped-query": {"n_kv_head": 2},
    "tied": {"tie_embeddings": True},
    "narrow heads": {"head_dim": 8, "ffn_ratio": 2.5},
    "other rotary base": {"rope_theta": 500000.0},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_and_gradients_equal_transformers(shape):
    config = ModelConfig(
        **{"vocab_size": 128, "n_layer": 2, "d_model": 64, "n_head": 4, "head_dim": 16, "sequence_length": 32} | shape
    )
    ours = create_model(config, seed=3)
    with torch.no_grad():  # norms away from 1, so that a missing weight would show
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    theirs = LlamaForCausalLM(LlamaConfig(**config.to_transformers()))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    tokens = torch.randint(0, 128, (3, 32), generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)

    summed_loss(ours, ours.hidden(tokens[:, :-1]), tokens[:, 1:]).backward()
    (theirs(tokens, labels=tokens).loss * 3 * 31).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
