"""Messages: what a conversation is made of, whatever file it came from and whatever template it will wear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from lumi.errors import DataError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: str

    def to_json(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a message in OpenAI's form.

        Raises:
            DataError: no role that there is, or no text.
        """
        role, content = data.get("role"), data.get("content")
        if role not in ROLES:
            raise DataError(f"a message has the role {role!r}", f"the roles are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise DataError(f"a message has no text as its content, but {content!r:.60}", "give a string")
        return cls(role, content)


def stripped(content: str) -> str:
    """Return a content as it is written down: SentencePiece's own mark for a space is a space to it."""
    return content.replace("\u2581", " ").strip()


def problem_of(messages: Sequence[Message], *, asks: bool = False) -> str:
    """Say in a word what keeps messages from being a conversation; empty where nothing does.

    A conversation is an optional system message, then user and assistant in turn, the user first. It ends with an
    answer, or, where the model is asked for one (``asks``), with the user.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        return "no_messages"
    if any(not stripped(message.content) for message in messages):
        return "empty_turn"
    if any(message.role == "system" for message in turns):
        return "system_message_inside"
    if turns[0].role != "user":
        return "begins_with_the_assistant"
    if any(message.role != ("user", "assistant")[number % 2] for number, message in enumerate(turns)):
        return "roles_do_not_alternate"
    if asks != (turns[-1].role == "user"):
        return "ends_with_an_answer" if asks else "no_answer_at_the_end"
    return ""
