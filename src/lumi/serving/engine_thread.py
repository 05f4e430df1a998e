"""The thread that owns an engine, and how coroutines wait for it.

    coroutine: submit, cancel --> inbox --> thread: take them in, step, note what moved
                                                        |
    coroutine: read the answers <-- event <-- loop <----+  one call into the loop a step, none while one is due

A coroutine reads an answer where it has got to by then: what came while it was busy, or its reader slow, is read in
one piece, and nothing is ever queued up for it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lumi.inference import Engine, Request
from lumi.serving.api_error import ApiError

logger = logging.getLogger(__name__)

_MOST_FAILURES = 3  # of steps, one behind the other, before the engine is given up


@dataclass(eq=False, slots=True)
class Answer:
    """A request in the engine, and when it moved (of `time.perf_counter`)."""

    request: Request
    first_token_at: float | None = None
    ended_at: float | None = None

    @property
    def is_done(self) -> bool:
        return self.request.finish_reason not in (None, "cancelled")


@dataclass(eq=False, slots=True)
class Call:
    """What one client waits for: its answers, and an event for each time that one of them moved."""

    answers: list[Answer]
    streams: bool  # every step counts, not the end of an answer alone
    submitted_at: float = field(default_factory=time.perf_counter)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    error: ApiError | None = None  # why its answers will not come

    @classmethod
    def of(cls, requests: Sequence[Request], *, streams: bool) -> "Call":
        return cls([Answer(request) for request in requests], streams)

    @property
    def is_done(self) -> bool:
        """Whether all answers were written to their end; never where an error came before it."""
        return all(answer.is_done for answer in self.answers)

    async def wait(self) -> None:
        """Wait until an answer has moved.

        Raises:
            ApiError: no more will come.
        """
        await self.moved.wait()
        self.moved.clear()
        if self.error is not None:
            raise self.error

    def fail(self, error: ApiError) -> None:
        """End the waiting with an error; in the loop."""
        self.error = self.error or error
        self.moved.set()


class EngineThread:
    """Runs an engine; everything but `start` and `stop` is for coroutines of the loop that started it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.num_failures = 0  # of steps, since one went well
        self._calls: dict[Request, tuple[Call, Answer]] = {}  # of all that is unfinished; under the lock
        self._inbox: list[tuple[Callable[[Call], None], Call]] = []
        self._moved: set[Call] = set()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def num_open(self) -> int:
        """Return how many answers run or wait."""
        return len(self._calls)

    @property
    def num_waiting(self) -> int:
        return max(0, self.num_open - self.engine.num_running)

    @property
    def is_broken(self) -> bool:
        """Whether the engine failed again and again, and is not tried any more."""
        return self.num_failures >= _MOST_FAILURES

    def start(self) -> None:
        """Begin to work, for the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it still had fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def submit(self, call: Call) -> None:
        """Hand over the requests of a call."""
        with self._changed:
            self._calls.update({answer.request: (call, answer) for answer in call.answers})
            self._inbox.append((self._enqueue, call))
            self._changed.notify()

    def cancel(self, call: Call) -> None:
        """End what is unfinished of a call at the next step; its slots are free then."""
        with self._changed:
            self._inbox.append((self._cancel, call))
            self._changed.notify()

    def fail_all(self, error: ApiError) -> None:
        """End all that is unfinished with an error."""
        with self._changed:
            calls = {call for call, _ in self._calls.values()}
        for call in calls:
            call.fail(error)
            self.cancel(call)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._stopping) and self.engine.is_idle:
                    self._changed.wait()
                inbox, self._inbox = self._inbox, []
                stopping = self._stopping
            if stopping:
                self._fail(ApiError(503, "the server is stopping", code="stopping"))
                return
            try:
                for act, call in inbox:
                    act(call)
                if not self.engine.is_idle:
                    moved = self.engine.step()
                    self.num_failures = 0
                    self._note(moved)
            except Exception:
                self.num_failures += 1
                logger.exception("the engine failed (%d in a row)", self.num_failures)
                self._fail(ApiError(500, "the engine failed; the server's log says how", code="engine_failed"))

    def _enqueue(self, call: Call) -> None:
        for answer in call.answers:
            self.engine.enqueue(answer.request)

    def _cancel(self, call: Call) -> None:
        unfinished = [answer.request for answer in call.answers if answer.request.finish_reason is None]
        for request in unfinished:
            self.engine.cancel(request)
        self._forget(unfinished)

    def _note(self, moved: Sequence[Request]) -> None:
        now = time.perf_counter()
        calls = set()
        for request in moved:
            call, answer = self._calls[request]
            if call.streams or request.finish_reason is not None:
                calls.add(call)
            if answer.first_token_at is None:
                answer.first_token_at = now
            if request.finish_reason is not None:
                answer.ended_at = now
        self._forget([request for request in moved if request.finish_reason is not None])
        self._announce(calls)

    def _fail(self, error: ApiError) -> None:
        """End everything; the engine is left empty, where that is possible."""
        with self._changed:
            unfinished, self._calls, self._inbox = self._calls, {}, []
        calls = {call for call, _ in unfinished.values()}
        for call in calls:
            if not call.is_done:  # an answer may have ended in the very step that failed
                call.error = call.error or error
        try:
            self.engine.reset()
        except Exception:
            logger.exception("the engine cannot be emptied")
            self.num_failures = _MOST_FAILURES
        self._announce(calls)

    def _forget(self, requests: Sequence[Request]) -> None:
        with self._changed:
            for request in requests:
                self._calls.pop(request, None)

    def _announce(self, calls: set[Call]) -> None:
        """Wake those who wait, unless the loop has not yet come to the last time."""
        with self._changed:
            due = bool(self._moved)
            self._moved |= calls
        if calls and not due:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        with self._changed:
            moved, self._moved = self._moved, set()
        for call in moved:
            call.moved.set()
