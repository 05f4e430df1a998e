"""`lumi serve`: what is wrong is said before anything is loaded or bound, and it ends in good order."""

import json
import shutil
import signal
import socket
from pathlib import Path

import httpx
import pytest
from tests.servers import KEY, command

from lumi.errors import ConfigError, DataError, IntegrityError, LumiError, TokenizerMismatch
from lumi.serving import ServeConfig, serve
from lumi.serving.app import create_app
from lumi.serving.limits import Limits
from lumi.serving.served_model import model_ids
from lumi.serving.server import Server, bind
from lumi.serving.service import Service


@pytest.fixture(autouse=True)
def nothing_is_served(monkeypatch):
    monkeypatch.setattr("lumi.serving.server.Server.run", lambda *_: pytest.fail("it would have served"))
    monkeypatch.delenv("LUMI_API_KEY", raising=False)


def fails(expected, *folders, **options):
    values = {"model_path": [str(folder) for folder in folders], "port": 0, "device": "cpu", **options}
    with pytest.raises(expected) as caught:
        serve(ServeConfig.from_values(values, "test"))
    assert issubclass(expected, LumiError)
    return str(caught.value)


def test_a_model_that_is_not_there_or_not_whole(checkpoints, tmp_path):
    assert "no model at" in fails(DataError, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "is incomplete" in fails(IntegrityError, tmp_path / "empty")
    broken = shutil.copytree(checkpoints.tuned, tmp_path / "broken")
    weights = bytearray((broken / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (broken / "model.safetensors").write_bytes(weights)
    assert "model.safetensors is damaged" in fails(IntegrityError, checkpoints.base, broken)


def test_another_template_than_the_models(checkpoints):
    message = fails(ConfigError, checkpoints.tuned, template="instruct")
    assert "was tuned with the template chatml, and --template asks for instruct" in message
    assert "is a base model" in fails(ConfigError, checkpoints.base, template="chatml")
    assert "there is no template" in fails(ConfigError, checkpoints.tuned, template="llama3")


def test_another_tokenizer_than_the_models(checkpoints, artifacts):
    fails(TokenizerMismatch, checkpoints.tuned, tokenizer_path=str(artifacts / "tokenizer"))


def test_an_address_that_others_reach_needs_a_key(checkpoints):
    for host in ("0.0.0.0", "::"):
        assert "there is no API key" in fails(ConfigError, checkpoints.tuned, host=host)
    assert "16 characters" in fails(ConfigError, checkpoints.tuned, host="0.0.0.0", api_key="secret")


def test_an_address_that_is_taken_or_none_of_ours(checkpoints):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: address already in use" in fails(ConfigError, checkpoints.tuned, port=port)
    assert "cannot serve at 192.0.2.1" in fails(ConfigError, checkpoints.tuned, host="192.0.2.1")
    assert "cannot serve at nowhere.invalid" in fails(ConfigError, checkpoints.tuned, host="nowhere.invalid")


def test_two_models_cannot_be_talked_to(checkpoints):
    assert "one model" in fails(ConfigError, checkpoints.tuned, checkpoints.base, mode="interactive")


def test_interactive_is_the_chat_of_the_terminal(checkpoints, monkeypatch):
    talked = []
    monkeypatch.setattr("lumi.inference.chat.run_chat", talked.append)
    values = {"model_path": [str(checkpoints.tuned)], "mode": "interactive", "device": "cpu"}
    serve(ServeConfig.from_values(values, "test"))
    assert talked[0].model_path == checkpoints.tuned


def test_ids_are_the_last_folders_as_many_as_tell_them_apart(tmp_path):
    def ids(*names):
        return model_ids([tmp_path / name for name in names])

    assert ids("checkpoints/sft_industrial/tiny/final") == ["sft_industrial/tiny"]
    assert ids("a/pretrain/tiny/final", "a/sft/tiny/step_20") == ["pretrain/tiny", "tiny/step_20"]
    assert ids("a/sft/tiny/final", "b/sft/tiny/final") == ["a/sft/tiny", "b/sft/tiny"]
    assert model_ids([Path("/model")]) == ["model"]
    assert model_ids([Path("/final")]) == ["final"]
    for twice in (("a/b", "a/b"), ("a/b", "a/../a/b"), ("a/b", "a/b/final")):
        with pytest.raises(ConfigError):
            ids(*twice)


def test_a_bound_address_takes_no_connections_yet():
    with bind("127.0.0.1", 0) as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=5)


def stream_of(client):
    body = {"model": "sft/tiny", "messages": [{"role": "user", "content": "hi"}], "n": 8, "stream": True}
    return client.stream("POST", "/v1/chat/completions", json={**body, "logit_bias": {"2": -100, "5": -100}})


def test_sigterm_lets_running_answers_end_and_takes_no_more(checkpoints):
    options = ["--model_path", str(checkpoints.tuned), "--num_slots", "1", "--device", "cpu"]
    with command(*options, LUMI_API_KEY=KEY) as (process, url):
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client, httpx.Client(base_url=url) as other:
            assert other.get("/v1/models").status_code == 401
            other.headers.update(headers)
            assert other.get("/ready").status_code == 200
            with stream_of(client) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                while other.get("/ready").status_code == 200:
                    assert process.poll() is None
                assert other.post("/v1/chat/completions", json={}).status_code == 503
                ends = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            assert sum(one["choices"][0]["finish_reason"] == "length" for one in ends) == 8
        assert process.wait(timeout=20) == 143
        assert "Traceback" not in process.stderr.read()


def test_when_the_time_is_over_streams_end_with_an_error(checkpoints):
    options = ["--model_path", str(checkpoints.tuned), "--num_slots", "1", "--device", "cpu", "--drain_seconds", "0"]
    with command(*options) as (process, url), httpx.Client(base_url=url, timeout=60) as client:
        with stream_of(client) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            last = [line for line in lines if line][-1]
        assert json.loads(last[6:])["error"]["code"] == "stopping"
        assert process.wait(timeout=20) == 130
        assert "Traceback" not in process.stderr.read()


def test_headers_have_an_end(checkpoints):
    """Also where httptools is installed, which has none for them."""
    service = Service([], Limits())
    config = Server(create_app(service), service, "").config
    assert (config.http, config.loop) == ("h11", "asyncio")
    with command("--model_path", str(checkpoints.tuned), "--device", "cpu") as (_, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            line = b"X-Long: " + b"a" * 8000 + b"\r\n"
            with pytest.raises((BrokenPipeError, ConnectionResetError)):  # it closes the connection
                for _ in range(2500):
                    connection.sendall(line)
