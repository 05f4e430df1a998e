"""How a stage ends: one clear line and the right exit code."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from lumi import cli
from lumi.config import Config
from lumi.errors import DataError


class Options(Config):
    """Nothing to choose."""


def ends_with(error):
    def run(_config):
        raise error

    return run


STAGE = cli.Stage(f"{__name__}:Options", f"{__name__}:run", "a test")


@pytest.mark.parametrize(
    "error, code, message",
    [
        (DataError("the corpus is empty", "add text"), 1, "error: the corpus is empty\n  -> add text"),
        (KeyboardInterrupt(), 130, "the same command continues"),
        (OSError(errno.ENOSPC, "No space left", "shard_3"), 1, "the disk is full (shard_3)"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), 1, "error: out/x: permission denied"),
        (OSError(errno.EFBIG, "File too large"), 1, "error: while writing: file too large"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_code(error, code, message, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_resolve", lambda name: Options if name.endswith("Options") else ends_with(error))
    assert cli.run_stage(STAGE, [], prog="test") == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(cli, "_resolve", lambda name: Options if name.endswith("Options") else ends_with(error))
    with pytest.raises(type(error)):
        cli.run_stage(STAGE, [], prog="test")


def test_sigterm_ends_a_stage_with_143(monkeypatch):
    monkeypatch.setattr(
        cli,
        "_resolve",
        lambda name: Options if name.endswith("Options") else lambda _: os.kill(os.getpid(), signal.SIGTERM),
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.run_stage(STAGE, [], prog="test")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143


def test_unknown_commands_are_usage_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["tarin"])
    assert caught.value.code == 2
    assert "pretrain" in capsys.readouterr().err


def test_every_stage_of_the_table_exists():
    for stage in cli.STAGES.values():
        assert issubclass(cli._resolve(stage.config), Config)
        assert callable(cli._resolve(stage.run))


@pytest.mark.parametrize("arguments", [["--help"], ["dpo", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from lumi.cli import main; main(sys.argv[1:])"
    ended = subprocess.run([sys.executable, "-c", code, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
