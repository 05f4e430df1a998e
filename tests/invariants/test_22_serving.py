"""Invariant 22: the server is OpenAI's to its clients, and each answer is the one that the engine gives alone."""

import asyncio
import math
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from tests.servers import load, serving, write_model

from lumi.conversation import Message, find_template, render
from lumi.inference import Engine, GenerationConfig
from lumi.model import load_model
from lumi.tokenizer import Tokenizer

DOCS = Path(__file__).parents[2] / "docs"
TUNED, BASE = "sft/tiny", "pretrain/tiny"
QUESTIONS = ["Where is the fox?", "Why?", "Tell me of the river, the mill and the old town.", "And the owl?"]
GREEDY = {"temperature": 0.0, "max_tokens": 24}
DRAWN = {"temperature": 1.2, "top_p": 0.9, "seed": 7, "max_tokens": 24}


@pytest.fixture(scope="module")
def root(artifacts, tmp_path_factory):
    """A tuned model and a base model."""
    tokenizer, root = Tokenizer.load(artifacts / "tokenizer"), tmp_path_factory.mktemp("served")
    write_model(root / TUNED / "final", tokenizer)
    write_model(root / BASE / "final", tokenizer, template=None)
    return root


@pytest.fixture(scope="module")
def server(root):
    with serving(load(root / TUNED / "final", root / BASE / "final"), {"max_new_tokens": 64, "max_choices": 8}) as made:
        yield made


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone(root):
    """Give the request of a prompt, answered by an engine that has nothing else to do."""
    folder = root / TUNED / "final"
    model, tokenizer, template = load_model(folder), Tokenizer.load(folder), find_template("chatml")

    def answer(question, **options):
        ids = render([Message("user", question)], template, tokenizer, asks=True).ids.tolist()
        config = {("max_new_tokens" if name == "max_tokens" else name): value for name, value in options.items()}
        engine = Engine(model, tokenizer, num_slots=1)
        request = engine.submit(ids, GenerationConfig(**{"stop_ids": template.stop_ids, **config}))
        engine.run()
        return request

    return answer


def asked(question):
    return [{"role": "user", "content": question}]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_each_answer_is_the_one_that_is_given_alone(server, alone, sampling):
    """Whole and streamed ones, three times as many at once as there are slots, through the asynchronous client."""

    async def whole(client, question):
        answer = await client.chat.completions.create(model=TUNED, messages=asked(question), **sampling)
        return answer.choices[0].message.content, answer.choices[0].finish_reason

    async def streamed(client, question):
        stream = await client.chat.completions.create(model=TUNED, messages=asked(question), stream=True, **sampling)
        parts = [chunk.choices[0] async for chunk in stream]
        return "".join(part.delta.content for part in parts), parts[-1].finish_reason

    async def all_at_once():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(way(client, question) for question in QUESTIONS for way in (whole, streamed, streamed))
            )

    given = [alone(question, **sampling) for question in QUESTIONS]
    expected = [(request.text.lstrip(), request.finish_reason) for request in given for _ in range(3)]
    assert asyncio.run(all_at_once()) == expected
    assert len({text for text, _ in expected}) == len(QUESTIONS)


def test_choices_are_drawn_with_seeds_one_behind_the_other(client, alone):
    answer = client.chat.completions.create(model=TUNED, messages=asked("Why?"), n=3, **DRAWN)
    expected = [alone("Why?", **{**DRAWN, "seed": DRAWN["seed"] + number}) for number in range(3)]
    assert [choice.message.content for choice in answer.choices] == [request.text.lstrip() for request in expected]
    assert answer.usage.completion_tokens == sum(len(request.token_ids) for request in expected)
    assert answer.usage.prompt_tokens == len(expected[0].prompt_ids)  # once


