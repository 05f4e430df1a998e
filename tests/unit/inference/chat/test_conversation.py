"""The commands, each on a conversation with an answerer that echoes."""

import json
import os

import pytest

from lumi.conversation import Message
from lumi.errors import ConfigError, DataError, LumiError
from lumi.inference.chat.commands import COMMANDS, EndOfChat, run_command


def ask(chat, question):
    return "".join(chat.ask(question))


def contents(chat):
    return [message.content for message in chat.turns]


def test_an_answer_joins_the_conversation(chat):
    assert ask(chat, "one") == "1 one s0"
    assert ask(chat, "two") == "3 two s0"
    assert contents(chat) == ["one", "1 one s0", "two", "3 two s0"]


def test_system_is_shown_set_and_taken_away(chat):
    assert run_command(chat, "/system") == "no system message"
    assert run_command(chat, "/system Be brief.") == "system: Be brief."
    ask(chat, "one")
    assert chat.answerer.asked[-1][0] == [("system", "Be brief."), ("user", "one")]
    assert run_command(chat, "/system") == "system: Be brief."
    run_command(chat, "/system -")
    ask(chat, "two")
    assert chat.answerer.asked[-1][0][0] == ("user", "one")


@pytest.mark.parametrize(
    "command, name, value",
    [("temp 0", "temperature", 0), ("temp 1.5", "temperature", 1.5), ("top_p 0.5", "top_p", 0.5),
     ("max 7", "max_new_tokens", 7), ("seed 42", "seed", 42)],
)  # fmt: skip
def test_a_setting_is_changed_for_the_answers_to_come(chat, command, name, value):
    assert run_command(chat, f"/{command}").startswith(f"{name}: ")
    ask(chat, "one")
    settings = chat.answerer.asked[-1][1]
    assert getattr(settings, name) == value
    before = chat.settings
    assert run_command(chat, f"/{command.split()[0]}") == f"{name}: {getattr(settings, name)}"
    assert chat.settings == before


