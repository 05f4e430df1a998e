"""What is typed, piped or pasted, and the file that remembers it."""

import io
import stat
from pathlib import Path

import pytest

from lumi.inference.chat.prompt import InputHistory, Prompt, state_folder


def questions(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    prompt, found = Prompt(), []
    while (question := prompt.read()) is not None:
        found.append(question)
    return found


@pytest.mark.parametrize(
    "text, expected",
    [
        ("one\n\ntwo", ["one", "", "two"]),
        ("a\\\nb\\\nc\nd\n", ["a\nb\nc", "d"]),
        ('"""\na\n\n  b\\\n"""\nc\n', ["a\n\n  b\\", "c"]),
        ('"""a\nb"""\nc\n', ["a\nb", "c"]),
        ('"""a"""\nc\n', ["a", "c"]),
        ('"""\nnever ended', ["never ended"]),
        ("ends\\", ["ends\n"]),
        ("\u2029 /no command\n", ["\u2029 /no command"]),
        ("\udcff\n", ["?"]),
    ],
)
def test_questions_of_several_lines(monkeypatch, text, expected):
    assert [question.rstrip("\n") for question in questions(monkeypatch, text)] == [one.rstrip() for one in expected]


def test_what_is_piped_is_not_remembered(monkeypatch):
    questions(monkeypatch, "one\n")
    assert not state_folder().exists()


@pytest.fixture
def readline(monkeypatch):
    import readline

    readline.clear_history()
    yield readline
    readline.clear_history()
    readline.set_auto_history(True)


def items(readline):
    return [readline.get_history_item(number + 1) for number in range(readline.get_current_history_length())]


def test_inputs_are_remembered_for_their_owner_alone(readline, tmp_path):
    path = tmp_path / "state" / "lumi" / "chat_history"
    history = InputHistory(path)
    history.add("one")
    history.add("two\nlines")
    assert path.read_text() == "one\ntwo lines\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    readline.clear_history()
    InputHistory(path).add("three")
    assert items(readline) == ["one", "two lines", "three"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_does_not_grow_without_end(readline, tmp_path):
    path = tmp_path / "chat_history"
    path.write_text("".join(f"{number}\n" for number in range(2001)) + "\u00e4\n")
    InputHistory(path)
    assert items(readline) == path.read_text().splitlines()
    assert len(items(readline)) == 1000
    assert items(readline)[-2:] == ["2000", "\u00e4"]


def test_a_place_where_nothing_can_be_written(readline, tmp_path):
    (tmp_path / "file").write_text("")
    history = InputHistory(tmp_path / "file" / "lumi" / "chat_history")
    history.add("one")
    assert items(readline) == ["one"]


def test_without_readline_nothing_but_the_file_is_lost(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    InputHistory(tmp_path / "chat_history").add("one")
    assert (tmp_path / "chat_history").read_text() == "one\n"


def test_where_programs_keep_their_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "lumi"
    monkeypatch.setenv("HOME", "/home/someone")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert state_folder() == Path("/home/someone/.local/state/lumi")
