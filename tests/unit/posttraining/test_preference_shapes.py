"""Every shape in which data sets keep preferences, and every row that has none."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lumi.conversation import Message, problem_of
from lumi.conversation.messages import ROLES
from lumi.posttraining.preference_shapes import Preference, preference_of
from lumi.posttraining.shapes import UnusableRow

DATA = Path(__file__).parents[4] / "shared" / "data" / "preferences"


def said(*contents, system=None):
    """Messages of user and assistant in turn, behind a system message where there is one."""
    turns = [Message("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return [*([Message("system", system)] if system else []), *turns]


def listed(*contents, system=None):
    return [message.to_json() for message in said(*contents, system=system)]


def answer(content):
    return {"role": "assistant", "content": content}


def transcript(*contents):
    return "".join(f"\n\n{('Human', 'Assistant')[n % 2]}: {content}" for n, content in enumerate(contents))


@pytest.mark.parametrize(
    "row, prompt",
    [
        # pairs
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, said("q")),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, said("q", system="s")),
        ({"system": "", "question": "q", "chosen": "a", "rejected": "b"}, said("q")),
        ({"query": "q", "chosen": "a", "rejected": "b"}, said("q")),
        ({"instruction": "do", "input": "this", "output": "a", "chosen": "a", "rejected": "b"}, said("do\n\nthis")),
        ({"instruction": "do", "input": "", "chosen": "a", "rejected": "b", "history": [["x", "y"]], "system": "s"},
         said("x", "y", "do", system="s")),
        # messages: prompt and answer on both sides, as UltraFeedback (binarized) and TRL have them
        ({"chosen": listed("q", "a"), "rejected": listed("q", "b")}, said("q")),
        ({"prompt": "q", "prompt_id": "7", "chosen": listed("q", "a"), "rejected": listed("q", "b"),
          "messages": listed("q", "a"), "score_chosen": 8.0, "score_rejected": 6.5}, said("q")),
        ({"chosen": listed("q", "x", "r", "a"), "rejected": listed("q", "x", "r", "b")}, said("q", "x", "r")),
        ({"chosen": listed("q", "a", system="s"), "rejected": listed("q", "b", system="s")}, said("q", system="s")),
        ({"chosen": listed("q", "a"), "rejected": listed("q", "b"), "system": "s"}, said("q", system="s")),
        # the prompt beside them
        ({"prompt": listed("q"), "chosen": [answer("a")], "rejected": [answer("b")]}, said("q")),
        ({"prompt": listed("q", "x", "r", system="s"), "chosen": [answer("a")], "rejected": [answer("b")]},
         said("q", "x", "r", system="s")),
        ({"prompt": "q", "chosen": [answer("a")], "rejected": [answer("b")]}, said("q")),
        ({"prompt": "q", "system": "s", "chosen": [answer("a")], "rejected": [answer("b")]}, said("q", system="s")),
        # LLaMA-Factory
        ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
          "rejected": {"from": "gpt", "value": "b"}}, said("q")),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "x"},
                            {"from": "human", "value": "r"}], "system": "s",
          "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}},
         said("q", "x", "r", system="s")),
        ({"messages": listed("q"), "chosen": answer("a"), "rejected": answer("b")}, said("q")),
        # transcripts
        ({"chosen": transcript("q", "a"), "rejected": transcript("q", "b")}, said("q")),
        ({"chosen": "Human: q\n\nAssistant: a", "rejected": "Human: q\n\nAssistant: b"}, said("q")),
        ({"chosen": transcript("q", "x", "r", "a"), "rejected": transcript("q", "x", "r", "b")}, said("q", "x", "r")),
        ({"prompt": transcript("q", ""), "chosen": " a".strip(), "rejected": "b"}, said("q")),
        ({"prompt": transcript("q", "x", "r"), "chosen": "a", "rejected": "b"}, said("q", "x", "r")),
        ({"prompt": transcript("q", "x", "r", ""), "chosen": [answer("a")], "rejected": [answer("b")]},
         said("q", "x", "r")),
        # rated
        ({"instruction": "q", "completions": [{"response": "c", "overall_score": 5}, {"response": "a", "overall_score":
          8.5}, {"response": "b", "overall_score": -1.0}], "models": ["x", "y", "z"]}, said("q")),
        ({"prompt": "q", "completions": [{"text": "b", "score": 1}, {"text": "a", "score": 2}]}, said("q")),
        ({"prompt": "q", "completions": [{"content": "a", "rating": 1}, {"output": "b", "rating": 0}]}, said("q")),
        ({"prompt": "q", "responses": ["c", "b", "a"], "scores": [2, 1, 3]}, said("q")),
        ({"system": "s", "prompt": "q", "responses": ["a", "b"], "scores": [0.2, 0.1]}, said("q", system="s")),
        ({"messages": listed("q", "x", "r"), "responses": ["a", "b"], "scores": [1, -1]}, said("q", "x", "r")),
        ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1}, said("q")),
        ({"instruction": "q", "output_1": "b", "output_2": "a", "preference": 2.0}, said("q")),
        ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.4999}, said("q")),
        ({"instruction": "q", "output_1": "b", "output_2": "a", "preference": 1.5001}, said("q")),
        # tables whose rows come from several sets have all keys in all rows
        ({"instruction": None, "prompt": "q", "chosen": "a", "rejected": "b"}, said("q")),
        ({"chosen": " Human: q\n\nAssistant: a\n", "rejected": "\nHuman: q\n\nAssistant: b"}, said("q")),
    ],
)  # fmt: skip
def test_every_shape_is_seen_and_read(row, prompt):
    found = preference_of(row)
    assert (list(found.prompt), found.chosen, found.rejected, found.problem) == (prompt, "a", "b", "")


def test_more_names_of_roles():
    row = {"chosen": [{"from": "Kunde", "value": "q"}, {"from": "KI", "value": "a"}],
           "rejected": [{"from": "Kunde", "value": "q"}, {"from": "KI", "value": "b"}]}  # fmt: skip
    assert preference_of(row, {"kunde": "user", "ki": "assistant"}) == Preference(said("q"), "a", "b")
    beside = {"conversations": row["chosen"][:1], "chosen": row["chosen"][1], "rejected": row["rejected"][1]}
    assert preference_of(beside, {"Kunde": "user", "KI": "assistant"}) == Preference(said("q"), "a", "b")
    with pytest.raises(UnusableRow, match="unknown role 'Kunde'"):
        preference_of(row)


class TestTranscripts:
    def test_the_names_of_the_speakers_inside_a_text_are_text(self):
        typed = "Write 'Human: hi' and Assistant: too.\nHuman: on a line of its own\nAssistant: as well"
        found = preference_of({"chosen": transcript(typed, f"So: {typed}"), "rejected": transcript(typed, typed)})
        assert found == Preference(said(typed), f"So: {typed}", typed)

    def test_paragraphs_of_an_answer_stay_together(self):
        long = "One.\n\nTwo.\n\nHumans: three."
        found = preference_of({"chosen": transcript("q\n\nr", long), "rejected": transcript("q\n\nr", "b")})
        assert found == Preference(said("q\n\nr"), long, "b")

    def test_both_sides_must_be_one(self):
        """A question may begin with the name of a speaker, an answer too."""
        found = preference_of({"prompt": "q", "chosen": "Human: is a word", "rejected": "b"})
        assert found == Preference(said("q"), "Human: is a word", "b")

    @pytest.mark.parametrize(
        "chosen, rejected, problem",
        [
            (("q", "a"), ("r", "b"), "prompts_differ"),
            (("q", "x", "r", "a"), ("q", "y", "r", "b"), "prompts_differ"),
            (("q", "x", "r", "a"), ("q", "b"), "prompts_differ"),
            (("q",), ("q", "b"), "no_answer_at_the_end"),
            (("q", "a", "r"), ("q", "b", "r"), "no_answer_at_the_end"),
            (("q", "a"), ("q", "a"), ""),  # judged later, when both are clean
            (("q", ""), ("q", "b"), ""),
        ],
    )
    def test_what_keeps_them_from_being_a_preference(self, chosen, rejected, problem):
        found = preference_of({"chosen": transcript(*chosen), "rejected": transcript(*rejected)})
        assert found.problem == problem

    @given(st.lists(st.from_regex(r"[a-z:.,]( |\n|[a-z:.,]){0,20}[a-z:.]", fullmatch=True), min_size=3, max_size=9))
    def test_any_dialogue_comes_back(self, contents):
        *before, chosen, rejected = contents
        prompt = before if len(before) % 2 else before[1:] or ["q"]
        row = {"chosen": transcript(*prompt, chosen), "rejected": transcript(*prompt, rejected)}
        assert preference_of(row) == Preference(said(*prompt), chosen, rejected)


class TestLists:
    @pytest.mark.parametrize(
        "chosen, rejected, problem",
        [
            ([], listed("q", "b"), "empty_side"),
            (listed("q", "a"), [], "empty_side"),
            ([], [], "empty_side"),
            (listed("q"), listed("q", "b"), "no_answer_at_the_end"),
            (listed("q", "a"), listed("q", "b", "r"), "no_answer_at_the_end"),
            (listed("q", "a"), listed("Q", "b"), "prompts_differ"),
            (listed("q", "a", system="s"), listed("q", "b"), "prompts_differ"),
            (listed("q", "x", "r", "a"), listed("q", "b"), "prompts_differ"),
            ([answer("a")], listed("q", "b"), "prompts_differ"),
        ],
    )
    def test_what_keeps_them_from_being_a_preference(self, chosen, rejected, problem):
        assert preference_of({"prompt": "q", "chosen": chosen, "rejected": rejected}).problem == problem


class TestRatings:
    @pytest.mark.parametrize(
        "row",
        [
            {"completions": [{"response": "a", "score": 3}, {"response": "b", "score": 3}]},
            {"responses": ["a", "b", "c"], "scores": [1.5, 1.5, 1.5]},
            {"output_1": "a", "output_2": "b", "preference": 1.5},
            {"output_1": "a", "output_2": "b", "preference": 0},  # AlpacaEval's other draw
            {"responses": ["a", "b"], "scores": [1, 1.0]},
        ],
    )
    def test_tied(self, row):
        assert preference_of({"prompt": "q", **row}).problem == "ratings_are_tied"

    @pytest.mark.parametrize(
        "row",
        [
            {"completions": []},
            {"completions": [{"response": "a", "score": 3}]},
            {"responses": [], "scores": []},
            {"responses": ["a"], "scores": [1]},
        ],
    )
    def test_fewer_than_two(self, row):
        found = preference_of({"prompt": "q", **row})
        assert (found.prompt, found.problem) == (said("q"), "fewer_than_two_answers")

    @given(st.lists(st.integers(-100, 100) | st.floats(-1e6, 1e6), min_size=2, max_size=9))
    def test_the_best_and_the_worst_are_taken(self, scores):
        answers = [str(number) for number in range(len(scores))]
        found = preference_of({"prompt": "q", "responses": answers, "scores": scores})
        best, worst = scores[int(found.chosen)], scores[int(found.rejected)]
        assert (best, worst) == (max(scores), min(scores))
        assert found.problem == ("ratings_are_tied" if best == worst else "")
        rated = [{"response": text, "overall_score": score} for text, score in zip(answers, scores, strict=True)]
        assert preference_of({"instruction": "q", "completions": rated}) == found

    @given(st.floats(1, 2))
    def test_a_preference_of_two(self, preference):
        found = preference_of({"instruction": "q", "output_1": "1", "output_2": "2", "preference": preference})
        if preference == 1.5:
            assert found.problem == "ratings_are_tied"
        else:
            assert (found.chosen, found.problem) == ("1" if preference < 1.5 else "2", "")


PAIR = {"chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    "row, named",
    [
        ({}, "its keys are none"),
        ({"b": 1, "a": 2}, "its keys are a, b"),
        ({"prompt": "q", "completion": "a"}, "no known shape"),
        ({"prompt": "q", "chosen": "a"}, "no rejected"),
        ({"prompt": "q", "rejected": "b"}, "no chosen"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "no chosen"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "no rejected"),
        ({"prompt": "q", "chosen": 5, "rejected": "b"}, "chosen is int"),
        ({"prompt": "q", "chosen": "a", "rejected": ["b"]}, "rejected is list"),
        ({"prompt": "q", "chosen": [answer("a")], "rejected": "b"}, "chosen is list"),
        ({"prompt": "q", "chosen": answer("a"), "rejected": "b"}, "chosen is dict"),
        ({"prompt": "q", "chosen": answer("a"), "rejected": [answer("b")]}, "chosen is dict"),
        (PAIR, "no prompt or question or query"),
        ({"prompt": 5, **PAIR}, "prompt is int"),
        ({"prompt": {"role": "user"}, **PAIR}, "prompt is dict"),
        ({"instruction": ["do"], **PAIR}, "instruction is list"),
        ({"instruction": "do", "input": 5, **PAIR}, "input is int"),
        ({"prompt": "q", "system": 5, **PAIR}, "system is int"),
        ({"prompt": "q", "chosen": [5], "rejected": [answer("b")]}, "turn 1 is int"),
        ({"chosen": [*listed("q"), None], "rejected": listed("q", "b")}, "turn 2 is NoneType"),
        ({"chosen": listed("q", "a"), "rejected": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"chosen": listed("q", "a"), "rejected": [{"role": "user", "content": ["q"]}]}, "content is list"),
        ({"chosen": listed("q", "a"), "rejected": [{"role": "user"}]}, "no content"),
        ({"messages": listed("q"), "chosen": {"role": "robot", "content": "a"}, "rejected": answer("b")},
         "unknown role 'robot'"),
        ({"messages": listed("q"), "chosen": {"content": "a"}, "rejected": answer("b")}, "no role"),
        ({"chosen": [answer("a")], "rejected": [answer("b")]}, "no prompt"),
        ({"prompt": "q", "completions": "a"}, "no known shape: its keys are completions, prompt"),
        ({"prompt": "q", "completions": ["a", "b"]}, "completion 1 is str, not an object"),
        ({"prompt": "q", "completions": [{"response": "a", "score": 1}, None]}, "completion 2 is NoneType"),
        ({"prompt": "q", "completions": [{"response": "a"}]}, "a score is None, not a number"),
        ({"prompt": "q", "completions": [{"response": "a", "score": "9"}]}, "a score is '9', not a number"),
        ({"prompt": "q", "completions": [{"response": "a", "score": True}]}, "a score is True"),
        ({"prompt": "q", "completions": [{"response": "a", "score": math.nan}]}, "a score is nan"),
        ({"prompt": "q", "completions": [{"score": 1}]}, "no response"),
        ({"prompt": "q", "completions": [{"response": 5, "score": 1}]}, "response is int"),
        ({"completions": [{"response": "a", "score": 1}, {"response": "b", "score": 2}]}, "no prompt"),
        ({"prompt": "q", "responses": ["a", "b"]}, "no known shape"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "as many numbers"),
        ({"prompt": "q", "responses": ["a", 5], "scores": [1, 2]}, "as many numbers"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, None]}, "a score is None"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, "x" * 500]}, "a score is 'x{19}, not a number$"),
        ({"prompt": "q", "output_1": "a", "output_2": "b"}, "preference is None"),
        ({"prompt": "q", "output_1": "a", "output_2": "b", "preference": "1"}, "preference is '1'"),
        ({"prompt": "q", "output_1": "a", "output_2": "b", "preference": math.nan}, "preference is nan"),
        ({"prompt": "q", "output_1": "a", "output_2": "b", "preference": 7}, "preference is 7.0, not from 1 to 2"),
        ({"prompt": "q", "output_1": "a", "output_2": "b", "preference": -1}, "preference is -1.0, not from 1 to 2"),
        ({"prompt": "q", "output_1": "a", "preference": 1}, "no output_2"),
        ({"prompt": "q", "output_1": None, "output_2": "b", "preference": 1}, "no output_1"),
        ({"prompt": "q", "output_1": ["a"], "output_2": "b", "preference": 1}, "output_1 is list"),
    ],
    ids=range(49),
)  # fmt: skip
def test_an_unusable_row_is_named(row, named):
    with pytest.raises(UnusableRow, match=named):
        preference_of(row)


KEYS = ["chosen", "rejected", "prompt", "question", "instruction", "input", "system", "history", "messages",
        "conversations", "completions", "responses", "scores", "output_1", "output_2", "preference", "response",
        "overall_score", "score", "role", "from", "content", "value"]  # fmt: skip
WORDS = [
    "user",
    "assistant",
    "gpt",
    "human",
    "agent_1",
    "q",
    "a",
    "",
    "Human:",
    "\n\nHuman: q\n\nAssistant: a",
    "\ud800",
]
scalars = st.one_of(
    st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(WORDS[:4]), "content": st.sampled_from(WORDS)}), max_size=3
)
any_row = st.one_of(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), values, max_size=6),
    st.fixed_dictionaries(
        {"chosen": turns | scalars, "rejected": turns | scalars}, optional={"prompt": turns | values}
    ),
    st.fixed_dictionaries(
        {"prompt": st.just("q"), "responses": st.lists(scalars, max_size=3), "scores": st.lists(scalars, max_size=3)}
    ),
)


@given(row=any_row)
@example(row={"prompt": "Human:", "chosen": "a", "rejected": "b"})
@example(row={"chosen": "Human:", "rejected": "Human:"})
def test_any_json_object_gives_a_preference_or_a_reason(row):
    try:
        found = preference_of(row)
    except UnusableRow:
        return
    assert all(message.role in ROLES and isinstance(message.content, str) for message in found.prompt)
    assert isinstance(found.chosen, str)
    assert isinstance(found.rejected, str)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
class TestRealRows:
    def test_hh_rlhf(self):
        with gzip.open(DATA / "hh-rlhf-harmless-base-test.jsonl.gz", "rt", encoding="utf8") as file:
            rows = [json.loads(line) for line in file]
        for row in rows:
            found = preference_of(row)
            if found.problem:
                continue
            names = {"user": "Human", "assistant": "Assistant"}  # who may speak twice in a row
            whole = [*found.prompt, Message("assistant", found.chosen)]
            text = "".join(f"{names[message.role]}: {message.content}" for message in whole)
            assert "".join(text.split()) == "".join(row["chosen"].split())
        problems = [preference_of(row).problem for row in rows]
        assert sum(map(bool, problems)) < len(rows) // 50

    def test_instructions_with_preference(self):
        rows = json.loads((DATA / "rasbt-instruction-data-with-preference.json").read_text(encoding="utf8"))
        for row in rows:
            found = preference_of(row)
            assert (found.chosen, found.rejected, found.problem) == (row["chosen"], row["rejected"], "")
            assert found.prompt[0].content.startswith(row["instruction"].rstrip())
            assert problem_of([*found.prompt, Message("assistant", "a")]) == ""
