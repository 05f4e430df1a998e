"""Preferences in the forms that data sets keep them in: a prompt, and an answer that was preferred to another.

    pairs        {"prompt" | "question" | "instruction", "chosen", "rejected"}      texts; also orca_dpo_pairs
    messages     {"chosen": [messages], "rejected": [messages], "prompt"?}          UltraFeedback (binarized), TRL
                 {"conversations" | "messages", "chosen": {...}, "rejected": {...}} LLaMA-Factory
    transcripts  {"chosen": "Human: ... Assistant: ...", "rejected": ...}           hh-rlhf
    rated        {"instruction", "completions": [{"response", "overall_score"}]}    UltraFeedback
                 {"prompt", "responses": [...], "scores": [...]}                    the best and the worst are taken
                 {"instruction", "output_1", "output_2", "preference"}              AlpacaEval; near 1: the first

Which one a row has is seen from its keys and their types.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumi.conversation import Message, Role
from lumi.posttraining.shapes import (
    TEXT_KEYS,
    Row,
    UnusableRow,
    alpaca_prompt,
    known_roles,
    listed_messages,
    required,
    with_system,
)

PREFERENCE_KEYS = TEXT_KEYS | {
    "chosen", "rejected", "completions", "responses", "scores", "output_1", "output_2", "preference",
}  # fmt: skip

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_LISTS = ("messages", "conversations", "conversation")
_RATED = ("response", "text", "output", "completion", "content")
_SCORES = ("overall_score", "score", "rating")
_MIDDLE = 1.5  # of AlpacaEval's preference, from 1 to 2


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and two answers; ``problem`` names what keeps them from being one."""

    prompt: Sequence[Message]
    chosen: str
    rejected: str
    problem: str = ""


def preference_of(row: Row, roles: Mapping[str, Role] | None = None) -> Preference:
    """Return the preference that a row holds.

    Raises:
        UnusableRow: a key is missing, a value is of another type, or a role is unknown.
    """
    known = known_roles(roles)
    if "chosen" in row or "rejected" in row:
        sides = (row.get("chosen"), row.get("rejected"))
        if all(isinstance(side, list) for side in sides):
            return _of_lists(row, known)
        if all(isinstance(side, Mapping) for side in sides):
            chosen, rejected = (listed_messages([side], known)[0].content for side in sides)
            return Preference(_prompt(row, known), chosen, rejected)
        chosen, rejected = required(row, ("chosen",)), required(row, ("rejected",))
        if all(side.lstrip().startswith("Human:") for side in (chosen, rejected)):
            return _of_messages(_transcript(chosen), _transcript(rejected))
        return Preference(_prompt(row, known), chosen, rejected)
    return _rated(row, known)


def _of_lists(row: Row, roles: Mapping[str, Role]) -> Preference:
    sides = [listed_messages(row[side], roles) for side in ("chosen", "rejected")]
    if any(not side for side in sides):
        return Preference((), "", "", "empty_side")
    if all(side[0].role == "assistant" for side in sides):  # the prompt stands beside them
        prompt = _prompt(row, roles)
        sides = [[*prompt, *side] for side in sides]
    return _of_messages(*(with_system(row, side) for side in sides))


def _of_messages(chosen: Sequence[Message], rejected: Sequence[Message]) -> Preference:
    """Take the last answers apart from what stands before them."""
    if not chosen or not rejected or any(side[-1].role != "assistant" for side in (chosen, rejected)):
        return Preference((), "", "", "no_answer_at_the_end")
    same = list(chosen[:-1]) == list(rejected[:-1])
    return Preference(chosen[:-1], chosen[-1].content, rejected[-1].content, "" if same else "prompts_differ")


def _transcript(text: str) -> list[Message]:
    parts = _SPEAKER.split(text.strip())
    roles: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
    return [Message(roles[speaker], said.strip()) for speaker, said in zip(parts[1::2], parts[2::2], strict=True)]


def _prompt(row: Row, roles: Mapping[str, Role]) -> list[Message]:
    for key in (*_LISTS, "prompt"):
        if isinstance(row.get(key), list):
            return with_system(row, listed_messages(row[key], roles))
    if row.get("instruction") is not None:
        return alpaca_prompt(row)
    text = required(row, ("prompt", "question", "query"))
    if text.lstrip().startswith("Human:"):
        messages = _transcript(text)
        return messages[:-1] if messages and messages[-1] == Message("assistant", "") else messages
    return with_system(row, [Message("user", text)])


def _rated(row: Row, roles: Mapping[str, Role]) -> Preference:
    if "output_1" in row:
        first, second = required(row, ("output_1",)), required(row, ("output_2",))
        preference = _number(row.get("preference"), "preference") or _MIDDLE  # 0 is a draw too
        if not 1 <= preference <= 2:
            raise UnusableRow(f"preference is {preference}, not from 1 to 2")
        rated = [(first, _MIDDLE - preference), (second, preference - _MIDDLE)]
    elif isinstance(row.get("completions"), list):
        rated = [_one_rated(number, one) for number, one in enumerate(row["completions"])]
    elif isinstance(row.get("responses"), list) and isinstance(row.get("scores"), list):
        answers, scores = row["responses"], row["scores"]
        if len(answers) != len(scores) or not all(isinstance(answer, str) for answer in answers):
            raise UnusableRow("responses and scores are not texts and as many numbers")
        rated = [(answer, _number(score, "a score")) for answer, score in zip(answers, scores, strict=True)]
    else:
        raise UnusableRow(f"no known shape: its keys are {', '.join(sorted(row)) or 'none'}")
    prompt = _prompt(row, roles)
    if len(rated) < 2:
        return Preference(prompt, "", "", "fewer_than_two_answers")
    best, worst = max(rated, key=lambda one: one[1]), min(rated, key=lambda one: one[1])
    return Preference(prompt, best[0], worst[0], "ratings_are_tied" if best[1] == worst[1] else "")


def _one_rated(number: int, one: Any) -> tuple[str, float]:
    if not isinstance(one, Mapping):
        raise UnusableRow(f"completion {number + 1} is {type(one).__name__}, not an object")
    return required(one, _RATED), _number(next((one[key] for key in _SCORES if key in one), None), "a score")


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UnusableRow(f"{what} is {value!r:.20}, not a number")
    return float(value)
