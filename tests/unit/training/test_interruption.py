"""Signals during training."""

import os
import signal

import pytest

from lumi.training.interruption import Interruption


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_remembered_the_second_ends_at_once(number, code):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert interruption.exit_code == code
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
