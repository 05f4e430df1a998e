"""The pool of workers: order, errors, and workers that are ended from outside."""

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from lumi.errors import DataError
from lumi.workers import WorkerPool


def test_results_come_in_order():
    with WorkerPool(2) as pool:
        assert list(pool.imap(abs, [-3, -1, -2])) == [3, 1, 2]
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


def test_a_worker_that_is_ended_from_outside_is_an_error_and_no_endless_wait():
    with pytest.raises(DataError, match="ended from outside") as caught:
        with WorkerPool(2) as pool:
            pid = pool.submit(os.getpid).result()
            waiting = pool.submit(time.sleep, 60)
            os.kill(pid, signal.SIGKILL)
            waiting.result(timeout=30)
    assert "--num_workers" in caught.value.way_out


def test_an_error_ends_what_is_still_being_worked_on():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with WorkerPool(1) as pool:
            pool.submit(os.getpid).result()
            sleeping = pool.submit(time.sleep, 60)
            while not sleeping.running():  # one that has not begun is merely cancelled
                time.sleep(0.01)
            raise KeyboardInterrupt
    assert time.monotonic() - start < 30


def test_an_error_comes_whole_out_of_a_worker():
    with pytest.raises(DataError) as caught:
        with WorkerPool(1) as pool:
            pool.submit(_fail).result(timeout=60)
    assert (caught.value.fact, caught.value.way_out) == ("the fact", "the way out")
    assert str(caught.value) == "the fact\n  -> the way out"


def _fail():
    raise DataError("the fact", "the way out")


def test_an_interrupt_while_processes_start_comes_once_they_have(monkeypatch):
    start, started = ProcessPoolExecutor.submit, []

    def interrupted(executor, *arguments):
        signal.raise_signal(signal.SIGINT)
        started.append(start(executor, *arguments))
        return started[-1]

    with pytest.raises(KeyboardInterrupt):
        with WorkerPool(1) as pool:
            monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
            pool.submit(os.getpid)
    assert len(started) == 1


def test_workers_never_see_ctrl_c():
    with WorkerPool(1) as pool:
        pid = pool.submit(os.getpid).result(timeout=60)
        os.kill(pid, signal.SIGINT)
        assert pool.submit(divmod, 7, 2).result(timeout=60) == (3, 1)


def test_what_is_shared_reaches_every_worker_and_the_parent():
    with WorkerPool(2) as pool:
        first, second = pool.share("a" * 10), pool.share([1, 2])
        seen = [pool.submit(_length, first, second).result(timeout=60) for _ in range(4)]
        assert (first.get(), second.get()) == ("a" * 10, [1, 2])
    assert seen == [(10, 2)] * 4


def _length(first, second):
    return len(first.get()), len(second.get())
