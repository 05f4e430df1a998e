"""Answers by the engine: it stays, keeps what was said, and is none the worse for an answer that was stopped."""

import os
import signal

import pytest
import torch

from lumi.conversation import Message, find_template, render
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.inference import GenerationConfig, stream
from lumi.inference.chat.answerer import Answer
from lumi.inference.chat.conversation import Chat
from lumi.inference.chat.engine_answerer import EngineAnswerer
from lumi.model import load_model
from lumi.tokenizer import Tokenizer

SETTINGS = GenerationConfig(max_new_tokens=12, seed=3)


@pytest.fixture
def answerer(tuned):
    return EngineAnswerer.load(tuned, device="cpu", dtype="fp32")


def test_an_answer_is_the_one_that_generate_gives(answerer, tuned):
    template, tokenizer = find_template("chatml"), Tokenizer.load(tuned)
    ids = render([Message("user", "water")], template, tokenizer, asks=True).ids.tolist()
    settings = SETTINGS.model_copy(update={"stop_ids": template.stop_ids})
    model = load_model(tuned, device=answerer._engine.device, dtype=torch.float32)
    expected = "".join(delta.text for delta in stream(model, tokenizer, [ids], settings)).lstrip()
    answer = Answer()
    pieces = list(answerer.answer([Message("user", "water")], SETTINGS, answer))
    assert expected
    assert "".join(pieces) == expected
    assert len(pieces) > 1
    assert answerer.name == "sft/tiny"
    assert (answer.num_prompt_tokens, answer.finish_reason) == (len(ids), "length")
    assert answer.num_tokens == 12


def test_the_next_turn_takes_over_what_was_said(answerer):
    chat = Chat(answerer, SETTINGS)
    for question in ("the history of a small old town", "and its water mill"):
        assert "".join(chat.ask(question))
    first, second = chat.answers
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens >= first.num_prompt_tokens - 1
    assert "".join(chat.ask_again())
    assert chat.answers[-1].num_cached_tokens == second.num_prompt_tokens - 1


def test_an_answer_that_is_stopped_leaves_the_engine_as_it_was(answerer):
    chat = Chat(answerer, SETTINGS)
    whole = "".join(chat.ask("water"))
    chat.undo()
    pieces = chat.ask("water")
    next(pieces)
    pieces.close()
    assert answerer._engine.is_idle
    chat.undo()
    assert "".join(chat.ask("water")) == whole


def test_ctrl_c_comes_between_two_steps(answerer, monkeypatch):
    step, ended = answerer._engine.step, []

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        step()
        ended.append(True)

    monkeypatch.setattr(answerer._engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(Chat(answerer, SETTINGS).ask("water"))
    assert ended
    assert answerer._engine.is_idle
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_old_exchanges_are_left_out_where_they_no_longer_fit(answerer):
    chat = Chat(answerer, SETTINGS, system="old town")
    left_out = []
    for number in range(8):
        list(chat.ask(f"where many people lived {number}"))
        left_out.append(chat.answers[-1].num_left_out)
        assert chat.answers[-1].num_prompt_tokens <= 96
    assert left_out[0] == 0
    assert left_out[-1] > 1
    assert "exchanges no longer fit" in chat.answers[-1].left_out
    assert len(chat.turns) == 16


def test_a_question_that_is_too_long_is_refused(answerer):
    chat = Chat(answerer, SETTINGS)
    list(chat.ask("water"))
    template, tokenizer = find_template("chatml"), answerer._engine.tokenizer
    question = "water"
    while len(render([Message("user", question)], template, tokenizer, asks=True).ids) <= 96:
        longest, question = question, f"{question} a"
    for too_long in (question, "water mill " * 100):  # the first would fit, without room for an answer
        with pytest.raises(DataError, match="there is room for 96"):
            list(chat.ask(too_long))
    assert "".join(chat.ask(longest))
    assert "".join(chat.ask("water"))


def test_a_base_model_and_a_missing_one_are_refused(base_model, tmp_path):
    with pytest.raises(ConfigError, match="never taught to answer"):
        EngineAnswerer.load(base_model, device="cpu", dtype="fp32")
    with pytest.raises((DataError, IntegrityError, ConfigError)):
        EngineAnswerer.load(tmp_path / "nowhere", device="cpu", dtype="fp32")
