"""Worker processes: started fresh (no state of the parent leaks into a result), deaf to Ctrl-C.

Ctrl-C reaches every process of a terminal; the parent alone answers it, else each worker prints a traceback.
A parent that is killed takes its workers along: they would wait for work for ever.
A worker that is ended from outside (out of memory) is an error: `multiprocessing.Pool` would wait for it for ever.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from lumi.errors import DataError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_AHEAD = 3  # items a worker that are handed out before the first result is taken


class Pool(Protocol):
    """Who does the work: processes here, or a cluster (`lumi.cluster`)."""

    num_workers: int

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run a function in some worker."""
        ...

    def share(self, value: T) -> "Shared[T]":
        """Hand a value to every worker once, before anything is submitted."""
        ...


class Shared(Protocol[T_co]):
    """A value that every worker has; this handle is what functions are given."""

    def get(self) -> T_co:
        """Return the value."""
        ...


class WorkerPool:
    """Processes that run functions; leaving the ``with`` block ends them, at once where an error ends it.

    Args:
        num_workers: how many.

    Raises:
        DataError: on leaving, where a worker was ended from outside.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._others = set(multiprocessing.active_children())
        self._shared: list[Any] = []
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(self._shared,))

    def share(self, value: T) -> "Shared[T]":
        """Hand a value to every worker once, before anything is submitted."""
        self._shared.append(value)  # the executor reads the list when it starts a process
        _shared[:] = self._shared
        return _InProcess(len(self._shared) - 1)

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run a function in some worker."""
        with _interrupts_held():  # processes are started here, one by one
            return self._executor.submit(function, *arguments)

    def imap(self, function: Callable[..., T], items: Iterable[Any]) -> Iterator[T]:
        """Yield the function's results in the order of the items, of which a few a worker are read ahead."""
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(self.submit(function, item))
            if len(waiting) > _AHEAD * self.num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # nobody waits for what is still being worked on
            for process in set(multiprocessing.active_children()) - self._others:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                "a worker process was ended from outside, most likely for want of memory",
                "run the same command again with a smaller --num_workers; what was finished is kept",
            ) from None


_shared: list[Any] = []  # in a worker, and in the process that has the pool


@dataclass(frozen=True)
class _InProcess:
    number: int

    def get(self) -> Any:
        return _shared[self.number]


def _begin(shared: list[Any]) -> None:
    """Make a fresh process a worker."""
    _shared[:] = shared
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM a moment later: a process that is half started would print a traceback.

    Processes started inside never see Ctrl-C: they inherit that it is blocked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    answers = {
        number: signal.signal(number, lambda number, _frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for caught in held:
        signal.raise_signal(caught)
