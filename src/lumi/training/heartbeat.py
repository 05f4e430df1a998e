"""A sign of life from each rank to the others: a rank that died must end the job, not hang it.

NCCL waits for a dead peer without an end; so each rank counts up a number in the store that all of them share,
and ends itself when another's number has stood still for too long.
"""

import os
import threading
import time
from typing import Any

from lumi.progress import say

INTERVAL = 5.0  # seconds between two signs
SILENCE = 40.0  # seconds after which a rank counts as lost
_DONE, _FAILED = b"done", b"failed"  # said on leaving


class Heartbeat:
    """Runs from its making until `stop`.

    Args:
        store: torch.distributed's, shared by all ranks.
        rank: this process.
        world_size: how many there are.
    """

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self._store, self._rank = store, rank
        self._others = [other for other in range(world_size) if other != rank]
        self._stopping = threading.Event()
        self._farewell = _DONE
        self._thread = threading.Thread(target=self._run, name="lumi-heartbeat", daemon=True)
        self._thread.start()

    def stop(self, *, failed: bool = False) -> None:
        """Take leave: silence from now on means nothing; or, after a failure, that the others are to end too."""
        self._farewell = _FAILED if failed else _DONE
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        last: dict[int, tuple[bytes, float]] = {other: (b"", time.monotonic()) for other in self._others}
        beats = 0
        while not self._stopping.wait(INTERVAL):
            beats += 1
            try:
                self._store.set(str(self._rank), str(beats))
                seen = {o: self._store.get(str(o)) for o in self._others if self._store.check([str(o)])}
            except RuntimeError:  # the store's process has gone; its rank's silence will show
                seen = {}
            now = time.monotonic()
            for other, value in seen.items():
                if value != last[other][0] or value == _DONE:
                    last[other] = (value, now)
            lost = [o for o in self._others if seen.get(o) == _FAILED or now - last[o][1] > SILENCE]
            if lost:
                self._end(lost)
        try:
            self._store.set(str(self._rank), self._farewell.decode())
        except RuntimeError:
            return

    def _end(self, lost: list[int]) -> None:
        if self._rank == min(other for other in (self._rank, *self._others) if other not in lost):
            named = ", ".join(map(str, lost))
            say(
                f"error: rank {named} failed, or gave no sign of life for {SILENCE:.0f} seconds; all ranks end\n"
                "  -> its own output says why; the same command resumes from the newest checkpoint"
            )
        os._exit(1)  # the main thread may wait inside the device's driver, where nothing can interrupt it
