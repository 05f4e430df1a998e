"""Bounds of requests, clients that leave, engines that fail: through the routes, on a running server."""

import asyncio
import json
import socket
import threading

import httpx
import pytest
from tests.servers import ENDLESS, load, serving, wait_until

from lumi.serving.answer_forms import ChatForm

CHAT = {"model": "sft/tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.0}
LONG = {**CHAT, **ENDLESS}
LIMITS = {"max_new_tokens": 60, "max_prompt_tokens": 40, "max_choices": 8, "max_waiting": 4, "request_seconds": 60.0}


@pytest.fixture(scope="module")
def server(checkpoints):
    with serving(load(checkpoints.tuned, num_slots=2), LIMITS) as running:
        yield running


@pytest.fixture
def asking(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def ask(client, **changes):
    return client.post("/v1/chat/completions", json={**CHAT, **changes})


def events(response):
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def wait_until_idle(server):
    wait_until(lambda: server.models[0].thread.engine.is_idle and server.service.num_open == 0)


def gauge(client, name):
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"lumi_{name}{{"))


def test_a_long_prompt_is_refused_with_its_length(asking):
    response = ask(asking, messages=[{"role": "user", "content": "x y " * 25}])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "40 are the most" in response.json()["error"]["message"]


def test_what_cannot_fit_is_not_even_encoded(server, asking, monkeypatch):
    def encode(_text):
        pytest.fail("a megabyte was encoded")

    monkeypatch.setattr(server.models[0].tokenizer, "encode", encode)
    long, many = [("user", "x " * 10_000)], [("user", "x"), ("assistant", "y")] * 500 + [("user", "z")]
    for turns in (long, many):
        response = ask(asking, messages=[{"role": role, "content": content} for role, content in turns])
        assert response.json()["error"]["code"] == "context_length_exceeded"
    response = asking.post("/v1/completions", json={"model": "sft/tiny", "prompt": "x " * 10_000})
    assert response.json()["error"]["param"] == "prompt"


def test_more_tokens_and_choices_than_there_may_be_are_refused(asking):
    for name, value in (("max_tokens", 61), ("max_completion_tokens", 61), ("n", 9)):
        response = ask(asking, **{name: value})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == ("max_tokens" if "tokens" in name else name)


def test_more_logprobs_than_there_may_be_are_refused(checkpoints):
    """They are what makes an answer large."""
    with serving(load(checkpoints.tuned), {"max_logprobs": 100}) as server, httpx.Client(base_url=server.url) as client:
        for count, tokens, choices, status in ((0, 100, 1, 200), (0, 51, 2, 400), (4, 20, 1, 200), (4, 21, 1, 400)):
            options = {"logprobs": True, "top_logprobs": count, "max_tokens": tokens, "n": choices}
            response = ask(client, **options)
            assert response.status_code == status, options
            assert status == 200 or response.json()["error"]["param"] == "logprobs"
        assert ask(client, max_tokens=110, n=4).status_code == 200


def test_without_a_number_of_tokens_the_limit_and_the_context_end_an_answer(asking):
    response = asking.post("/v1/chat/completions", json={**LONG, "max_tokens": None})
    assert response.json()["usage"]["completion_tokens"] == 60
    assert response.json()["choices"][0]["finish_reason"] == "length"
    response = asking.post(
        "/v1/completions", json={"model": "sft/tiny", "prompt": "hi", "logit_bias": {"2": -100, "5": -100}}
    )
    assert response.json()["usage"]["completion_tokens"] == 16


def test_those_who_would_wait_too_long_are_told_to_come_again(server, asking, slow):
    """Two run, four wait, the seventh is refused; a stream that is accepted is answered."""
    hurry = slow(server.models[0], 0.2)
    statuses = []

    def one():
        with httpx.Client(base_url=server.url, timeout=60) as client:
            statuses.append(client.post("/v1/chat/completions", json=LONG).status_code)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (gauge(asking, "answers_running"), gauge(asking, "answers_waiting")) == (2, 4))
    refused = ask(asking)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    hurry.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    assert ask(asking).status_code == 200


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_slots(server, asking, slow, streams):
    slow(server.models[0], 0.5)  # the answers would take a minute
    before = gauge(asking, "answers_cancelled_total")

    async def leave():
        async with httpx.AsyncClient(base_url=server.url) as client:
            body = {**LONG, "n": 3, "stream": streams}
            asked = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while server.models[0].thread.engine.num_running < 2:
                assert not asked.done()
                await asyncio.sleep(0.01)
            asked.cancel()
            await asyncio.wait([asked])

    asyncio.run(leave())
    wait_until_idle(server)
    assert gauge(asking, "answers_cancelled_total") == before + 3
    assert gauge(asking, "answers_running") == gauge(asking, "answers_waiting") == 0


def test_what_takes_too_long_ends_with_an_error(checkpoints, slow):
    with serving(load(checkpoints.tuned, num_slots=1), {"request_seconds": 1.0}) as server:
        slow(server.models[0], 0.1)
        with httpx.Client(base_url=server.url, timeout=30) as client:
            whole = client.post("/v1/chat/completions", json=LONG)
            assert whole.status_code == 504
            assert whole.headers["x-should-retry"] == "false"
            with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
                assert response.status_code == 200
                *chunks, last = events(response)
        assert len(chunks) >= 2
        assert json.loads(last)["error"]["code"] == "timeout"
        wait_until_idle(server)


