"""Invariant 2: a checkpoint saved by us, loaded and saved by transformers, and loaded by us is bitwise the same."""

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lumi.model import load_model
from lumi.model.pretrained import read_model_config, set_weights


def test_bitwise_through_transformers(trained, tmp_path):
    ours = load_model(trained)
    theirs = AutoModelForCausalLM.from_pretrained(trained)
    theirs.save_pretrained(tmp_path)
    back = load_model(trained)
    assert read_model_config(tmp_path) == ours.config
    for parameter in back.parameters():
        parameter.data.zero_()
    set_weights(back, load_file(tmp_path / "model.safetensors"), tmp_path)
    for (name, first), (_, second) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(first, second), name
    tokens = torch.arange(16, 48).unsqueeze(0)
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)
