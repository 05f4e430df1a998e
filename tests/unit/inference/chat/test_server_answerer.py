"""Answers over HTTP: by the real server, and by scripted ones for what goes wrong."""

import socket

import pytest
from tests.chat_servers import give, refuse, scripted, stream
from tests.servers import KEY, load, serving

from lumi.errors import ConfigError, DataError
from lumi.inference import GenerationConfig
from lumi.inference.chat.answerer import NoAnswer
from lumi.inference.chat.conversation import Chat
from lumi.inference.chat.engine_answerer import EngineAnswerer
from lumi.inference.chat.server_answerer import ServerAnswerer
from lumi.serving.keys import Keys

SETTINGS = GenerationConfig(max_new_tokens=12, seed=3)


def connect(url, *, model=None, key=None, told=None):
    told = [] if told is None else told
    return Chat(ServerAnswerer(url, model=model, key=key, tell=told.append), SETTINGS)


def ask(chat, question="water"):
    return "".join(chat.ask(question))


@pytest.fixture(scope="module")
def server(tuned, base_model):
    with serving(load(tuned, base_model), keys=Keys([KEY])) as server:
        yield server


def test_the_server_answers_as_the_engine_does(server, tuned):
    here, there = Chat(EngineAnswerer.load(tuned, device="cpu", dtype="fp32"), SETTINGS), connect(server.url, key=KEY)
    assert there.answerer.name == "sft/tiny"  # the only one that chats
    assert there.answerer.context == here.answerer.context == 128
    for chat in (here, there):
        chat.system = "old town"
    for question in ("the history", "and its water mill"):
        assert "".join(there.ask(question)) == "".join(here.ask(question)) != ""
    for name in ("num_prompt_tokens", "num_tokens", "finish_reason"):
        assert getattr(there.answers[-1], name) == getattr(here.answers[-1], name)
    assert there.answers[-1].num_cached_tokens > 0


@pytest.mark.parametrize("url", ["{}/", "{}/v1", "{}/v1/"])
def test_an_address_may_name_the_version(server, url):
    assert connect(url.format(server.url), key=KEY, model="sft/tiny").answerer.name == "sft/tiny"


def test_a_model_that_is_not_there_is_told_apart(server):
    with pytest.raises(ConfigError) as caught:
        connect(server.url, key=KEY, model="sft/large")
    assert "sft/large is not at" in caught.value.fact
    assert "sft/tiny" in caught.value.way_out
    with pytest.raises(ConfigError, match="never taught to answer"):
        connect(server.url, key=KEY, model="pretrain/tiny")


@pytest.mark.parametrize("key", [None, "another-key-0123456789"])
def test_the_servers_key_is_wanted(server, key):
    with pytest.raises(NoAnswer) as caught:
        connect(server.url, key=key)
    assert "401" in caught.value.fact
    assert "LUMI_API_KEY" in caught.value.way_out
    with pytest.raises(ConfigError, match="API key"):
        connect(server.url, key="a\r\nb")


def test_an_answer_that_is_stopped_frees_the_server(server):
    chat = connect(server.url, key=KEY)
    pieces = chat.ask("water")
    assert next(pieces)
    pieces.close()
    assert len(chat.turns) == 2
    assert ask(chat, "mill")


def test_old_exchanges_are_left_out_and_a_long_question_is_refused(server):
    chat = connect(server.url, key=KEY)
    for number in range(8):
        ask(chat, f"where many people lived {number}")
    assert chat.answers[-1].num_left_out > 1
    assert chat.answers[-1].finish_reason
    with pytest.raises(DataError, match="400"):
        ask(chat, "water mill " * 200)
    fresh = connect(server.url, key=KEY)  # which does not know yet how long a token is
    fresh.turns = list(chat.turns)
    assert ask(fresh)
    assert fresh.answers[-1].num_left_out > 1


def test_an_answer_has_room_as_far_as_the_last_prompt_tells():
    usage = {"prompt_tokens": 50, "completion_tokens": 1}
    with scripted(stream("1", usage=usage), stream("2", usage={**usage, "prompt_tokens": 90}), stream("3")) as fake:
        chat = connect(fake.url)
        ask(chat, "x" * 100)  # two characters are a token, 96 tokens leave room
        ask(chat, "x" * 80)
        ask(chat, "x" * 20)
    assert [len(body["messages"]) for _, _, body in fake.asked[1:]] == [1, 3, 3]


def test_only_what_was_changed_is_sent_beyond_the_usual(server):
    with scripted(stream("a"), stream("b")) as fake:
        chat = connect(fake.url)
        ask(chat)
        chat.settings = SETTINGS.model_copy(update={"top_k": 5, "stop": ("x",), "logit_bias": {7: 1.0}})
        ask(chat)
    usual = {"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p", "seed"}
    assert [path for path, _, _ in fake.asked] == ["/v1/models", *["/v1/chat/completions"] * 2]
    bodies = [body for _, _, body in fake.asked[1:]]
    assert set(bodies[0]) == usual
    assert {name: bodies[1][name] for name in set(bodies[1]) - usual} == {
        "top_k": 5, "stop": ["x"], "logit_bias": {"7": 1.0}
    }  # fmt: skip
    real = connect(server.url, key=KEY)
    real.settings = chat.settings
    assert ask(real) is not None


