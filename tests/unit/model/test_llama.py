"""The model's parts: joint projections, attention back ends, activation checkpointing, initial weights."""

import pytest
import torch

from lumi.errors import ConfigError
from lumi.model import ModelConfig, choose_attention, create_model
from lumi.model.attention import plain_attention, sdpa_attention
from lumi.model.llama import Linear, project_together

CONFIG = ModelConfig(vocab_size=64, n_layer=2, d_model=32, n_head=4, n_kv_head=2, head_dim=8, sequence_length=16)


def linears():
    layers = [Linear(8, 6), Linear(8, 4), Linear(8, 4)]
    for layer in layers:
        torch.nn.init.normal_(layer.weight)
    return layers


def test_projecting_together_is_projecting_one_by_one():
    layers, x = linears(), torch.randn(3, 8).bfloat16()
    for together, alone in zip(project_together(x, *layers), [layer(x) for layer in layers], strict=True):
        torch.testing.assert_close(together, alone)


def test_a_layer_that_wraps_a_linear_is_not_bypassed():
    class Adapter(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.weight, self.out_features = base, base.weight, base.out_features

        def forward(self, x):
            return self.base(x) + 1

    layers, x = linears(), torch.randn(3, 8).bfloat16()
    layers[1] = Adapter(layers[1])
    torch.testing.assert_close(project_together(x, *layers)[1], layers[1].base(x) + 1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_kernels_equal_the_formula(kv_heads):
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, kv_heads, 9, 8), torch.randn(2, kv_heads, 9, 8)
    mask = torch.rand(2, 1, 9, 9) > 0.4
    mask |= torch.eye(9, dtype=torch.bool)
    for chosen in (None, mask):
        torch.testing.assert_close(
            sdpa_attention(q, k, v, chosen), plain_attention(q, k, v, chosen), rtol=1e-4, atol=1e-5
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA card")
def test_flash_without_a_card_is_refused():
    with pytest.raises(ConfigError, match="a CUDA card is missing"):
        choose_attention("flash")
    assert choose_attention("auto")[0] == "sdpa"


def test_activation_checkpointing_changes_no_gradient():
    tokens = torch.randint(0, 64, (2, 16))
    grads = []
    for recompute in (False, True):
        model = create_model(CONFIG)
        model.checkpoint_activations = recompute
        model(tokens).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        assert torch.equal(plain, recomputed)


def test_initial_weights_depend_on_config_and_seed_alone():
    torch.manual_seed(1)
    first = create_model(CONFIG, seed=5).state_dict()
    torch.manual_seed(2)
    again, other = create_model(CONFIG, seed=5).state_dict(), create_model(CONFIG, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.parametrize("wrong", [{"n_kv_head": 3}, {"head_dim": 7}, {"d_model": 0}, {"vocab_size": 70000}])
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's own
        ModelConfig(**CONFIG.resolved() | wrong)


def test_transformers_config_round_trip():
    again = ModelConfig.from_transformers(CONFIG.to_transformers(), "here")
    assert again == CONFIG
    with pytest.raises(ConfigError, match="attention_bias"):
        ModelConfig.from_transformers(CONFIG.to_transformers() | {"attention_bias": True}, "here")
