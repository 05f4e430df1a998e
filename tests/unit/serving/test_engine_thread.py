"""The thread of an engine: nothing waits for ever, nothing is told twice, nothing is kept."""

import asyncio
import threading
import time

import pytest

from lumi.inference import GenerationConfig, Request
from lumi.serving.api_error import ApiError
from lumi.serving.engine_thread import Call, EngineThread


class ScriptedEngine:
    """Answers with the same token for ever; each step waits until it is let."""

    def __init__(self, num_slots=2):
        self.num_slots, self.requests, self.steps, self.threads = num_slots, [], 0, set()
        self.allowed = threading.Semaphore(0)
        self.fails = self.cannot_cancel = self.ends_one_and_fails = False

    @property
    def is_idle(self):
        return not self.requests

    @property
    def num_running(self):
        return min(self.num_slots, len(self.requests))

    def enqueue(self, request):
        self.requests.append(request)

    def cancel(self, request):
        if self.cannot_cancel:
            raise RuntimeError("stuck")
        request.finish("cancelled")
        self.requests.remove(request)

    def reset(self):
        for request in [*self.requests]:
            self.cancel(request)

    def step(self):
        assert self.allowed.acquire(timeout=20)
        self.threads.add(threading.current_thread())
        self.steps += 1
        if self.ends_one_and_fails:
            self.requests.pop(0).accept(100)
        if self.fails or self.ends_one_and_fails:
            raise RuntimeError("the card is gone")
        moved = self.requests[: self.num_slots]
        for request in moved:
            request.accept(100)
        self.requests = [request for request in self.requests if request.finish_reason is None]
        return moved

    def allow(self, steps):
        for _ in range(steps):
            self.allowed.release()


@pytest.fixture
def run():
    """Run a coroutine with a started thread of a scripted engine; both end."""

    def run_with(scenario):
        engine = ScriptedEngine()
        thread = EngineThread(engine)

        async def main():
            thread.start()
            try:
                await asyncio.wait_for(scenario(engine, thread), timeout=20)
            finally:
                engine.fails = False
                engine.allow(1000)
                thread.stop()

        asyncio.run(main())
        assert not thread._thread.is_alive()

    return run_with


@pytest.fixture
def call(tokenizer):
    def make(max_new_tokens=5, count=1, *, streams=True):
        settings = GenerationConfig(max_new_tokens=max_new_tokens, stop_ids=())
        return Call.of([Request.of([1], settings, 10_000, tokenizer) for _ in range(count)], streams=streams)

    return make


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_answers_come_step_by_step_from_one_thread(run, call):
    async def scenario(engine, thread):
        asked = call(3)
        thread.submit(asked)
        request = asked.answers[0].request
        for number in (1, 2, 3):
            engine.allow(1)
            await asked.wait()
            assert len(request.token_ids) == number
        assert asked.is_done
        await until(lambda: thread.num_open == 0)
        assert asked.submitted_at < asked.answers[0].first_token_at < asked.answers[0].ended_at
        assert engine.threads == {thread._thread}
        assert engine.steps == 3

    run(scenario)


def test_who_wants_the_whole_is_woken_once(run, call):
    async def scenario(engine, thread):
        asked, streamed = call(4, streams=False), call(4)
        thread.submit(asked)
        thread.submit(streamed)
        for _ in range(3):
            engine.allow(1)
            await streamed.wait()
            assert not asked.moved.is_set()
        engine.allow(1)
        await asked.wait()
        assert asked.is_done

    run(scenario)


def test_steps_that_the_loop_did_not_see_are_told_once(run, call):
    async def scenario(engine, thread):
        loop, calls = asyncio.get_running_loop(), []
        plain = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *what: calls.append(what) or plain(*what)
        asked = call(100)
        thread.submit(asked)
        engine.allow(100)
        while engine.steps < 100 or thread.num_open:
            time.sleep(0.001)  # the loop is busy
        await asked.wait()
        assert len(asked.answers[0].request.token_ids) == 100
        assert len(calls) == 1

    run(scenario)