@pytest.mark.parametrize(
    "line, says",
    [("/temp warm", "'warm'"), ("/temp -1", "greater than or equal to 0"), ("/temp nan", "finite"),
     ("/temp inf", "finite"), ("/top_p 0", "greater than"), ("/top_p 2", "less than or equal to 1"),
     ("/max 0", "greater than 0"), ("/max 1.5", "'1.5'"), ("/seed x", "'x'"), ("/clear all", "stands alone"),
     ("/quit now", "stands alone"), ("/save", "needs a FILE"), ("/load", "needs a FILE"),
     ("/sistem x", "there is no /sistem"), ("/", "there is no /"), ("/save talk.txt", "neither .json nor .md"),
     ("/load nowhere.json", "cannot be read"),
     ("/load ~nobody-of-this-name/a.json", "not the name of a file"), ("/save a\0.json", "not the name of a file")],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_line_and_changes_nothing(chat, line, says):
    ask(chat, "one")
    before = (chat.settings, chat.system, list(chat.turns))
    with pytest.raises(LumiError) as caught:
        run_command(chat, line)
    assert says in caught.value.fact
    assert "\n" not in caught.value.fact
    assert (chat.settings, chat.system, chat.turns) == before


def test_an_unknown_command_names_the_nearest(chat):
    with pytest.raises(ConfigError, match=r"did you mean /system\?"):
        run_command(chat, "/sistem x")
    with pytest.raises(ConfigError, match=r"did you mean /regen\?"):
        run_command(chat, "/regenerate")


@pytest.mark.parametrize("name", ["regen", "again"])
def test_regen_answers_the_last_question_otherwise(chat, name):
    ask(chat, "one")
    ask(chat, "two")
    assert "".join(run_command(chat, f"/{name}")) == "3 two s1"
    assert contents(chat) == ["one", "1 one s0", "two", "3 two s1"]


def test_undo_forgets_an_exchange(chat):
    ask(chat, "one")
    ask(chat, "two\nmore")
    assert run_command(chat, "/undo") == "forgotten: two"
    assert contents(chat) == ["one", "1 one s0"]
    run_command(chat, "/undo")
    for command in ("/undo", "/regen", "/save x.json"):
        with pytest.raises(DataError, match="nothing was asked"):
            run_command(chat, command)


def test_clear_keeps_the_system_message(chat):
    run_command(chat, "/system Be brief.")
    ask(chat, "one")
    assert "same system message" in run_command(chat, "/clear")
    ask(chat, "two")
    assert chat.answerer.asked[-1][0] == [("system", "Be brief."), ("user", "two")]


def test_what_was_saved_is_loaded(chat, tmp_path):
    file = tmp_path / "talk.json"
    run_command(chat, "/system Be brief.")
    ask(chat, "na\u00efve")
    assert run_command(chat, f"/save {file}") == f"saved: {file}"
    saved = json.loads(file.read_text(encoding="utf8"))["messages"]
    assert [row["role"] for row in saved] == ["system", "user", "assistant"]
    assert saved[1] == {"role": "user", "content": "na\u00efve"}
    turns = list(chat.turns)
    run_command(chat, "/clear")
    run_command(chat, "/system -")
    assert run_command(chat, f"/load {file}") == f"loaded: {file}, exchanges: 1"
    assert (chat.system, chat.turns) == ("Be brief.", turns)
    file.write_text(json.dumps([{"role": "user", "content": "unanswered"}]))
    assert "/regen asks it" in run_command(chat, f"/load {file}")
    assert "".join(run_command(chat, "/regen")) == "1 unanswered s1"


def test_markdown_is_for_reading(chat, tmp_path):
    ask(chat, "one")
    run_command(chat, f"/save {tmp_path / 'talk.md'}")
    assert (tmp_path / "talk.md").read_text() == "**user**\n\none\n\n**assistant**\n\n1 one s0\n\n"


def test_a_file_of_others_is_not_overwritten(chat, tmp_path):
    theirs, ours = tmp_path / "theirs.json", tmp_path / "ours.json"
    theirs.write_text("{}")
    ask(chat, "one")
    with pytest.raises(DataError, match="is there already"):
        run_command(chat, f"/save {theirs}")
    assert theirs.read_text() == "{}"
    run_command(chat, f"/save {ours}")
    ask(chat, "two")
    run_command(chat, f"/save {ours}")
    assert len(json.loads(ours.read_text())["messages"]) == 4
    with pytest.raises(DataError, match="cannot be written"):
        run_command(chat, f"/save {tmp_path / 'no' / 'folder.json'}")


@pytest.mark.parametrize(
    "text, says",
    [("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("{}", "no list of messages"), ("[1]", "no list"),
     ("[]", "no messages"), ('[{"role": "assistant", "content": "a"}]', "begins with the assistant"),
     ('[{"role": "tool", "content": "a"}]', "role 'tool'"), ('[{"role": "user", "content": [1]}]', "no text")],
)  # fmt: skip
def test_what_is_no_conversation_is_not_loaded(chat, tmp_path, text, says):
    ask(chat, "one")
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError) as caught:
        run_command(chat, f"/load {tmp_path / 'bad.json'}")
    assert says in caught.value.fact
    assert len(chat.turns) == 2


def test_a_home_folder_may_be_meant(chat, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    ask(chat, "one")
    run_command(chat, "/save ~/a name.json")
    assert (tmp_path / "a name.json").is_file()


def test_stats_count_what_was_written(chat):
    assert run_command(chat, "/stats") == "nothing was answered yet"
    ask(chat, "one")
    ask(chat, "two")
    said = run_command(chat, "/stats")
    assert "written: 6 tokens" in said
    assert "context at the last answer: 6 of 100 tokens (6%)" in said


def test_help_names_every_command_and_quit_ends(chat):
    said = run_command(chat, "/help")
    assert all(f"/{name}" in said for name in COMMANDS)
    assert max(map(len, said.splitlines())) <= 80
    for name in ("quit", "exit"):
        with pytest.raises(EndOfChat):
            run_command(chat, f"/{name}")


def test_what_came_before_an_error_is_kept(chat):
    chat.answerer.breaks_after = 2
    with pytest.raises(DataError, match="it broke"):
        ask(chat, "one")
    assert contents(chat) == ["one", "1 one"]


def test_a_question_without_an_answer_waits_for_regen_or_gives_way(chat):
    ask(chat, "one")
    chat.answerer.breaks_after = 0
    with pytest.raises(DataError):
        ask(chat, "two")
    assert chat.turns[-1] == Message("user", "two")
    chat.answerer.breaks_after = None
    assert "".join(run_command(chat, "/regen")) == "3 two s1"
    chat.answerer.breaks_after = 0
    with pytest.raises(DataError):
        ask(chat, "three")
    chat.answerer.breaks_after = None
    assert ask(chat, "four") == "5 four s1"


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(chat):
    pieces = chat.ask("one")
    next(pieces)
    next(pieces)
    pieces.close()
    assert contents(chat) == ["one", "1 one"]
