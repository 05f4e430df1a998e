"""Preferences in every form that data sets keep them in."""

import pytest

from lumi.conversation import Message
from lumi.posttraining.preference_shapes import preference_of
from lumi.posttraining.shapes import UnusableRow

ASKED = [{"role": "user", "content": "Where?"}]
HERE, THERE = ({"role": "assistant", "content": text} for text in ("Here.", "There."))
TRANSCRIPT = "\n\nHuman: Where?\n\nAssistant: "


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
        {"question": "Where?", "chosen": "Here.", "rejected": "There."},
        {"instruction": "Where?", "chosen": "Here.", "rejected": "There."},
        {"prompt": ASKED, "chosen": [HERE], "rejected": [THERE]},
        {"prompt": "Where?", "chosen": [*ASKED, HERE], "rejected": [*ASKED, THERE]},
        {"messages": ASKED, "chosen": HERE, "rejected": THERE},
        {"conversations": [{"from": "human", "value": "Where?"}], "chosen": {"from": "gpt", "value": "Here."},
         "rejected": {"from": "gpt", "value": "There."}},
        {"chosen": TRANSCRIPT + "Here.", "rejected": TRANSCRIPT + "There."},
        {"prompt": TRANSCRIPT, "chosen": "Here.", "rejected": "There."},
        {"instruction": "Where?", "completions": [{"response": "Away.", "overall_score": 5},
         {"response": "Here.", "overall_score": 9.5}, {"response": "There.", "overall_score": 1}]},
        {"prompt": "Where?", "responses": ["There.", "Here."], "scores": [-1, 0.5]},
        {"instruction": "Where?", "output_1": "Here.", "output_2": "There.", "preference": 1.0},
        {"instruction": "Where?", "output_1": "There.", "output_2": "Here.", "preference": 2.0},
    ],
    ids=lambda row: "-".join(row),
)  # fmt: skip
def test_shapes(row):
    found = preference_of(row)
    assert found.problem == ""
    assert list(found.prompt) == [Message("user", "Where?")]
    assert (found.chosen, found.rejected) == ("Here.", "There.")


def test_a_transcript_of_several_turns():
    before = "\n\nHuman: Hello\nHuman: is a word\n\nAssistant: Hi.\n\nHuman: Where?\n\nAssistant:"
    found = preference_of({"chosen": f"{before} Here.", "rejected": f"{before} There.\n\nOver there."})
    assert [(message.role, message.content) for message in found.prompt] == [
        ("user", "Hello\nHuman: is a word"), ("assistant", "Hi."), ("user", "Where?"),
    ]  # fmt: skip
    assert (found.chosen, found.rejected) == ("Here.", "There.\n\nOver there.")


def test_a_system_message_stands_first():
    found = preference_of({"system": "Be brief.", "question": "Where?", "chosen": "Here.", "rejected": "There."})
    assert list(found.prompt) == [Message("system", "Be brief."), Message("user", "Where?")]


@pytest.mark.parametrize(
    "row, problem",
    [
        ({"chosen": [*ASKED, HERE], "rejected": [{"role": "user", "content": "When?"}, THERE]}, "prompts_differ"),
        ({"chosen": TRANSCRIPT + "Here.", "rejected": "\n\nHuman: When?\n\nAssistant: There."}, "prompts_differ"),
        ({"chosen": [*ASKED, HERE], "rejected": ASKED}, "no_answer_at_the_end"),
        ({"chosen": [*ASKED, HERE], "rejected": []}, "empty_side"),
        ({"prompt": "Where?", "responses": ["Here."], "scores": [1]}, "fewer_than_two_answers"),
        ({"prompt": "Where?", "responses": ["Here.", "There."], "scores": [1, 1]}, "ratings_are_tied"),
        ({"instruction": "Where?", "output_1": "A.", "output_2": "B.", "preference": 1.5}, "ratings_are_tied"),
    ],
)
def test_what_is_no_preference_is_named(row, problem):
    assert preference_of(row).problem == problem


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"prompt": "Where?", "chosen": "Here."},
        {"prompt": "Where?", "chosen": "Here.", "rejected": 7},
        {"prompt": "Where?", "chosen": "Here.", "rejected": [THERE]},
        {"prompt": 7, "chosen": "Here.", "rejected": "There."},
        {"chosen": [*ASKED, {"role": "oracle", "content": "Here."}], "rejected": [*ASKED, THERE]},
        {"prompt": "Where?", "responses": ["Here.", "There."], "scores": [1]},
        {"prompt": "Where?", "responses": ["Here.", "There."], "scores": [1, "2"]},
        {"prompt": "Where?", "responses": ["Here.", "There."], "scores": [1, float("nan")]},
        {"prompt": "Where?", "completions": ["Here.", "There."]},
        {"prompt": "Where?", "completions": [{"response": "Here."}, {"response": "There."}]},
        {"instruction": "Where?", "output_1": "A.", "output_2": "B.", "preference": None},
    ],
)
def test_what_is_of_another_kind_is_unusable(row):
    with pytest.raises(UnusableRow):
        preference_of(row)