def test_what_is_cancelled_leaves_the_engine_before_the_next_step(run, call):
    async def scenario(engine, thread):
        one, other, waiting = call(50), call(50), call(50)
        for asked in (one, other, waiting):
            thread.submit(asked)
        assert thread.num_open == 3
        engine.allow(1)
        await one.wait()
        assert thread.num_waiting == 1
        thread.cancel(one)
        thread.cancel(waiting)
        engine.allow(2)  # one of them may have begun before
        await until(lambda: engine.steps == 3)
        assert engine.requests == [other.answers[0].request]
        assert thread.num_open == 1
        assert not one.is_done

    run(scenario)


def test_cancelling_what_has_ended_does_nothing(run, call):
    async def scenario(engine, thread):
        asked = call(1)
        thread.submit(asked)
        engine.allow(1)
        await asked.wait()
        thread.cancel(asked)
        again = call(1)
        thread.submit(again)
        engine.allow(1)
        await again.wait()
        assert asked.is_done
        assert again.is_done

    run(scenario)


def test_a_step_that_fails_ends_what_was_there_and_the_next_request_is_answered(run, call, caplog):
    async def scenario(engine, thread):
        asked = [call(5), call(5, count=2), call(5, streams=False)]
        for one in asked:
            thread.submit(one)
        engine.fails = True
        engine.allow(1)
        for one in asked:
            with pytest.raises(ApiError, match="the engine failed") as caught:
                await one.wait()
            assert caught.value.status == 500
            assert not one.is_done
        assert (thread.num_open, thread.num_failures, thread.is_broken) == (0, 1, False)
        engine.fails = False
        again = call(1)
        thread.submit(again)
        engine.allow(1)
        await again.wait()
        assert thread.num_failures == 0

    run(scenario)
    assert "the card is gone" in caplog.text


def test_an_answer_that_ended_in_the_step_that_failed_is_whole(run, call):
    async def scenario(engine, thread):
        whole, broken = call(1), call(5)
        thread.submit(whole)
        thread.submit(broken)
        engine.ends_one_and_fails = True
        engine.allow(1)
        await asyncio.wait_for(whole.wait(), 10)
        assert whole.is_done
        with pytest.raises(ApiError):
            await asyncio.wait_for(broken.wait(), 10)

    run(scenario)


def test_an_engine_that_fails_again_and_again_is_given_up(run, call):
    async def scenario(engine, thread):
        engine.fails = True
        for number in (1, 2, 3):
            asked = call(5)
            thread.submit(asked)
            engine.allow(1)
            with pytest.raises(ApiError):
                await asked.wait()
            assert thread.is_broken == (number == 3)

    run(scenario)


def test_an_engine_that_cannot_be_emptied_is_given_up_at_once(run, call):
    async def scenario(engine, thread):
        engine.fails = engine.cannot_cancel = True
        asked = call(5)
        thread.submit(asked)
        engine.allow(1)
        with pytest.raises(ApiError):
            await asked.wait()
        assert thread.is_broken
        engine.requests.clear()

    run(scenario)


def test_stopping_ends_what_still_waits(run, call):
    async def scenario(engine, thread):
        asked = call(5)
        thread.submit(asked)
        engine.allow(1)
        await asked.wait()
        engine.allow(1)
        thread.stop()
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="stopping") as caught:
            while True:
                await asked.wait()
        assert caught.value.status == 503

    run(scenario)


def test_all_can_be_ended_at_once(run, call):
    async def scenario(engine, thread):
        asked = [call(5), call(5)]
        for one in asked:
            thread.submit(one)
        thread.fail_all(ApiError(503, "enough"))
        for one in asked:
            with pytest.raises(ApiError, match="enough"):
                await one.wait()
        engine.allow(2)
        await until(lambda: thread.num_open == 0 and engine.is_idle)

    run(scenario)
