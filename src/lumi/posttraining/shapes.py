"""Shapes: in what forms data sets keep conversations, and how each becomes messages.

    messages            {"messages": [{"role": ..., "content": ...}]}                  OpenAI, SmolTalk, UltraChat
    sharegpt            {"conversations": [{"from": "human", "value": ...}], "system"?}  ShareGPT, OpenHermes
    turns               {"turns": ["...", "..."]} or objects: a speaker and a text, in turn
    alpaca              {"instruction", "input"?, "output", "system"?, "history"?}     Alpaca, GPTeacher, Dolly
    prompt_completion   {"prompt", "completion"}                                       also OpenOrca
    tree                rows {"message_id", "parent_id", "role", "text", "rank"?}       OASST1: the best-ranked path

Which one a row has is seen from its keys. Reading checks types; whether the messages are a conversation is judged
afterwards (`problem_of`), so that each kind of fault is counted by its name.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from lumi.conversation import Message, Role

ShapeName = Literal["auto", "messages", "sharegpt", "turns", "alpaca", "prompt_completion", "tree"]
SHAPES = get_args(ShapeName)[1:]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user", "human": "user", "prompter": "user", "instruction": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "answer": "assistant",
}  # fmt: skip
_LISTS = {"messages": "messages", "conversations": "sharegpt", "conversation": "sharegpt", "turns": "turns"}
_SPEAKER = ("role", "from", "speaker", "agent")
_TEXT = ("content", "value", "utterance", "message", "text")
_ASKED = ("prompt", "question", "query")
_ANSWERED = ("completion", "response", "answer", "output", "chosen")
TEXT_KEYS = frozenset({*_LISTS, *_ASKED, *_ANSWERED, "tree", "instruction", "input", "context", "output", "history"})
_NOTHING = {"", "<noinput>", "noinput", "n/a", "none"}  # what stands for no input in Alpaca and its heirs

Row = Mapping[str, Any]


class UnusableRow(Exception):
    """A row that holds no messages; says why."""


def shape_of(row: Row) -> str:
    """Return the shape that a row has by its keys.

    Raises:
        UnusableRow: none that is known.
    """
    if "tree" in row:
        return "tree"
    for key, shape in _LISTS.items():
        if isinstance(row.get(key), list):
            return shape
    if "instruction" in row:
        return "alpaca"
    if _first(row, _ASKED) and _first(row, _ANSWERED):
        return "prompt_completion"
    raise UnusableRow(f"no known shape: its keys are {', '.join(sorted(row)) or 'none'}")


def messages_of(row: Row, shape: ShapeName = "auto", roles: Mapping[str, Role] | None = None) -> list[Message]:
    """Return the messages of a row.

    Args:
        row: as it was read.
        shape: ``auto`` looks at its keys.
        roles: more names of roles, as this data set has them.

    Raises:
        UnusableRow: a key is missing, a value is of another type, or a role is unknown.
    """
    known = known_roles(roles)
    found = shape_of(row) if shape == "auto" else shape
    if found == "alpaca":
        return [*alpaca_prompt(row), Message("assistant", required(row, ("output", *_ANSWERED)))]
    if found == "prompt_completion":
        return [*_system(row), Message("user", required(row, _ASKED)), Message("assistant", required(row, _ANSWERED))]
    if found == "tree":
        return _best_path(row, known)
    keys = [key for key, listed in _LISTS.items() if listed == found and isinstance(row.get(key), list)]
    if not keys:
        raise UnusableRow(f"no list of messages, as shape {found} has it")
    return with_system(row, listed_messages(row[keys[0]], known))


def known_roles(more: Mapping[str, Role] | None) -> dict[str, Role]:
    """Return what speakers are called, in lower case."""
    return {**_ROLES, **{name.lower(): role for name, role in (more or {}).items()}}


def with_system(row: Row, messages: list[Message]) -> list[Message]:
    """Put the row's own system message first, where the messages do not begin with one."""
    if messages and messages[0].role == "system":
        return messages if messages[0].content.strip() else [*_system(row), *messages[1:]]
    return [*_system(row), *messages]


