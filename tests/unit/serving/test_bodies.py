"""What a client may send, and what it is told of the rest."""

import json

import pytest

from lumi.serving import bodies
from lumi.serving.api_error import ApiError
from lumi.serving.bodies import ChatBody, CompletionBody, read_body

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def chat(**fields):
    return read_body(ChatBody, json.dumps({**CHAT, **fields}).encode())


@pytest.fixture
def counted(monkeypatch):
    """Count the errors that pydantic finds."""
    counts, tell = [], bodies._problem
    monkeypatch.setattr(bodies, "_problem", lambda error: counts.append(error.error_count()) or tell(error))
    return counts


def refused(kind, data):
    with pytest.raises(ApiError) as caught:
        read_body(kind, data if isinstance(data, bytes) else json.dumps(data).encode())
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"{}}", b"\xff\xfe", b'{"model": "\xff"}', b"[" * 10_000, b'{"a":' * 10_000,
        b'{"model": "m", "prompt": "\\ud800"}', b'{"model": "m", "prompt": "\\udc00\\ud800"}',
        b'{"model": "m", "seed": ' + b"9" * 5000 + b"}", b'{"model": "m", "model": "n"}',
        b'{"model": "m", "logit_bias": {"1": 1, "1": 2}}', b'{"model": "m"} {"model": "m"}',
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_json_is_refused(data):
    assert refused(CompletionBody, data).code == "invalid_json"


def test_numbers_that_json_does_not_have_are_refused_even_where_nobody_reads_them():
    for name in ("NaN", "Infinity", "-Infinity"):
        assert name in refused(CompletionBody, b'{"model": "m", "temperature": %s}' % name.encode()).message
        body = json.dumps({**CHAT, "metadata": {"deep": [1]}}).replace("1", name).encode()
        assert refused(ChatBody, body).code == "invalid_json"
    assert refused(CompletionBody, b'{"model": "m", "temperature": 1e999}').param == "temperature"


@pytest.mark.parametrize("data", [b"[]", b"null", b'"x"', b"1", b"true"])
def test_a_body_is_an_object(data):
    assert "object" in refused(ChatBody, data).message


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages.0.content.0.text"),
        ({"model": None}, "model"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1 << 63}, "seed"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"repetition_penalty": 1e308}, "repetition_penalty"),
        ({"stop": [""]}, "stop.0"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(fields, param):
    error = refused(ChatBody, {**CHAT, **fields})
    assert error.param == param
    assert error.message.startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"tool_choice": {"type": "function"}},
        {"functions": [{}]},
        {"audio": {"voice": "x"}},
        {"modalities": ["audio"]},
        {"prediction": {"type": "content"}},
        {"web_search_options": {}},
        {"reasoning_effort": "high"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_not_offered_is_named(fields):
    error = refused(ChatBody, {**CHAT, **fields})
    assert error.code == "unsupported_parameter"
    assert error.param.startswith(next(iter(fields)))


def test_an_unknown_field_is_named():
    error = refused(ChatBody, {**CHAT, "temprature": 1})
    assert (error.param, error.code) == ("temprature", "unknown_parameter")


@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"m","messages":[1' + b",1" * 500_000 + b"]}",
        b'{"model":"m","messages":[{}' + b",{}" * 300_000 + b"]}",
        b'{"model":"m","messages":[{}' + b",{}" * 2_000 + b"]}",
        b'{"model":"m","messages":[{"role":"user","content":[1' + b",1" * 400_000 + b"]}]}",
        b'{"model":"m","messages":[' + b'{"role":"user","content":"a"},' * 30_000 + b'{"role":"user","content":"a"}]}',
        b'{"model":"m","tools":[1' + b",1" * 500_000 + b"]}",
        b'{"model":"m","stop":[1' + b",1" * 500_000 + b"]}",
        b'{"model":"m",' + b",".join(b'"a%d":1' % number for number in range(90_000)) + b"}",
        b'{"model":"m","logit_bias":{' + b",".join(b'"a%d":1' % number for number in range(90_000)) + b"}}",
    ],
    ids=["messages", "empty", "empties", "parts", "many", "tools", "stop", "fields", "biases"],
)
def test_a_body_full_of_mistakes_costs_no_more_than_one_mistake(data, counted):
    """An error for each took 20 seconds and a gigabyte."""
    refused(ChatBody, data)
    assert sum(counted) <= 5


@pytest.mark.parametrize("first, rest", [(b'"a"', b",1"), (b"1", b",-1"), (b"[1", b',"a"'), (b"[1],[2]", b',["a"]')])
def test_prompts_full_of_mistakes_cost_no_more_either(first, rest, counted):
    end = b"]]" if first == b"[1" else b"]"
    refused(CompletionBody, b'{"model":"m","prompt":[' + first + rest * 100_000 + end + b"}")
    assert sum(counted) <= 5


def test_null_is_the_same_as_absent():
    nothing = {name: None for name in ChatBody.model_fields if name not in CHAT}
    assert chat(**nothing) == chat()
    absent = read_body(CompletionBody, b'{"model": "m"}')
    nothing = {name: None for name in CompletionBody.model_fields if name != "model"}
    assert read_body(CompletionBody, json.dumps({"model": "m", **nothing}).encode()) == absent


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("text", ["text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
    ],
)
def test_the_four_forms_of_a_prompt(prompt, expected):
    assert read_body(CompletionBody, json.dumps({"model": "m", "prompt": prompt}).encode()).prompt == expected


@pytest.mark.parametrize(
    "prompt, param",
    [([], "prompt"), ([1, "a"], "prompt.0.1"), ([[1], [-1]], "prompt.1.0"), ([True], "prompt.0.0"), (3, "prompt")],
)
def test_other_forms_are_refused(prompt, param):
    assert refused(CompletionBody, {"model": "m", "prompt": prompt}).param == param


def test_settings_come_from_the_body_and_else_are_ours():
    body = chat(temperature=0.5, top_k=0, stop="END", stop_token_ids=[7], seed=-3, logit_bias={"5": -1})
    made = body.settings(10, (2, 4), 3)
    assert (made.temperature, made.top_k, made.stop, made.stop_ids) == (0.5, None, ("END",), (2, 4, 7))
    assert (made.seed, made.logit_bias, made.max_new_tokens, made.logprobs) == (-3, {5: -1.0}, 10, 3)
    assert made.top_p == type(made).model_fields["top_p"].default
    assert chat(top_k=-1).settings(1, (), None).top_k is None


def test_a_seed_is_drawn_where_none_is_given():
    assert len({chat().settings(1, (), None).seed for _ in range(5)}) == 5


def test_a_temperature_that_float32_does_not_hold_is_none():
    """Logits divided by it would be infinite, and their softmax no number."""
    assert chat(temperature=1e-300).settings(1, (), None).temperature == 0.0


def test_text_parts_are_joined_and_developers_are_the_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]
    (message,) = chat(messages=[{"role": "developer", "content": parts}]).messages
    assert (message.message().role, message.message().content) == ("system", "a b")
