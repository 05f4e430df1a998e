"""fp16's loss scale."""

import torch

from lumi.training.loss_scale import LossScale


def test_the_scale_halves_after_a_bad_step_and_doubles_after_2000_good_ones():
    scale = LossScale(enabled=True, device=torch.device("cpu"))
    scale.update(torch.tensor(True))
    assert scale.scale == 32768
    for _ in range(1999):
        scale.update(torch.tensor(False))
    assert scale.scale == 32768
    scale.update(torch.tensor(False))
    assert scale.scale == 65536


def test_outside_fp16_it_stays_one():
    scale = LossScale(enabled=False, device=torch.device("cpu"))
    scale.update(torch.tensor(True))
    assert scale.scale == 1
