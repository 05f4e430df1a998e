"""Worker processes: started fresh (no state of the parent leaks into a result), deaf to Ctrl-C.

Ctrl-C reaches every process of a terminal; the parent alone answers it, else each worker prints a traceback.
A worker that is ended from outside (out of memory) is an error: `multiprocessing.Pool` would wait for it for ever.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self, TypeVar

from lumi.errors import DataError

T = TypeVar("T")


class WorkerPool:
    """Processes that run functions; leaving the ``with`` block ends them, at once where an error ends it.

    Raises:
        DataError: on leaving, where a worker was ended from outside.
    """

    def __init__(self, num_workers: int) -> None:
        self._others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(num_workers, context, initializer=_leave_interrupts_to_parent)

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run a function in some worker."""
        return self._executor.submit(function, *arguments)

    def imap(self, function: Callable[..., T], items: Iterable[Any]) -> Iterator[T]:
        """Yield the function's results in the order of the items, all of which are read at once."""
        return self._executor.map(function, items)

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


def worker_pool(num_workers: int) -> WorkerPool:
    """Return a pool of processes for a ``with`` block."""
    return WorkerPool(num_workers)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
