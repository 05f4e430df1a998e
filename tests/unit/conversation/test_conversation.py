import json

import pytest

from lumi.conversation import TEMPLATES, Message, Template, find_template, problem_of, read_template, render
from lumi.conversation.template import TEMPLATE_FILE
from lumi.errors import ConfigError, DataError
from lumi.tokenizer import EOS_ID, Tokenizer
from lumi.tokenizer.ids import IM_END_ID


def messages(roles):
    return [Message({"s": "system", "u": "user", "a": "assistant"}[role], "text") for role in roles]


@pytest.mark.parametrize(
    "roles, asks, problem",
    [
        ("", False, "no_messages"),
        ("s", False, "no_messages"),
        ("ua", False, ""),
        ("suaua", False, ""),
        ("sua", True, "ends_with_an_answer"),
        ("uau", True, ""),
        ("uau", False, "no_answer_at_the_end"),
        ("au", False, "begins_with_the_assistant"),
        ("uua", False, "roles_do_not_alternate"),
        ("usa", False, "system_message_inside"),
    ],
)
def test_what_is_no_conversation_has_a_reason(roles, asks, problem):
    assert problem_of(messages(roles), asks=asks) == problem


def test_an_empty_turn_is_named_and_refused(artifacts):
    assert problem_of([Message("user", "hm"), Message("assistant", "\u2581")]) == "empty_turn"
    empty = [Message("user", " \n"), Message("assistant", "yes")]
    assert problem_of(empty) == "empty_turn"
    with pytest.raises(DataError, match="empty turn"):
        render(empty, TEMPLATES["chatml"], Tokenizer.load(artifacts / "tokenizer"))


@pytest.mark.parametrize(
    "data", [{"role": "tool", "content": "x"}, {"role": "user"}, {"role": "user", "content": ["x"]}]
)
def test_a_message_of_another_form_is_refused(data):
    with pytest.raises(DataError):
        Message.from_json(data)


WRITTEN = {
    "chatml": "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "instruct": "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>"
    "### Instruction:\nBye\n\n### Response:\n",
    "chat": "<s>Be brief.\n\nHuman: Hi\n\nAssistant: Hello</s>Human: Bye\n\nAssistant:",
    "alpaca": "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>"
    "### Instruction:\nBye\n\n### Response:\n",
}
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_byte_for_byte(artifacts, name):
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    said = [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
    ]
    ids = render(said, TEMPLATES[name], tokenizer, asks=True).ids.tolist()
    assert tokenizer.decode(ids, keep_control=True) == WRITTEN[name]


def test_alpaca_has_a_task_description_where_no_system_message_stands(artifacts):
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    ids = render([Message("user", "Hi")], TEMPLATES["alpaca"], tokenizer, asks=True).ids.tolist()
    assert tokenizer.decode(ids) == f"{TASK}\n\n### Instruction:\nHi\n\n### Response:\n"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_survives_its_file(template, tmp_path):
    assert read_template(tmp_path) is None
    template.write(tmp_path)
    assert read_template(tmp_path) == template
    assert Template.from_json(json.loads(json.dumps(template.to_json()))) == template


def test_what_is_wrong_with_a_template_is_said(tmp_path):
    with pytest.raises(ConfigError, match="chatml, instruct, chat, alpaca"):
        find_template("vicuna")
    (tmp_path / TEMPLATE_FILE).write_text('{"name": "x"}')
    with pytest.raises(ConfigError, match="not a template"):
        read_template(tmp_path)


def test_answers_end_with_the_templates_symbol():
    assert TEMPLATES["chatml"].stop_ids == (EOS_ID, IM_END_ID)
    assert TEMPLATES["chat"].stop_ids == (EOS_ID,)


@pytest.mark.parametrize("changes, named", [
    ({"assistant": {"before": [], "after": []}}, "no control symbol ends an answer"),
    ({"assistant": {"before": [], "after": ["\n"]}}, "no control symbol ends an answer"),
    ({"begin": "<s>"}, "no list of texts"),
    ({"begin": [1]}, "no list of texts"),
    ({"user": {"before": [None], "after": []}}, "no list of texts"),
    ({"answer_lead": 1}, "is no text"),
    ({"user": []}, ""), ({"more": 1}, ""), ({"system": None}, ""),
])  # fmt: skip
def test_a_file_that_is_no_template_is_refused(changes, named, tmp_path):
    (tmp_path / TEMPLATE_FILE).write_text(json.dumps(TEMPLATES["chatml"].to_json() | changes))
    with pytest.raises(ConfigError, match=f"is not a template.*{named}"):
        read_template(tmp_path)


def test_what_is_not_text_is_refused(artifacts):
    with pytest.raises(DataError, match="not text"):
        render([Message("user", "\ud800")], TEMPLATES["chatml"], Tokenizer.load(artifacts / "tokenizer"), asks=True)
