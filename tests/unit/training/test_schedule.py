"""Schedules are pure functions of the step."""

import pytest

from lumi.training import ScheduleConfig, learning_rate_factor


def factors(**settings):
    config = ScheduleConfig(max_steps=100, **settings)
    return [learning_rate_factor(step, config) for step in range(100)]


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_warm_up_is_linear_and_never_zero(name):
    assert factors(lr_schedule=name)[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])


def test_cosine_ends_at_the_floor():
    values = factors(lr_schedule="cosine")
    assert values[-1] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert max(values) == 1.0


def test_warmup_stable_decay():
    values = factors(lr_schedule="wsd", decay_ratio=0.2)
    assert values[9:79] == [1.0] * 70
    assert values[-1] == pytest.approx(0.1)
    assert values[80] - values[81] == pytest.approx(0.9 / 20)


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_one_step_without_warm_up(name):
    assert 0 < learning_rate_factor(0, ScheduleConfig(max_steps=1, warmup_ratio=0, lr_schedule=name)) <= 1
