"""Threads that run one compiled function together.

    the caller is thread 0; the others wait in a queue, are given the same arguments, and meet inside

The function gets its thread's number, how many there are and a ``meeting``: zeros, by which the threads tell each
other in it what is taken and what is done. It must come to its end whichever threads come, and however late.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np


class Team:
    """So many threads; one thing at a time, whoever asks.

    Args:
        size: threads, the caller's among them.
    """

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._queues = [SimpleQueue[tuple[Any, ...]]() for _ in range(size - 1)]
        for number, queue in enumerate(self._queues, 1):
            threading.Thread(target=_work, args=(number, queue), daemon=True, name=f"team-{number}").start()

    def run(self, function: Callable[..., None], threads: int, num_stages: int, *arguments: Any) -> None:
        """Call ``function(number, threads, meeting, *arguments)`` in so many threads; return when it has returned here.

        The meeting has two numbers for each stage of the function's work.
        """
        arguments = (threads, np.zeros(2 * num_stages, dtype=np.int64), *arguments)
        with self._lock:
            try:
                for queue in self._queues[: threads - 1]:
                    queue.put((function, *arguments))
                function(0, *arguments)
            except KeyboardInterrupt:  # the others have begun: nothing is left half done
                function(0, *arguments)
                raise


def _work(number: int, queue: "SimpleQueue[tuple[Any, ...]]") -> None:
    while True:
        function, *arguments = queue.get()
        while not queue.empty():  # what stands behind it was called when it had been done
            function, *arguments = queue.get()
        function(number, *arguments)
        del function, arguments  # nothing is kept alive while there is nothing to do


@functools.cache
def team(size: int) -> Team:
    """Return the process's team of a size."""
    return Team(size)


if sys.platform != "win32":
    os.register_at_fork(after_in_child=team.cache_clear)  # its threads stay with the parent
