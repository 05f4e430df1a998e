"""Every shape in which data sets keep conversations, and every row that has none."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lumi.conversation import Message
from lumi.conversation.messages import ROLES
from lumi.posttraining.shapes import SHAPES, UnusableRow, messages_of, shape_of


def said(*contents, system=None):
    """Messages of user and assistant in turn, behind a system message where there is one."""
    turns = [Message("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return [*([Message("system", system)] if system else []), *turns]


def node(name, parent, text, role="assistant", **more):
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, **more}


ROOT = node("q", None, "Why?", "prompter")


@pytest.mark.parametrize(
    "row, shape, messages",
    [
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                          {"role": "assistant", "content": "a"}]},
            "messages", said("q", "a", system="s"),
        ),
        ({"prompt": "q", "prompt_id": "7", "messages": [{"role": "USER", "content": "q"}]}, "messages", said("q")),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
            "sharegpt", said("q", "a", system="s"),
        ),
        (
            {"conversation": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"},
                              {"from": "chatgpt", "value": "a"}]},
            "sharegpt", said("q", "a", system="s"),
        ),
        ({"conversations": [{"from": "Human", "value": "q"}, {"from": "bot", "value": "a"}]}, "sharegpt",
         said("q", "a")),
        ({"turns": ["q", "a", "q2", "a2"]}, "turns", said("q", "a", "q2", "a2")),
        (
            {"turns": [{"agent": "agent_2", "message": "q"}, {"agent": "agent_1", "message": "a"},
                       {"agent": "agent_2", "message": "q2"}, {"agent": "agent_1", "message": "a2"}]},
            "turns", said("q", "a", "q2", "a2"),
        ),
        ({"turns": [{"speaker": "prompter", "utterance": "q"}, {"speaker": "model", "utterance": "a"}]}, "turns",
         said("q", "a")),
        ({"instruction": "do", "input": "this", "output": "done"}, "alpaca", said("do\n\nthis", "done")),
        ({"instruction": "do \n", "input": "  this", "output": "done"}, "alpaca", said("do\n\n  this", "done")),
        ({"instruction": "do", "input": "", "output": "done"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "input": None, "output": "done"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "input": " <noinput> ", "output": "done"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "input": "Noinput", "output": "done"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "input": "N/A", "output": "done"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "output": "done", "system": "s", "history": [["q", "a"]]}, "alpaca",
         said("q", "a", "do", "done", system="s")),
        ({"instruction": "do", "output": "done", "system": " ", "history": []}, "alpaca", said("do", "done")),
        ({"instruction": "do", "context": "c", "response": "done", "category": "qa"}, "alpaca",
         said("do\n\nc", "done")),
        ({"instruction": "do", "context": "", "response": "done", "category": "qa"}, "alpaca", said("do", "done")),
        ({"instruction": "do", "input": "", "context": "c", "output": "done"}, "alpaca", said("do\n\nc", "done")),
        ({"messages": [{"role": "system", "content": " "}, {"role": "user", "content": "q"}], "system": "s"},
         "messages", said("q", system="s")),
        ({"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "q"}], "system": "s"},
         "messages", said("q", system="own")),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", said("q", "a")),
        ({"query": "q", "answer": "a", "messages": None}, "prompt_completion", said("q", "a")),
        ({"id": "flan.1", "system_prompt": "s", "question": "q", "response": "a"}, "prompt_completion",
         said("q", "a", system="s")),
        ({"id": "flan.1", "system_prompt": "", "question": "q", "response": "a"}, "prompt_completion", said("q", "a")),
        ({"tree": [ROOT, node("a", "q", "So.")]}, "tree", said("Why?", "So.")),
    ],
)  # fmt: skip
def test_every_shape_is_seen_and_read(row, shape, messages):
    assert shape_of(row) == shape
    assert messages_of(row) == messages_of(row, shape) == messages


def test_every_shape_that_is_named_has_a_row_above():
    seen = test_every_shape_is_seen_and_read.pytestmark[0].args[1]
    assert {shape for _, shape, _ in seen} == set(SHAPES)


def test_the_shape_that_is_asked_for_goes_before_the_one_that_is_seen():
    row = {"messages": [{"role": "user", "content": "m"}], "prompt": "q", "completion": "a"}
    assert messages_of(row) == said("m")
    assert messages_of(row, "prompt_completion") == said("q", "a")


def test_the_two_that_talk_are_told_apart_by_who_begins():
    assert messages_of({"turns": [{"agent": f"agent_{n}", "message": "x"} for n in (1, 1, 2)]}) == [
        Message("user", "x"), Message("user", "x"), Message("assistant", "x"),
    ]  # fmt: skip


def test_more_names_of_roles_whatever_their_case():
    row = {"turns": [{"speaker": "USER", "text": "q"}, {"speaker": "System", "text": "a"}]}
    assert messages_of(row, roles={"SYSTEM": "assistant"}) == said("q", "a")
    tree = {"tree": [node("q", None, "q", "Kunde"), node("a", "q", "a", "KI")]}
    assert messages_of(tree, roles={"kunde": "user", "ki": "assistant"}) == said("q", "a")


class TestTree:
    def test_the_best_rank_wins_and_none_is_last(self):
        tree = [
            ROOT,
            node("a", "q", "unranked"), node("b", "q", "second", rank=1), node("c", "q", "best", rank=0),
            node("d", "c", "And?", "prompter", rank=3), node("e", "c", "Or?", "prompter", rank=2),
            node("f", "e", "Both.", rank=None),
            node("g", "b", "not asked", "prompter", rank=0),
        ]  # fmt: skip
        assert messages_of({"tree": tree}) == said("Why?", "best", "Or?", "Both.")
        assert messages_of({"tree": tree[::-1]}) == said("Why?", "best", "Or?", "Both.")

    def test_deleted_messages_and_what_hangs_on_them_are_out(self):
        tree = [ROOT, node("a", "q", "gone", rank=0, deleted=True), node("b", "a", "More?", "prompter"),
                node("c", "q", "stays", rank=1, deleted=False)]  # fmt: skip
        assert messages_of({"tree": tree}) == said("Why?", "stays")

    def test_a_rank_that_is_no_number_is_none(self):
        tree = [ROOT, node("a", "q", "odd", rank=float("nan")), node("b", "q", "best", rank=0.0)]
        assert messages_of({"tree": tree}) == said("Why?", "best")

    def test_parents_in_a_circle_end(self):
        tree = [ROOT, node("a", "q", "So."), node("q", "a", "Why?", "prompter")]
        assert messages_of({"tree": tree}) == said("Why?", "So.", "Why?")
        assert messages_of({"tree": [node("a", "a", "alone")]}) == []

    def test_a_message_without_a_name_has_no_replies(self):
        tree = [{"role": "prompter", "text": "Why?"}, {"role": "assistant", "text": "So."}]
        assert messages_of({"tree": tree}) == said("Why?")

    @pytest.mark.parametrize(
        "tree, named",
        [
            ([node("q", None, "x", "moderator")], "moderator"),
            ([{"message_id": "q", "from": "moderator", "value": "x"}], "moderator"),
            ([{"message_id": "q", "text": "x"}], "role"),
            ([{"message_id": "q", "role": "prompter"}], "text"),
            ([node("q", None, ["x"], "prompter")], "text is list"),
            ([ROOT, "words"], "tree|message|str"),
            ([ROOT, None], "tree|message|None"),
            ("words", "tree|str"),
            (7, "tree|int"),
            (None, "tree|None"),
            ([node([1], None, "x", "prompter")], "tree|message_id|list"),
            ([ROOT, node("a", {"of": "q"}, "x")], "tree|parent_id|dict"),
            ([ROOT, node("a", "q", "x", rank=0), node("b", "q", "y", rank="first")], "tree|rank|str"),
        ],
        ids=range(13),
    )
    def test_what_is_no_tree_is_named(self, tree, named):
        with pytest.raises(UnusableRow, match=named):
            messages_of({"tree": tree})

    def test_a_row_that_no_tree_was_made_of_is_named(self):
        with pytest.raises(UnusableRow, match="tree"):
            messages_of({"message_id": "q", "text": "x", "role": "prompter"}, "tree")


@pytest.mark.parametrize(
    "row, shape, named",
    [
        ({}, "auto", "its keys are none"),
        ({"b": 1, "a": 2}, "auto", "its keys are a, b"),
        ({"text": "only text"}, "auto", "its keys are text"),
        ({"prompt": "q"}, "auto", "no known shape"),
        ({"prompt": "q"}, "prompt_completion", "no completion or response or answer or output or chosen"),
        ({"completion": "a"}, "prompt_completion", "no prompt or question or query"),
        ({"prompt": 5, "completion": "a"}, "auto", "prompt is int"),
        ({"prompt": "q", "chosen": [{"role": "user"}]}, "auto", "chosen is list"),
        ({"instruction": "do"}, "auto", "no output"),
        ({"instruction": None, "output": "done"}, "auto", "no instruction"),
        ({"instruction": ["do"], "output": "done"}, "auto", "instruction is list"),
        ({"instruction": "do", "output": {"text": "done"}}, "auto", "output is dict"),
        ({"output": "done"}, "alpaca", "no instruction"),
        ({"instruction": "do", "output": "x", "history": [["q"]]}, "auto", "history"),
        ({"instruction": "do", "output": "x", "history": [["q", None]]}, "auto", "history"),
        ({"instruction": "do", "output": "x", "history": [5]}, "auto", "history"),
        ({"instruction": "do", "output": "x", "history": ["ab"]}, "auto", "history"),
        ({"instruction": "do", "output": "x", "history": {"ab": "cd"}}, "auto", "history"),
        ({"instruction": "do", "output": "x", "history": 5}, "auto", "history"),
        ({"messages": "words"}, "messages", "shape messages"),
        ({"messages": []}, "sharegpt", "shape sharegpt"),
        ({"messages": [5]}, "auto", "turn 1 is int"),
        ({"messages": [{"role": "user", "content": "q"}, None]}, "auto", "turn 2 is NoneType"),
        ({"messages": [{"role": "tool", "content": "q"}]}, "auto", "unknown role 'tool'"),
        ({"messages": [{"role": "r" * 500, "content": "q"}]}, "auto", "unknown role 'r{20,39}$"),
        ({"messages": [{"content": "q"}]}, "auto", "no role"),
        ({"messages": [{"role": "user"}]}, "auto", "no content"),
        ({"messages": [{"role": 1, "content": "q"}]}, "auto", "role is int"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}, "auto", "content is list"),
        ({"conversations": [{"from": "human", "value": None}]}, "auto", "no content or value"),
    ],
    ids=range(30),
)
def test_an_unusable_row_is_named(row, shape, named):
    with pytest.raises(UnusableRow, match=named):
        messages_of(row, shape)


KEYS = ["messages", "conversations", "conversation", "turns", "instruction", "input", "context", "output", "system",
        "system_prompt", "history", "prompt", "question", "completion", "response", "chosen", "tree", "message_id",
        "parent_id", "role", "from", "agent", "content", "value", "text", "rank", "deleted"]  # fmt: skip
WORDS = ["user", "assistant", "gpt", "human", "agent_1", "agent_2", "prompter", "q", "a", "", "<noinput>", "\ud800"]
scalars = st.one_of(st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)
any_row = st.one_of(
    st.dictionaries(st.sampled_from(KEYS) | st.text(), values, max_size=6),
    st.fixed_dictionaries(
        {"tree": st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[-10:], scalars | values)), max_size=5)}
    ),
)


@given(row=any_row, shape=st.sampled_from(["auto", *SHAPES]))
@example(row={"history": 5, "instruction": "do", "output": "x"}, shape="auto")
def test_any_json_object_gives_messages_or_a_reason(row, shape):
    try:
        messages = messages_of(row, shape)
    except UnusableRow:
        return
    assert all(message.role in ROLES and isinstance(message.content, str) for message in messages)


@pytest.mark.parametrize("key", ["input", "context", "system"])
@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}])
def test_a_value_of_another_type_is_never_left_out_in_silence(key, value):
    with pytest.raises(UnusableRow, match=f"{key} is {type(value).__name__}, not text"):
        messages_of({"instruction": "Add one to", "output": "6", key: value})