def test_a_busy_server_is_asked_once_more():
    told = []
    with scripted(refuse(429, "busy", Retry_After="0"), stream("now"), refuse(429, "busy", Retry_After="0"),
                  refuse(429, "busy yet"), stream("at last")) as fake:  # fmt: skip
        chat = connect(fake.url, told=told)
        assert ask(chat) == "now"
        assert told == ["the server is busy; asking again in 0 s"]
        with pytest.raises(NoAnswer, match="429: busy yet"):
            ask(chat, "mill")
        assert "".join(chat.ask_again()) == "at last"
    assert [message.content for message in chat.turns] == ["water", "now", "mill", "at last"]


@pytest.mark.parametrize(
    "reply, says",
    [
        (refuse(503, "the server is stopping"), "503: the server is stopping"),
        (refuse(500, "no \x1b[31m"), "500: no"),
        (refuse(400, "temperature: too hot"), "400: temperature: too hot"),
        (lambda handler: handler.send(502, b"<html>Bad gateway"), "502: Bad Gateway"),
        (give([1]), "lost"),
        (lambda handler: handler.wfile.write(b"data: nonsense\n\n"), "connection"),
        (stream("half ", "an ", {"error": {"message": "the engine failed"}}, ends=False), "the engine failed"),
        (stream("half ", "an ", ends=False), "connection was lost in the middle"),
        (stream("half ", "an ", {"a": 1}, ends=False), "connection was lost in the middle"),
    ],
)
def test_what_goes_wrong_is_said_and_what_came_is_kept(reply, says):
    with scripted(stream("one"), reply, stream("two")) as fake:
        chat = connect(fake.url)
        ask(chat)
        with pytest.raises(NoAnswer) as caught:
            ask(chat, "mill")
        assert says in caught.value.fact
        kept = [message.content for message in chat.turns]
        assert kept[:3] == ["water", "one", "mill"]
        assert kept[3:] in ([], ["half an"])
        assert ("half" in says or "middle" in says or "engine" in says) == bool(kept[3:])
        assert ask(chat, "town") == "two"


def test_an_event_that_is_no_json_is_said():
    def reply(handler):
        handler.send(200, b"data: {half\n\n")

    with scripted(reply) as fake, pytest.raises(NoAnswer, match="does not speak OpenAI's protocol"):
        ask(connect(fake.url))


def test_halves_of_characters_and_white_space_before_are_not_the_answer():
    with scripted(stream(" ", "\n a", "\ud83d b")) as fake:
        assert ask(connect(fake.url)) == "a? b"


@pytest.mark.parametrize("code, kept", [("context_length_exceeded", 1), ("other", 0)])
def test_exchanges_are_left_out_until_the_server_is_content(code, kept):
    with scripted(stream("1"), stream("2"), *[refuse(400, "too long", code=code)] * 2, stream("3")) as fake:
        chat = connect(fake.url)
        chat.answerer.context = None
        ask(chat)
        ask(chat)
        if not kept:
            with pytest.raises(NoAnswer, match="too long"):
                ask(chat)
            return
        assert ask(chat) == "3"
        assert chat.answers[-1].num_left_out == 2
        assert len(fake.asked[-1][2]["messages"]) == 1


@pytest.mark.parametrize(
    "models, model, says",
    [
        (give({"data": [{"id": "a"}, {"id": "b"}]}), None, "serves a, b"),
        (give({"data": []}), None, "no model"),
        (give({"data": [{"id": "a", "lumi": {"chats": False}}]}), None, "no model that was taught"),
        (give({"data": [{"id": "a"}]}), "c", "c is not at"),
        (give({}), None, "no model"),
        (give([]), None, "OpenAI's protocol"),
        (lambda handler: handler.send(200, b"<html>"), None, "OpenAI's protocol"),
        (lambda handler: handler.send(404, b"<html>"), None, "404: Not Found"),
    ],
)
def test_a_server_with_other_models_or_none(models, model, says):
    with scripted(models=models) as fake, pytest.raises((ConfigError, NoAnswer)) as caught:
        connect(fake.url, model=model)
    assert says in caught.value.fact


def test_other_servers_say_their_context_otherwise():
    with scripted(models=give({"data": [{"id": "a", "max_model_len": 2048}]})) as fake:
        assert connect(fake.url).answerer.context == 2048


def test_nobody_is_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(NoAnswer, match=r"no server answers at .*connection refused"):
            connect(url)
    with scripted() as fake:
        chat = connect(fake.url)
    with pytest.raises(NoAnswer, match="no server answers"):
        ask(chat)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "http://a:99999", "http://k@a"]
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match="not the address of a server"):
        connect(url)
