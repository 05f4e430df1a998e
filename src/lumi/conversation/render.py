"""One function from messages to token ids and the mask of what bears loss; training, chat and serving all use it.

    messages + template --> control symbols, and stretches of text between them --> ids, loss mask

A stretch is encoded whole, so that transformers, given the text of our chat template, finds the same ids; which
tokens belong to an answer is then read from the bytes that each stands for. Contents are stripped of white space at
both ends, as the chat template does too: behind a newline (or before a space) no piece crosses, so that a prompt's
ids are the beginning of the whole conversation's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumi.conversation.messages import Message, problem_of, stripped
from lumi.conversation.template import Parts, Template, symbol_id
from lumi.errors import DataError
from lumi.tokenizer.ids import CONTROL_SYMBOLS


class Encoder(Protocol):
    """What rendering needs of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, nothing added."""
        ...

    def piece_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that an id stands for."""
        ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model reads it."""

    ids: NDArray[np.uint16]
    loss: NDArray[np.bool_]  # of the same length: the tokens that the model itself would write
    ends: tuple[int, ...]  # tokens up to and with each answer; up to there it is a conversation of its own

    def shortened(self, max_tokens: int) -> "Rendered":
        """Return as many whole exchanges as fit; none of them: nothing is left."""
        if len(self.ids) <= max_tokens:
            return self
        fitting = [end for end in self.ends if end <= max_tokens]
        end = fitting[-1] if fitting else 0
        return Rendered(self.ids[:end], self.loss[:end], tuple(fitting))


def render(messages: Sequence[Message], template: Template, encoder: Encoder, *, asks: bool = False) -> Rendered:
    """Write a conversation down.

    Args:
        messages: an optional system message, then user and assistant in turn.
        template: how.
        encoder: the tokenizer.
        asks: the messages end with the user, and the model is prompted for its answer.

    Raises:
        DataError: the messages are no conversation, or not text.
    """
    if problem := problem_of(messages, asks=asks):
        roles = ", ".join(message.role for message in messages)
        raise DataError(
            f"the messages cannot be written down: {problem.replace('_', ' ')} ({roles or 'none'})",
            "give an optional system message, then user and assistant in turn, none of them empty",
        )
    for message in messages:
        try:
            message.content.encode()
        except UnicodeError as error:
            raise DataError(f"a message is not text: {error}", "send UTF-8") from None
    writer = _Writer(encoder)
    writer.put(template.begin)
    if template.default_system and messages[0].role != "system":
        messages = [Message("system", template.default_system), *messages]
    ends = []
    for message in messages:
        frame, answers = template.frame(message.role), message.role == "assistant"
        writer.put(frame.before)
        if answers:
            writer.put_text(template.answer_lead, loss=True)
        writer.put_text(stripped(message.content), loss=answers)
        if answers:
            writer.put(frame.after[:1], loss=True)
            writer.put(frame.after[1:])
            ends.append(writer.length())
        else:
            writer.put(frame.after)
    if asks:
        writer.put(template.assistant.before)
    writer.length()
    return Rendered(np.array(writer.ids, dtype=np.uint16), np.array(writer.loss, dtype=np.bool_), tuple(ends))


class _Writer:
    """Collects ids; text is held back until its stretch is whole."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.ids: list[int] = []
        self.loss: list[bool] = []
        self._stretch: list[tuple[str, bool]] = []

    def put(self, parts: Parts, *, loss: bool = False) -> None:
        for part in parts:
            if part in CONTROL_SYMBOLS:
                self.length()
                self.ids.append(symbol_id(part))
                self.loss.append(loss)
            else:
                self.put_text(part, loss=loss)

    def put_text(self, text: str, *, loss: bool = False) -> None:
        if text:
            self._stretch.append((text, loss))

    def length(self) -> int:
        """Encode what was held back; return how many tokens there are."""
        if self._stretch:
            tokens = self.encoder.encode("".join(text for text, _ in self._stretch))
            self.ids += tokens
            self.loss += self._in_loss(tokens)
            self._stretch = []
        return len(self.ids)

    def _in_loss(self, tokens: Sequence[int]) -> list[bool]:
        """Say of each token of the stretch whether it has a byte of an answer in it."""
        if not any(loss for _, loss in self._stretch):
            return [False] * len(tokens)
        of_answer = np.concatenate([np.full(len(text.encode()), loss) for text, loss in self._stretch])
        ends = np.cumsum([len(self.encoder.piece_bytes(token)) for token in tokens])
        before = np.concatenate([[0], np.cumsum(of_answer)])
        starts = np.concatenate([[0], ends[:-1]])
        scored: list[bool] = (before[ends] > before[starts]).tolist()
        return scored
