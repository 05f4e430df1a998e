"""What is read from a run's own records: spikes, the best checkpoint, the tally of a line."""

import torch

from lumi.training.best import is_best, validations_since_best
from lumi.training.loss_scale import LossScale
from lumi.training.spikes import is_spike
from lumi.training.tally import Tally

FALLING = [5.0 - 0.01 * step for step in range(60)]


def test_a_loss_that_stands_out_is_a_spike():
    assert is_spike(FALLING, 6.0)
    assert not is_spike(FALLING, FALLING[-1] + 0.05)
    assert not is_spike(FALLING, 2.0)
    assert not is_spike(FALLING[:19], 60.0), "too few to judge by"
    assert not is_spike([2.0] * 50, 2.001), "a flat curve"


def validation(step, *losses):
    return {"step": step, "val_loss": {str(n): loss for n, loss in enumerate(losses)}}


def test_the_best_validation_is_the_lowest_mean():
    records = [{"step": 5, "loss": 0.1}, validation(10, 3.0, 5.0), validation(20, 2.0, 5.5), validation(30, 4.0, 4.0)]
    assert is_best(records[:2], 10, since=0)
    assert is_best(records[:3], 20, since=0)
    assert not is_best(records, 30, since=0)
    assert not is_best(records[:3], 25, since=0), "no validation at this step"
    assert validations_since_best(records, since=0) == 1
    assert validations_since_best(records[:3], since=0) == 0
    assert validations_since_best([], since=0) == 0


def test_an_earlier_phase_does_not_count():
    records = [validation(10, 1.0), validation(20, 3.0), validation(30, 2.0)]
    assert is_best(records, 30, since=10)
    assert not is_best(records, 30, since=0)
    assert validations_since_best(records, since=10) == 0


def test_a_tally_leaves_bad_steps_out_and_counts_them():
    tally = Tally(torch.device("cpu"), 1)
    scalar = torch.tensor
    tally.add(scalar(6.0), scalar([3.0]), scalar(2.0), scalar(0.5), scalar(False), scalar(False))
    tally.add(
        scalar(float("nan")), scalar([float("nan")]), scalar(2.0), scalar(float("nan")), scalar(True), scalar(True)
    )
    tally.add(scalar(float("inf")), scalar([1.0]), scalar(2.0), scalar(0.7), scalar(True), scalar(True))
    kept = {name: value.item() for name, value in tally.tensors().items()}
    line, metrics = tally.take()
    assert (line["loss_sum"], line["count_sum"], line["bad_in_row"], line["bad_total"]) == (6, 2, 2, 2)
    assert metrics == [3.0]
    line, metrics = tally.take()
    assert (line["count_sum"], metrics) == (0, [0.0])
    other = Tally(torch.device("cpu"), 1)
    other.load(kept)
    other.add(scalar(1.0), scalar([0.5]), scalar(1.0), scalar(0.1), scalar(False), scalar(False))
    line, metrics = other.take()
    assert metrics == [3.5]
    assert (line["loss_sum"], line["count_sum"], line["bad_in_row"], line["bad_total"]) == (7, 3, 0, 2)


def test_in_fp16_a_bad_step_is_a_fault_only_when_no_smaller_scale_is_left():
    scale, bad = LossScale(enabled=True, device=torch.device("cpu")), torch.tensor(True)
    for _ in range(16):
        assert not scale.at_fault(bad)
        scale.update(bad)
    assert scale.scale == 1
    assert scale.at_fault(bad)
    scale.update(bad)
    assert scale.scale == 1
    assert LossScale(enabled=False, device=torch.device("cpu")).at_fault(bad)
