"""What stands before every route: names, keys, sizes, times; and what every answer carries."""

import contextlib
import json
import socket
import threading
import time

import httpx
import pytest
from tests.servers import ENDLESS, KEY, load, serving, wait_until

from lumi.serving.keys import Keys

OTHER_KEY = "another-key-of-the-tests-0123"
GET_ROUTES = ["/ready", "/metrics", "/openapi.json", "/v1/models", "/v1/models/sft/tiny", "/nowhere"]
CHAT = {"model": "sft/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
LIMITS = {"max_body_bytes": 10_000, "max_requests_per_key": 2, "request_seconds": 60.0}


@pytest.fixture(scope="module")
def open_server(checkpoints):
    with serving(load(checkpoints.tuned), LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def keyed_server(checkpoints):
    with serving(load(checkpoints.tuned), LIMITS, keys=Keys([KEY, OTHER_KEY])) as server:
        yield server


@pytest.fixture
def client():
    """Make clients that are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(server, **headers):
            made = httpx.Client(base_url=server.url, headers=headers, timeout=30)
            stack.callback(made.close)
            return made

        yield make


@contextlib.contextmanager
def threaded(ask, server, *, num_open=1):
    """Let somebody ask meanwhile, once the server has so many answers to write; what came is there in the end."""
    answered = []
    thread = threading.Thread(target=lambda: answered.append(ask()))
    thread.start()
    try:
        wait_until(lambda: server.models[0].thread.num_open >= num_open)
        yield answered
    finally:
        thread.join()


def error_of(response):
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80"])
def test_its_own_names_are_answered(open_server, host, client):
    assert client(open_server, host=host).get("/health").status_code == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "10.0.0.1"]
)
@pytest.mark.parametrize("route", ["/", "/health", "/v1/models"])
def test_other_names_are_not(open_server, host, route, client):
    """DNS rebinding: a page of another site that lets its own name point here."""
    response = client(open_server, host=host).get(route)
    assert response.status_code == 421
    assert error_of(response)["code"] == "wrong_host"


@pytest.mark.parametrize("route", GET_ROUTES)
def test_every_route_needs_a_key(keyed_server, route, client):
    with client(keyed_server) as asking:
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}, {"x-api-key": KEY}):
            response = asking.get(route, headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert error_of(response)["code"] == "invalid_api_key"
        for key in (KEY, OTHER_KEY):
            response = asking.get(route, headers={"Authorization": f"Bearer {key}"})
            assert response.status_code == (404 if route == "/nowhere" else 200)


def test_a_body_without_a_key_is_not_read(keyed_server, client):
    response = client(keyed_server).post("/v1/chat/completions", content=b"{" * 100_000)
    assert response.status_code == 401


def test_the_page_and_health_need_none(keyed_server, client):
    with client(keyed_server) as asking:
        assert asking.get("/health").json() == {"status": "ok"}
        assert asking.get("/").headers["content-type"].startswith("text/html")


def test_the_page_may_load_nothing_from_elsewhere(open_server, client):
    headers = client(open_server).get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert all(source.startswith("'sha256-") or source == "'none'" for source in policy[kind].split())
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("route", ["/health", "/v1/models", "/nowhere", "/metrics"])
def test_every_answer_has_the_headers_of_safety(open_server, route, client):
    headers = client(open_server).get(route, headers={"Origin": "https://evil.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not any(name.startswith("access-control") for name in headers)


def test_a_page_of_another_site_cannot_ask(open_server, client):
    """Its preflight is refused, and what needs no preflight is no JSON."""
    with client(open_server, origin="https://evil.example") as asking:
        preflight = asking.options("/v1/chat/completions", headers={"Access-Control-Request-Method": "POST"})
        assert preflight.status_code == 405
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            simple = asking.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"Content-Type": kind})
            assert simple.status_code == 415
            assert error_of(simple)["code"] == "wrong_content_type"


def test_streams_do_not_gather_headers(open_server, client):
    """The first events of two streams have been one object once."""
    with client(open_server) as asking:
        answers = [asking.post("/v1/chat/completions", json={**CHAT, "stream": True}) for _ in range(3)]
    assert len({len(answer.headers.raw) for answer in answers}) == 1


def test_a_long_body_is_refused_announced_or_not(open_server, client):
    def parts():
        for _ in range(200):
            yield b" " * 1000

    with client(open_server, **{"content-type": "application/json"}) as asking:
        for content in (b" " * 10_001, parts()):
            response = asking.post("/v1/chat/completions", content=content)
            assert response.status_code == 413
            assert "10,000 bytes" in error_of(response)["message"]
            assert asking.get("/health").status_code == 200
        just = json.dumps(CHAT).encode()
        response = asking.post("/v1/chat/completions", content=just + b" " * (10_000 - len(just)))
        assert response.status_code == 200


def test_no_route_and_no_such_method_are_errors_like_all(open_server, client):
    with client(open_server) as asking:
        assert error_of(asking.get("/docs"))["message"] == "GET /docs: no such route"
        assert asking.delete("/v1/models").status_code == 405
        assert error_of(asking.delete("/v1/models"))["type"] == "invalid_request_error"


def test_a_key_has_so_many_requests_at_once(keyed_server, slow, client):
    hurry = slow(keyed_server.models[0], 0.2)

    def ask(key, **changes):
        asking = client(keyed_server, authorization=f"Bearer {key}")
        response = asking.post("/v1/chat/completions", json={**CHAT, **changes})
        return response.status_code, response.headers.get("retry-after")

    def running(num_open):
        return threaded(lambda: ask(KEY, **ENDLESS), keyed_server, num_open=num_open)

    with running(1) as first, running(2) as second:
        assert ask(KEY) == (429, "1")
        assert ask(OTHER_KEY) == (200, None)
        assert first == second == []
        hurry.set()
    assert first == second == [(200, None)]
    assert ask(KEY) == (200, None)


def test_each_choice_is_one_of_a_keys_requests(keyed_server, slow, client):
    hurry = slow(keyed_server.models[0], 0.2)
    ours = client(keyed_server, authorization=f"Bearer {KEY}")
    others = client(keyed_server, authorization=f"Bearer {OTHER_KEY}")

    def ask(asking, **changes):
        return asking.post("/v1/chat/completions", json={**CHAT, **changes})

    never = ask(ours, n=3)
    assert (never.status_code, error_of(never)["param"]) == (400, "n")
    for running, more in ((2, 1), (1, 2)):
        hurry.clear()
        with threaded(lambda n=running: ask(ours, **ENDLESS, n=n), keyed_server, num_open=running) as answered:
            refused = ask(ours, n=more)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert ask(others, n=2).status_code == 200
            assert running == 2 or ask(ours).status_code == 200
            assert not answered
            hurry.set()
        assert answered[0].status_code == 200


def test_a_body_that_does_not_come_ends_in_time(checkpoints, monkeypatch):
    monkeypatch.setattr("lumi.serving.guard._GRACE_SECONDS", 0.0)
    with serving(load(checkpoints.tuned), {"request_seconds": 0.5}) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_before_its_body_is_whole_is_no_error(open_server, caplog):
    with socket.create_connection(("127.0.0.1", open_server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        time.sleep(0.2)
    wait_until(lambda: open_server.service.num_open == 0)
    assert not caplog.records


def test_an_error_of_ours_is_500_without_its_traceback(open_server, monkeypatch, caplog, client):
    def broken(_name):
        raise ZeroDivisionError("the secret of line 7")

    monkeypatch.setattr(open_server.service, "model", broken)
    response = client(open_server).post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in response.text
    assert "ZeroDivisionError: the secret of line 7" in caplog.text


def test_a_line_for_each_request_where_that_is_wanted(checkpoints, capsys, client):
    with serving(load(checkpoints.tuned), logs=True) as server:
        client(server).post("/v1/chat/completions", json=CHAT)
        client(server).get("/nowhere/at/all")
    said = capsys.readouterr().err
    assert "POST /v1/chat/completions 200" in said
    assert "GET other 404" in said
