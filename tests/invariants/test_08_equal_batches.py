"""Invariant 8: how a batch is cut up does not change what is learned."""

import pytest
from tests.training_runs import config, losses

from lumi.pretraining import pretrain

STEPS = 20


def trajectory(packed, folder, **changes):
    pretrain(config([packed], folder, training__batch_size=8, schedule__max_steps=STEPS, **changes))
    return [record["loss"] for record in losses(folder / "final") if record["loss"] is not None]


@pytest.mark.parametrize(
    "changes",
    [
        {"training__micro_batch_size": 4},
        {"training__micro_batch_size": 1},
        {"training__activation_checkpointing": True},
    ],
    ids=["2 x 4", "8 x 1", "activation checkpointing"],
)
def test_whole_trajectories_agree(packed, tmp_path, changes):
    expected = trajectory(packed, tmp_path / "whole")
    found = trajectory(packed, tmp_path / "cut", **changes)
    errors = [a - b for a, b in zip(expected, found, strict=True)]
    assert len(errors) == STEPS
    assert max(map(abs, errors)) < 2e-4
    assert abs(sum(errors) / STEPS) < 5e-5  # no drift to one side
