"""Small checkpoints for the tests of export: drawn weights, so large that a greedy text tells models apart."""

from pathlib import Path
from typing import Any

import torch
from tests.training_runs import write_checkpoint

from lumi.conversation import Template
from lumi.inference import Completion, GenerationConfig, generate
from lumi.model import Llama, ModelConfig, create_model, load_model
from lumi.model.lora import LoraConfig, adapter_parameters, add_lora
from lumi.model.pretrained import weights
from lumi.posttraining.adapter_files import Base
from lumi.posttraining.merge import AdapterFiles
from lumi.tokenizer import BOS_ID, EOS_ID, IM_END_ID, Tokenizer
from lumi.training import WholeModel

SHAPE = {"n_layer": 2, "d_model": 32, "n_head": 2, "head_dim": 16, "sequence_length": 256}
PROMPTS = ["", "The fox", "She said:\n", " 12"]


def make_model(folder: Path, tokenizer: Path, template: Template | None = None, seed: int = 1, **shape: Any) -> Path:
    """Write the checkpoint of a model."""
    words = Tokenizer.load(tokenizer)
    config = ModelConfig(vocab_size=words.vocab_size, **{**SHAPE, **shape})
    model = create_model(config, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=draw)
            else:
                parameter.mul_(8)
        for rows in {
            model.model.embed_tokens.weight,
            model.lm_head.weight,
        }:  # readable texts: no control symbols, bytes
            rows[[token for token in range(272) if token not in (EOS_ID, IM_END_ID)]] *= 0.01
    files = WholeModel(config, words, template)
    write_checkpoint(folder, files, weights(model), {"config": {"name": "drawn"}, "phases": [], "step": 0})
    return folder


def make_adapter(
    folder: Path, base: Path, lora: LoraConfig, template: Template | None = None, row_ids: tuple[int, ...] = ()
) -> Path:
    """Write the checkpoint of an adapter that changes much."""
    model = load_model(base)
    add_lora(model, lora, row_ids)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    files = AdapterFiles(Base.of(base), lora, row_ids, WholeModel(model.config, Tokenizer.load(base), template))
    found = {name: parameter.detach() for name, parameter in adapter_parameters(model).items()}
    write_checkpoint(folder, files, found, {"config": {"name": "adapted"}, "phases": [], "step": 0})
    return folder


def our_ids(folder: Path, text: str) -> list[int]:
    return [BOS_ID, *Tokenizer.load(folder).encode(text)]


def our_text(folder: Path, prompts: list[Any], max_new_tokens: int = 24, **settings: Any) -> list[Completion]:
    """Return what Lumi writes behind the prompts, greedily."""
    # llama.cpp takes <|im_end|> for an end in any model that has it
    settings = {"stop_ids": (EOS_ID, IM_END_ID), **settings}
    config = GenerationConfig(temperature=0, max_new_tokens=max_new_tokens, **settings)
    return generate(load_model(folder), Tokenizer.load(folder), prompts, config)


def our_log_probs(model: Llama, ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of the next token."""
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0, -1].log_softmax(-1)
