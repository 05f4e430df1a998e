"""SIGINT and SIGTERM during training: finish the step, save, then go; a second one goes at once."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """While active, remembers that the run was asked to stop instead of breaking it off."""

    def __init__(self) -> None:
        self.exit_code = 0
        self._noted = 0.0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.exit_code != 0

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        # A launcher passes on the Ctrl-C that the terminal has sent to all of its processes already.
        if self.requested and now - self._noted > 1.0:
            raise KeyboardInterrupt
        if not self.requested:
            self.exit_code, self._noted = 128 + number, now
