"""Whole sessions: in a pseudo-terminal, with Ctrl-C, and piped."""

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tests.chat_servers import refuse, scripted, stream

from lumi.cli import main
from lumi.config import parse_config
from lumi.errors import ConfigError, LumiError
from lumi.inference.chat import ChatConfig, run_chat

COMMAND = [sys.executable, "-m", "lumi.cli", "chat"]


class Person:
    """Somebody at a terminal."""

    def __init__(self, leader):
        self._leader = leader
        self.seen = ""
        self._read = 0

    def sees(self, pattern, seconds=30):
        """Wait for something on the screen, behind what was waited for before."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen[self._read :])) is None:
            assert time.monotonic() < end, f"{pattern!r} is not in {self.seen[self._read :]!r}"
            if select.select([self._leader], [], [], 0.1)[0]:
                self.seen += os.read(self._leader, 1 << 16).decode()
        self._read += found.end()
        return found

    def types(self, text):
        os.write(self._leader, text.encode())


@contextmanager
def terminal(*options, **environment):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *options],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "TERM": "xterm", "HOME": "/nonexistent", **environment},
    )
    os.close(follower)
    try:
        yield Person(leader), process
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_session_in_a_terminal(tmp_path):
    slow = stream(*["word "] * 400, seconds=0.05, ends=False)
    replies = [stream("**one**"), slow, stream("two \x1b]0;x\x07"), refuse(503, "the server is stopping")]
    (tmp_path / "lumi").mkdir()
    (tmp_path / "lumi/chat_history").write_text("of an earlier session\n")
    with scripted(*replies) as fake, terminal("--url", fake.url, XDG_STATE_HOME=str(tmp_path)) as (person, process):
        person.sees("sft/tiny: /help")
        person.sees("> ")
        person.types("first\n")
        person.sees("\x1b\\[1mone")
        person.sees(r"1 tokens.*first after")
        person.sees("> ")
        person.types("second\n")
        person.sees("word word")
        person.types("unseen\x03")
        person.sees("stopped by Ctrl-C")
        person.sees("> ")
        assert "unseen" not in person.seen
        assert "^C" not in person.seen
        time.sleep(0.3)  # until it waits
        person.types("\x03")  # once too often: so soon behind an answer it does not end the conversation
        person.sees("> ")
        person.types("\x1b[A\x1b[A\x1b[A\x01third, \n")  # without what was typed meanwhile, and three up
        person.sees("two \u241b]0;x\u2407")
        person.sees("> ")
        person.types("/temp 3\n")
        person.sees("temperature: 3.0")
        person.types("fourth\n")
        person.sees("error: the server answers 503: the server is stopping; /regen asks again")
        person.types(f"/save {tmp_path / 'talk.json'}\n")
        person.sees("saved: ")
        person.sees("> ")
        time.sleep(1.1)
        person.types("\x03")
        assert process.wait(timeout=20) == 0
    sent = [message["content"] for message in fake.asked[-1][2]["messages"]]
    assert sent[0:3] == ["first", "**one**", "second"]
    assert re.fullmatch("(word )+word", sent[3])
    assert sent[4:] == ["third, of an earlier session", "two \x1b]0;x\x07", "fourth"]
    assert "Traceback" not in person.seen
    assert (tmp_path / "talk.json").is_file()


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: another one would have to load everything again."""
    before = signal.getsignal(signal.SIGTERM)

    def run_command(url, *options, text=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as ended:
            main(["chat", "--url", url, *options])
        out, err = capsys.readouterr()
        return SimpleNamespace(out=out, err=err, code=ended.value.code)

    yield run_command
    signal.signal(signal.SIGTERM, before)


def test_a_server_is_talked_to_without_torch():
    """It would be seconds before the first word."""
    code = "import sys\nfrom lumi.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    with scripted(stream("one")) as fake:
        command = [sys.executable, "-c", code, "chat", "--url", fake.url, "--message", "hi"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("one\nFalse\n", "", 0)


def test_a_message_gives_its_answer_and_nothing_else(run, monkeypatch):
    monkeypatch.setenv("LUMI_API_KEY", "k-1")
    with scripted(stream("**one** ", "\x1b[31m\n", "caf\u00e9")) as fake:
        done = run(fake.url, "--message", "/help", "--system", "Be brief.", "--seed", "4")
    assert (done.out, done.err, done.code) == ("**one** \x1b[31m\ncaf\u00e9\n", "", 0)
    _, headers, body = fake.asked[-1]
    assert headers["Authorization"] == "Bearer k-1"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "/help"}]
    assert body["seed"] == 4


def test_what_is_piped_is_answered_line_by_line(run):
    with scripted(stream("one"), refuse(503, "stop\x1b[31m"), stream("two")) as fake:
        done = run(fake.url, text="a\n/temp 0\nb\n/regen\n/quit\nc\n")
    assert done.out == "one\ntwo\n"
    assert done.err == "temperature: 0.0\nerror: the server answers 503: stop\u241b[31m; /regen asks again\n"
    assert done.code == 1
    assert fake.asked[-1][2]["temperature"] == 0


def test_a_message_without_an_answer_is_an_error(run):
    with scripted(refuse(503, "stopping")) as fake:
        done = run(fake.url, "--message", "a")
    assert (done.out, done.code) == ("", 1)
    assert done.err.startswith("error: the server answers 503: stopping\n")


@pytest.mark.parametrize(
    "options",
    [[], ["--model_path", "a", "--url", "http://a"], ["--model_path", "a", "--model", "b"],
     ["--model_path", "a", "--api_key", "b"]],
)  # fmt: skip
def test_one_model_is_named_in_one_way(options):
    with pytest.raises(ConfigError):
        parse_config(ChatConfig, options, prog="test")


def test_a_message_to_a_checkpoint(tuned, base_model, capsys):
    config = {"model_path": str(tuned), "message": "water", "device": "cpu", "dtype": "fp32"}
    run_chat(ChatConfig.from_values({**config, "generation": {"max_new_tokens": 9}}, "test"))
    first = capsys.readouterr().out
    assert first.strip()
    run_chat(ChatConfig.from_values({**config, "generation": {"max_new_tokens": 9}}, "test"))
    assert capsys.readouterr().out == first
    with pytest.raises(LumiError, match="never taught to answer"):
        run_chat(ChatConfig.from_values({**config, "model_path": str(base_model)}, "test"))
