"""What answers a conversation, and what there is to say about an answer."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lumi.conversation import Message
from lumi.errors import LumiError
from lumi.inference.settings import GenerationConfig

Pieces = Generator[str, None, None]  # of an answer; whoever wants no more closes it


class NoAnswer(LumiError):
    """There is no answer, or no end of one; the conversation is as it was, with what came."""


@dataclass
class Answer:
    """An answer as far as it has come; times are those of `time.perf_counter`.

    Attributes:
        num_prompt_tokens: None while nobody has counted, as the next two.
        num_left_out: exchanges at the beginning of the conversation that did not fit into the context.
    """

    text: str = ""
    finish_reason: str | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_tokens: int | None = None
    num_left_out: int = 0
    asked_at: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    last_at: float = 0.0

    def add(self, text: str) -> None:
        self.text += text
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at

    @property
    def left_out(self) -> str:
        """Say what was left out; empty where nothing was."""
        if self.num_left_out == 1:
            return "the oldest exchange no longer fits and was left out"
        return f"the oldest {self.num_left_out} exchanges no longer fit and were left out" if self.num_left_out else ""

    @property
    def seconds_to_first_token(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.asked_at

    @property
    def writing_seconds(self) -> float:
        """Return the time in which all tokens but the first were written."""
        return 0.0 if self.first_at is None else self.last_at - self.first_at


class Answerer(Protocol):
    """What answers a conversation."""

    name: str
    context: int | None  # tokens of conversation and answer, where that is known

    def answer(self, messages: Sequence[Message], settings: GenerationConfig, answer: Answer) -> Pieces:
        """Yield the answer bit by bit, without white space before it, and fill in the counts of ``answer``.

        Raises:
            DataError: the messages are no conversation, or the last one alone is too long.
            NoAnswer: anything else that kept it from coming, or from its end.
        """
        ...


def without_oldest(messages: Sequence[Message], num_exchanges: int) -> list[Message]:
    """Return a conversation without its first exchanges; a system message stays."""
    num_system = int(messages[0].role == "system")
    return [*messages[:num_system], *messages[num_system + 2 * num_exchanges :]]


def num_exchanges(messages: Sequence[Message]) -> int:
    """Count the exchanges, the one that has begun too."""
    return sum(message.role == "user" for message in messages)
