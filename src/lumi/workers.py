"""Worker processes: started fresh (no state of the parent leaks into a result), deaf to Ctrl-C.

Ctrl-C reaches every process of a terminal; the parent alone answers it, else each worker prints a traceback.
"""

import multiprocessing
import multiprocessing.pool
import signal


def worker_pool(num_workers: int) -> multiprocessing.pool.Pool:
    """Return a pool of processes; leaving its ``with`` block ends them."""
    return multiprocessing.get_context("spawn").Pool(num_workers, initializer=_leave_interrupts_to_parent)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
