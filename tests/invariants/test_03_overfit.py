"""Invariant 3: a model overfitted on one sequence gives it back under greedy decoding."""

import torch

from lumi.model import ModelConfig, create_model
from lumi.tokenizer.ids import BOS_ID
from lumi.training import CausalLMObjective, OptimizerConfig
from lumi.training.optimizer import make_optimizer


def test_overfit_and_recite():
    config = ModelConfig(vocab_size=64, n_layer=2, d_model=32, n_head=2, head_dim=16, sequence_length=32)
    model, objective = create_model(config), CausalLMObjective()
    row = torch.randint(16, 64, (1, 33), generator=torch.Generator().manual_seed(0))
    row[0, 0] = BOS_ID
    optimizer = make_optimizer(dict(model.named_parameters()), OptimizerConfig(learning_rate=0.01, weight_decay=0.0))
    for _ in range(120):
        loss = objective.loss(model, row)[0] / objective.count(row)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.05
    text = row[:, :1]
    for _ in range(31):
        text = torch.cat([text, model(text)[:, -1:].argmax(-1)], dim=1)
    # labels shifted twice would recite every second token, labels not shifted would repeat the first
    assert torch.equal(text, row[:, :32])
