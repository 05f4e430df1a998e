"""Invariant 26: 20 fixed-seed fp32 CPU steps give the losses and gradient norms stored in the repository.

A refactor must not move them. Where a change means to (other mathematics), say why in the commit and store the
new ones: `python tests/invariants/test_26_golden_trajectory.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lumi.model import ModelConfig, create_model
from lumi.training import CausalLMObjective, OptimizerConfig, Ranks, RunFolder, ScheduleConfig, Trainer, TrainingConfig

GOLDEN = Path(__file__).with_suffix(".json")
CONFIG = ModelConfig(vocab_size=256, n_layer=2, d_model=48, n_head=3, n_kv_head=1, head_dim=16, sequence_length=32)


class Rows:
    """A loader of rows in which each token follows from the one before, with some noise."""

    sequence_length = tokens_per_row = 32

    def __init__(self):
        self.random = np.random.Generator(np.random.Philox(key=7))

    def next_batch(self):
        rows = np.empty((8, 33), dtype=np.uint16)
        rows[:, 0] = 1
        for column in range(1, 33):
            noise = self.random.integers(16, 256, 8)
            rows[:, column] = np.where(self.random.random(8) < 0.8, (rows[:, column - 1] * 7 + 16) % 240 + 16, noise)
        return rows


def trajectory():
    trainer = Trainer(
        model=create_model(CONFIG, seed=1),
        objective=CausalLMObjective(),
        loader=Rows(),
        files=None,
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(max_steps=20),
        training=TrainingConfig(batch_size=8, micro_batch_size=4, device="cpu"),
        ranks=Ranks(0, 1, torch.device("cpu")),
        run=RunFolder(Path("unused"), {}, {}),
    )
    points = []
    for _ in range(20):
        trainer.train_step()
        line, _ = trainer.tally.take()
        points.append([line["loss_sum"] / line["count_sum"], line["norm"]])
    return points


def test_trajectory_is_the_stored_one():
    for found, stored in zip(trajectory(), json.loads(GOLDEN.read_text()), strict=True):
        assert found == pytest.approx(stored, rel=1e-4)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(trajectory(), indent=1) + "\n")