def test_without_a_seed_no_two_answers_are_alike(client):
    options = {"temperature": 1.5, "max_tokens": 24}
    answers = [client.chat.completions.create(model=TUNED, messages=asked("Why?"), **options) for _ in range(3)]
    assert len({answer.choices[0].message.content for answer in answers}) == 3


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", 2.0),
        ("top_p", 0.3),
        ("top_k", 2),
        ("min_p", 0.5),
        ("repetition_penalty", 3.0),
        ("presence_penalty", 2.0),
        ("frequency_penalty", 2.0),
        ("logit_bias", {40: 20.0}),
        ("seed", 8),
        ("max_tokens", 5),
        ("stop_token_ids", list(range(20, 60))),
    ],
)
def test_every_setting_reaches_the_engine(client, alone, name, value):
    """Those that OpenAI's client does not know go in its extra_body."""
    plain = {"temperature": 1.3, "top_p": 1.0, "seed": 7, "max_tokens": 24}
    answer = client.chat.completions.create(model=TUNED, messages=asked("Why?"), extra_body={**plain, name: value})
    expected = {"stop_ids": (*find_template("chatml").stop_ids, *value)} if name == "stop_token_ids" else {name: value}
    assert answer.choices[0].message.content == alone("Why?", **{**plain, **expected}).text.lstrip()
    assert answer.choices[0].message.content != alone("Why?", **plain).text.lstrip(), f"{name} decides nothing here"


