"""A tuned checkpoint, and an answerer that says what a test tells it to."""

import pytest
from tests.servers import write_model

from lumi.errors import DataError
from lumi.inference import GenerationConfig
from lumi.inference.chat.conversation import Chat


class Echo:
    """Answers with the number of messages and the last of them, word by word."""

    name, context = "echo", 100

    def __init__(self):
        self.asked = []
        self.breaks_after = None  # pieces
        self.error = DataError("it broke", "try again")

    def answer(self, messages, settings, answer):
        self.asked.append(([(message.role, message.content) for message in messages], settings))
        answer.num_prompt_tokens = len(messages)
        for number, text in enumerate([f"{len(messages)}", f" {messages[-1].content}", f" s{settings.seed}"]):
            if number == self.breaks_after:
                raise self.error
            answer.num_tokens = number + 1
            yield text
        answer.finish_reason = "stop"


@pytest.fixture
def chat():
    return Chat(Echo(), GenerationConfig(max_new_tokens=50, temperature=0.7))


@pytest.fixture(scope="session")
def tuned(tokenizer, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tuned") / "sft/tiny/final", tokenizer)


@pytest.fixture(scope="session")
def base_model(tokenizer, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "pretrain/tiny/final", tokenizer, template=None)


@pytest.fixture(autouse=True)
def nothing_of_the_person(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LUMI_API_KEY", raising=False)
