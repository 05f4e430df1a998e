"""A conversation: what was said, and with what settings the next answer is drawn."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from lumi.artifacts import write_atomically
from lumi.conversation import Message, problem_of
from lumi.errors import DataError
from lumi.inference.chat.answerer import Answer, Answerer, Pieces
from lumi.inference.settings import GenerationConfig

_NOTHING = DataError("nothing was asked yet", "ask something first")


@dataclass
class Chat:
    """A conversation with a model.

    ``turns`` ends with a question where no answer to it came; the next question takes its place.
    """

    answerer: Answerer
    settings: GenerationConfig
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # all that were written, for counts
    files: set[Path] = field(default_factory=set)  # that are this conversation's to overwrite

    @property
    def messages(self) -> list[Message]:
        """The whole, with what the model is told before it."""
        return [Message("system", self.system), *self.turns] if self.system.strip() else self.turns

    def ask(self, question: str) -> Pieces:
        """Yield the answer bit by bit; it is part of the conversation as far as it has come.

        Raises:
            DataError, NoAnswer: as `Answerer`.
        """
        self._drop_unanswered()
        self.turns.append(Message("user", question))
        return self._answer()

    def ask_again(self) -> Pieces:
        """Yield another answer to the last question, which takes the place of the first."""
        self._drop_answer()
        self.settings = self.settings.model_copy(update={"seed": self.settings.seed + 1})
        return self._answer()

    def undo(self) -> Message:
        """Forget the last question and what was answered; return the question."""
        self._drop_answer()
        return self.turns.pop()

    def save(self, path: Path) -> None:
        """Write the conversation: ``.json`` in OpenAI's form, ``.md`` to be read.

        Raises:
            DataError: another kind of file, or one that is there and has nothing to do with this conversation.
        """
        if not self.turns:
            raise _NOTHING
        if path.suffix not in (".json", ".md"):
            raise DataError(f"{path} is neither .json nor .md", "/save talk.json or /save talk.md")
        if path.exists() and path.resolve() not in self.files:
            raise DataError(f"{path} is there already", "give it another name")
        if path.suffix == ".json":
            messages = [message.to_json() for message in self.messages]
            text = json.dumps({"messages": messages}, ensure_ascii=False, indent=1) + "\n"
        else:
            text = "".join(f"**{message.role}**\n\n{message.content}\n\n" for message in self.messages)
        try:
            write_atomically(path, text.encode("utf8", "replace"))
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}", "check the path and its rights") from None
        self.files.add(path.resolve())

    def load(self, path: Path) -> None:
        """Go on with a conversation that was saved as JSON.

        Raises:
            DataError: there is none.
        """
        try:
            data = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", "check the path") from None
        except (ValueError, RecursionError):
            raise DataError(f"{path} is not JSON", "load what /save wrote as .json") from None
        rows = data.get("messages") if isinstance(data, dict) else data
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} has no list of messages", "load what /save wrote as .json")
        messages = [Message.from_json(row) for row in rows]
        if problem := problem_of(messages, asks=bool(messages) and messages[-1].role == "user"):
            raise DataError(f"{path} is no conversation: {problem.replace('_', ' ')}", "load what /save wrote as .json")
        has_system = messages[0].role == "system"
        self.system = messages[0].content if has_system else ""
        self.turns = messages[has_system:]
        self.files.add(path.resolve())

    def _answer(self) -> Pieces:
        self.answers.append(Answer())
        return self._pieces(self.answers[-1])

    def _pieces(self, answer: Answer) -> Pieces:
        try:
            for text in self.answerer.answer(self.messages, self.settings, answer):
                answer.add(text)
                yield text
        finally:
            if answer.text.strip():
                self.turns.append(Message("assistant", answer.text.strip()))

    def _drop_answer(self) -> None:
        """Let the conversation end with its last question."""
        if not self.turns:
            raise _NOTHING
        if self.turns[-1].role == "assistant":
            self.turns.pop()

    def _drop_unanswered(self) -> None:
        if self.turns and self.turns[-1].role == "user":
            self.turns.pop()