@pytest.mark.parametrize("as_list", [False, True])
def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(client, alone, as_list):
    free = alone("Why?", **GREEDY).text.lstrip()
    stop = free[8:11]
    answer = client.chat.completions.create(
        model=TUNED, messages=asked("Why?"), stop=["never there", stop] if as_list else stop, **GREEDY
    )
    assert answer.choices[0].message.content == free[: free.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model=TUNED, messages=asked("Why?"), stop=stop, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == free[: free.index(stop)]


def test_usage_counts_and_what_was_cached(client, alone):
    question = "Tell me all that there is about the mill, the river, the town and the people in it."
    request = alone(question, **GREEDY)
    expected = (len(request.prompt_ids), len(request.token_ids), len(request.prompt_ids) + len(request.token_ids))
    first = client.chat.completions.create(model=TUNED, messages=asked(question), **GREEDY).usage
    assert (first.prompt_tokens, first.completion_tokens, first.total_tokens) == expected
    stream = client.chat.completions.create(
        model=TUNED, messages=asked(question), stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == expected
    assert last.usage.prompt_tokens_details.cached_tokens == len(request.prompt_ids) - 1


def test_logprobs_are_the_models_own(client, alone):
    request = alone("Why?", **GREEDY, logprobs=3)
    options = {"model": TUNED, "messages": asked("Why?"), "logprobs": True, "top_logprobs": 3, **GREEDY}
    whole = client.chat.completions.create(**options).choices[0].logprobs.content
    streamed = [
        token for chunk in client.chat.completions.create(stream=True, **options)
        for token in chunk.choices[0].logprobs.content
    ]  # fmt: skip
    assert [token.model_dump() for token in whole] == [token.model_dump() for token in streamed]
    assert len(whole) == len(request.token_ids)
    for token, expected in zip(whole, request.logprobs, strict=False):
        assert math.isclose(token.logprob, expected.logprob, abs_tol=1e-4)
        assert [one.logprob for one in token.top_logprobs] == pytest.approx(
            [p for _, p in expected.likeliest], abs=1e-4
        )
        assert token.top_logprobs[0].token == token.token  # greedy
    assert b"".join(bytes(token.bytes or []) for token in whole).decode(errors="replace") == request.text


def test_completions_take_every_form_of_prompt(client, root):
    tokenizer = Tokenizer.load(root / BASE / "final")
    ids = [[1, *tokenizer.encode(text)] for text in ("The mill", "A river")]
    options = {"model": BASE, "temperature": 0.0, "max_tokens": 12}
    texts = ["The mill", "A river"]
    expected = [client.completions.create(prompt=text, **options).choices[0].text for text in texts]
    assert [choice.text for choice in client.completions.create(prompt=texts, **options).choices] == expected
    assert [choice.text for choice in client.completions.create(prompt=ids, **options).choices] == expected
    assert client.completions.create(prompt=ids[0], **options).choices[0].text == expected[0]
    echoed = client.completions.create(prompt=[texts[0], ids[1]], echo=True, **options).choices
    assert [choice.text for choice in echoed] == [
        texts[0] + expected[0],
        tokenizer.decode(ids[1]) + expected[1],
    ]
    parts = ["", ""]
    for chunk in client.completions.create(prompt=texts, stream=True, **options):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
    assert parts == expected


def test_logprobs_of_completions(client):
    options = {"model": BASE, "prompt": "The mill", "temperature": 0.0, "max_tokens": 12}
    choice = client.completions.create(logprobs=2, **options).choices[0]
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 12
    assert all(
        max(top.values()) == own for top, own in zip(logprobs.top_logprobs, logprobs.token_logprobs, strict=True)
    )
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset : offset + len(token)] == token


def test_what_other_clients_send_along_is_taken(client):
    """LangChain and LiteLLM send such; an assistant's message comes back as the client's library wrote it."""
    first = client.chat.completions.create(model=TUNED, messages=asked("Why?"), **GREEDY)
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Why?", "name": "ada"},
        first.choices[0].message.model_dump() | {"content": "So."},
        {"role": "user", "content": "And?"},
    ]
    answer = client.chat.completions.create(
        model=TUNED, messages=messages, n=1, max_tokens=4, user="ada", store=False, metadata={"run": "1"}, tools=[],
        tool_choice="none", parallel_tool_calls=True, response_format={"type": "text"}, service_tier="auto", stop=None,
        seed=None, logit_bias={}, stream=False,
    )  # fmt: skip
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "change, param",
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"temperature": 3}, "temperature"),
        ({"n": 100}, "n"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"messages": asked("many words " * 40)}, "messages"),
        ({"messages": asked("many words " * 4000)}, "messages"),
        ({"messages": []}, "messages"),
        ({"model": BASE}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_done_is_400_and_named(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": TUNED, "messages": asked("Why?"), **change})
    assert caught.value.param.startswith(param)
    assert caught.value.body["type"] == "invalid_request_error"
    assert caught.value.body["message"]


def test_models(client):
    assert [model.id for model in client.models.list()] == [TUNED, BASE]
    model = client.models.retrieve(TUNED)
    assert model.lumi == {"context": 128, "chats": True, "parameters": model.lumi["parameters"]}
    assert client.models.retrieve(BASE).lumi["chats"] is False
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=asked("Why?"))
    assert caught.value.code == "model_not_found"


def test_the_documented_example_runs(server):
    """As it stands in the docs, but for the address."""
    (example,) = re.findall(r"```python\n(from openai.*?)```", (DOCS / "serving.md").read_text("utf8"), flags=re.DOTALL)
    code = example.replace("http://127.0.0.1:8000", server.url).replace("sft_industrial/tiny", TUNED)
    assert code != example
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 20
    readme = (DOCS.parent / "README.md").read_text("utf8")
    assert example in readme or "from openai" not in readme


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allows", "forbids"])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_nothing_that_the_schema_allows_or_forbids_is_a_server_error(server, route, mode):
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[route]["POST"]

    @settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case):
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = TUNED if "messages" in case.body else BASE  # else all that follows is 404
            if isinstance(case.body.get("messages"), list) and len(str(case.body)) % 2:
                case.body["messages"] = asked("Why?")  # few of the schema's messages are a conversation
        response = case.call()
        assert response.status_code < 500, response.text
        statuses.append(response.status_code)
        if response.status_code >= 400:
            assert response.json()["error"]["message"]

    statuses = []
    ask()
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses
