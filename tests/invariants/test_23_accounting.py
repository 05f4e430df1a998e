"""Invariant 23: the parameter, FLOP and memory formulas equal what is measured."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumi.config import read_json_object
from lumi.model import ModelConfig, count_parameters, create_model, training_flops_per_token, training_memory

REPOSITORY = Path(__file__).parents[2]
SHAPES = [
    {},
    {"n_kv_head": 2},
    {"tie_embeddings": True},
    {"ffn_ratio": 2.5, "head_dim": 8},
]
BASE = {"vocab_size": 96, "n_layer": 2, "d_model": 64, "n_head": 4, "head_dim": 16, "sequence_length": 16}


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters(shape):
    config = ModelConfig(**BASE | shape)
    model = create_model(config)
    counted = count_parameters(config)
    assert counted.total == sum(p.numel() for p in model.parameters())
    bare = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n and "lm_head" not in n)
    assert counted.non_embedding == bare


@pytest.mark.parametrize("shape", SHAPES)
def test_flops(shape):
    config = ModelConfig(**BASE | shape)
    model = create_model(config, attention="plain")
    tokens = torch.randint(0, 96, (2, 16))
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    # The counter sees attention's whole square, the formula its causal half: 2 products, 3 passes, T each.
    square = 3 * 2 * config.n_layer * 16 * config.n_head * config.head_dim
    assert training_flops_per_token(config, 16) + square == counter.get_total_flops() / tokens.numel()


@pytest.mark.parametrize("name, total, bare", [("tiny", 23.07, 6.29), ("small", 83.9, 50.3), ("base", 276.9, 226.5)])
def test_the_shipped_shapes_have_the_documented_sizes(name, total, bare):
    config = ModelConfig(**read_json_object(REPOSITORY / "config" / f"{name}.json")["model"])
    assert count_parameters(config).total / 1e6 == pytest.approx(total, abs=0.06)
    assert count_parameters(config).non_embedding / 1e6 == pytest.approx(bare, abs=0.06)


# docs/results.md: peak memory of bf16 training steps on one H200; tests/gpu measures it again
@pytest.mark.parametrize(
    "layers, width, length, rows, measured",
    [(6, 256, 1024, 64, 9.06), (12, 512, 1024, 64, 22.88), (24, 768, 1024, 32, 32.23), (24, 768, 2048, 32, 58.45)],
)
def test_memory(layers, width, length, rows, measured):
    config = ModelConfig(n_layer=layers, d_model=width, n_head=width // 64, sequence_length=length)
    memory = training_memory(config, micro_batch_size=rows, sequence_length=length, compute_bytes=2, recompute=False)
    assert memory.total / 2**30 == pytest.approx(measured, rel=0.03)