def listed_messages(turns: Sequence[Any], roles: Mapping[str, Role]) -> list[Message]:
    """Return the messages of a list: texts in turn, or objects with a speaker and a text.

    Raises:
        UnusableRow: one is neither, or its role is unknown.
    """
    messages: list[Message] = []
    speakers: dict[str, Role] = {}
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            messages.append(Message("assistant" if number % 2 else "user", turn))
            continue
        if not isinstance(turn, Mapping):
            raise UnusableRow(f"turn {number + 1} is {type(turn).__name__}, not text or an object")
        speaker = required(turn, _SPEAKER)
        role = roles.get(speaker.lower()) or speakers.get(speaker)
        if role is None:
            if not speaker.lower().startswith("agent_"):  # two people: the one who begins asks
                raise UnusableRow(f"unknown role {speaker!r:.40}")
            role = speakers[speaker] = "assistant" if speakers else "user"
        messages.append(Message(role, required(turn, _TEXT)))
    return messages


def alpaca_prompt(row: Row) -> list[Message]:
    """Return what an Alpaca row asks.

    Raises:
        UnusableRow: a value is of another type than the shape has.
    """
    messages = _system(row)
    history = row.get("history") or []
    if not isinstance(history, list):
        raise UnusableRow(f"history is {type(history).__name__}, not a list")
    for pair in history:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise UnusableRow("history is not a list of question and answer")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    asked = required(row, ("instruction",))
    given = [text for text in (_text(row, "input"), _text(row, "context")) if text.strip().lower() not in _NOTHING]
    if given:
        asked = f"{asked.rstrip()}\n\n{given[0]}"
    return [*messages, Message("user", asked)]


def _best_path(row: Row, roles: Mapping[str, Role]) -> list[Message]:
    """Follow the best-ranked answer, and then the best-ranked reply to it, from the root on."""
    nodes = row.get("tree")
    if not isinstance(nodes, list):
        raise UnusableRow(f"tree is {type(nodes).__name__}, not a list of messages")
    replies: dict[Any, list[Row]] = {}
    for number, node in enumerate(nodes):
        _require_node(node, number)
        if not node.get("deleted"):
            replies.setdefault(node.get("parent_id"), []).append(node)
    path: list[Message] = []
    parent = None
    while following := replies.pop(parent, None):  # each node once, also where the parents go in a circle
        best = min(following, key=_rank)
        speaker = required(best, _SPEAKER)
        role = roles.get(speaker.lower())
        if role is None:
            raise UnusableRow(f"unknown role {speaker!r:.40}")
        path.append(Message(role, required(best, _TEXT)))
        parent = best.get("message_id")
    return path


def _rank(node: Row) -> tuple[bool, float]:
    rank = node.get("rank")
    return (True, 0.0) if rank is None or math.isnan(rank) else (False, float(rank))


def _require_node(node: Any, number: int) -> None:
    if not isinstance(node, Mapping):
        raise UnusableRow(f"message {number + 1} of the tree is {type(node).__name__}, not an object")
    for key, kinds in (("message_id", str | int), ("parent_id", str | int), ("rank", int | float)):
        if node.get(key) is not None and not isinstance(node[key], kinds):
            raise UnusableRow(f"{key} of message {number + 1} of the tree is {type(node[key]).__name__}")


def _system(row: Row) -> list[Message]:
    found = next((text for text in (_text(row, "system"), _text(row, "system_prompt")) if text.strip()), "")
    return [Message("system", found)] if found else []


def _text(row: Row, key: str) -> str:
    """Return a text that need not be there."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UnusableRow(f"{key} is {type(value).__name__}, not text")
    return value or ""


def _first(row: Row, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if row.get(key) is not None), None)


def required(row: Row, keys: Sequence[str]) -> str:
    """Return the text of the first of some keys that is there.

    Raises:
        UnusableRow: none is, or it is no text.
    """
    key = _first(row, keys)
    if key is None:
        raise UnusableRow(f"no {' or '.join(keys)}")
    value = row[key]
    if not isinstance(value, str):
        raise UnusableRow(f"{key} is {type(value).__name__}, not text")
    return value