def test_a_reader_that_never_reads_holds_no_slot_and_not_for_ever(checkpoints, monkeypatch):
    """The answer is megabytes; the engine goes on, the connection ends when the time is over."""
    monkeypatch.setattr("lumi.serving.guard._GRACE_SECONDS", 0.0)
    with serving(load(checkpoints.tuned, num_slots=8), {"request_seconds": 5.0}, send_buffer=4096) as server:

        async def main():
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            _, writer = await asyncio.open_connection(sock=connection, limit=1)
            body = json.dumps({**LONG, "n": 8, "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
            head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
            writer.transport.pause_reading()
            writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            try:
                await asyncio.sleep(1.0)
                while not server.models[0].thread.engine.is_idle:
                    await asyncio.sleep(0.01)
                assert server.service.num_open == 1
                while server.service.num_open:
                    await asyncio.sleep(0.01)
            finally:
                writer.transport.abort()
                await asyncio.sleep(0)

        asyncio.run(asyncio.wait_for(main(), timeout=20))


@pytest.fixture
def breaking(server, monkeypatch):
    """Let the engine fail as long as this is set."""
    engine, fails = server.models[0].thread.engine, threading.Event()
    step = engine.step

    def step_or_fail():
        if fails.is_set():
            raise RuntimeError("the card is gone")
        return step()

    monkeypatch.setattr(engine, "step", step_or_fail)
    yield fails
    server.models[0].thread.num_failures = 0


def test_an_engine_that_fails_is_an_error_for_each_and_the_next_are_answered(server, asking, slow, breaking, caplog):
    expected = ask(asking, max_tokens=5).json()["choices"]
    hurry = slow(server.models[0], 0.5)
    with asking.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["choices"]
        breaking.set()
        hurry.set()
        last = [line for line in lines if line][-1].removeprefix("data: ")
    assert json.loads(last)["error"] == {
        "message": "the engine failed; the server's log says how", "type": "server_error", "param": None,
        "code": "engine_failed",
    }  # fmt: skip
    response = ask(asking)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "engine_failed")
    assert asking.get("/ready").status_code == 200
    breaking.clear()
    assert ask(asking, max_tokens=5).json()["choices"] == expected
    assert "RuntimeError: the card is gone" in caplog.text


def test_an_engine_that_always_fails_is_not_ready(asking, breaking):
    breaking.set()
    assert [ask(asking).status_code for _ in range(4)] == [500, 500, 500, 503]
    response = asking.get("/ready")
    assert response.status_code == 503
    assert "sft/tiny" in response.json()["error"]["message"]
    assert asking.get("/health").status_code == 200


def test_a_stream_that_fails_for_a_reason_of_ours_ends_with_an_error(server, asking, monkeypatch, caplog):
    written = []

    def break_at_the_third(form, piece, real=ChatForm.delta):
        written.append(piece)
        return real(form, piece) if len(written) < 3 else {}["the secret"]

    monkeypatch.setattr(ChatForm, "delta", break_at_the_third)
    with asking.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
        last = json.loads(events(response)[-1])
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in last["error"]["message"]
    assert "KeyError: 'the secret'" in caplog.text
    wait_until_idle(server)


def test_while_draining_nothing_new_is_taken_and_what_runs_is_finished(checkpoints, slow):
    with serving(load(checkpoints.tuned)) as server:
        hurry = slow(server.models[0], 0.5)
        with httpx.Client(base_url=server.url, timeout=30) as client, httpx.Client(base_url=server.url) as other:
            with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as response:
                lines = response.iter_lines()
                next(lines)
                server.service.drain()
                for route in ("/ready", "/v1/models"):
                    assert other.get(route).status_code == 503
                refused = other.post("/v1/chat/completions", json=CHAT)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
                assert other.get("/health").status_code == 200
                assert other.get("/metrics").status_code == 200
                hurry.set()
                rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


def test_metrics_count_tokens_answers_and_times(checkpoints):
    with serving(load(checkpoints.tuned)) as server, httpx.Client(base_url=server.url) as client:
        usage = client.post("/v1/chat/completions", json={**LONG, "n": 2}).json()["usage"]
        client.post("/v1/chat/completions", json={**CHAT, "model": "x"})
        assert gauge(client, "generated_tokens_total") == usage["completion_tokens"] == 120
        assert gauge(client, "prompt_tokens_total") == 2 * usage["prompt_tokens"]
        assert gauge(client, "answers_finished_total") == 2
        assert gauge(client, "time_to_first_token_seconds_count") == 2
        assert gauge(client, "time_per_token_seconds_count") == 2
        assert 0 < gauge(client, "time_per_token_seconds_sum") < 10
        assert gauge(client, "slots") == 4
        text = client.get("/metrics").text
        for status in (200, 404):
            assert f'lumi_http_requests_total{{route="/v1/chat/completions",status="{status}"}} 1.0' in text
