"""Signals during training."""

import os
import signal
import time

import pytest

from lumi.training.interruption import Interruption


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_remembered_the_second_ends_at_once(number, code, monkeypatch):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert interruption.exit_code == code
        os.kill(os.getpid(), number)  # the same Ctrl-C, passed on by a launcher
        now = time.monotonic()
        monkeypatch.setattr("lumi.training.interruption.time.monotonic", lambda: now + 2)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
