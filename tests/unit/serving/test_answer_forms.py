"""How an answer is written: pieces that make the whole, events that every client takes apart alike."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.inference import GenerationConfig, Request, TokenLogprobs
from lumi.serving.answer_forms import AnswerReader, ChatForm, CompletionForm, event, usage

UNPRINTABLE = [1, 4, 23, 30, 250, 251]  # control symbols, and bytes that make no character alone


def make_request(tokenizer, prompt=(1, 20), **options):
    return Request.of(prompt, GenerationConfig(**{"max_new_tokens": 50, **options}), 100, tokenizer)


def accept(request, token):
    request.accept(token, TokenLogprobs(token, -1.0, ((token, -1.0),)) if request.settings.logprobs else None)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tokens=st.lists(st.integers(3, 359), max_size=40), reads=st.sets(st.integers(0, 40)), strips=st.booleans())
def test_pieces_joined_are_the_whole_whenever_they_are_read(tokenizer, tokens, reads, strips):
    request, whole = (make_request(tokenizer, logprobs=1, stop=("ee", "the")) for _ in range(2))
    reader, pieces = AnswerReader(0, request, strips=strips, before="so: "), []
    for number, token in enumerate([*tokens, 2]):
        if request.finish_reason is None:
            accept(request, token)
            accept(whole, token)
        if number in reads:
            pieces.append(reader.read())
    pieces = [piece for piece in (*pieces, reader.read(), reader.read()) if piece is not None]
    (expected,) = [AnswerReader(0, whole, strips=strips, before="so: ").read()]
    assert "".join(piece.text for piece in pieces) == expected.text
    assert [one for piece in pieces for one in piece.logprobs] == expected.logprobs
    assert len(expected.logprobs) == len(whole.token_ids)
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == expected.finish_reason == "stop"
    assert [piece.is_first for piece in pieces] == [True] + [False] * (len(pieces) - 1)


def test_white_space_before_an_answer_is_left_out_of_every_piece(tokenizer):
    request, pieces = make_request(tokenizer), []
    reader = AnswerReader(0, request, strips=True)
    for token in tokenizer.encode(" \n  the  town "):
        accept(request, token)
        if (piece := reader.read()) is not None:
            pieces.append(piece.text)
    assert request.text.startswith(" ")
    assert "".join(pieces) == "the  town "
    assert pieces[0].strip()


def test_an_answer_that_was_cut_is_never_shown_as_ended(tokenizer):
    request = make_request(tokenizer)
    accept(request, 100)
    request.finish("cancelled")
    assert AnswerReader(0, request).read() is None


def test_an_event_is_one_line_wherever_unicode_ends_one():
    written = event({"text": "a\u2028b\u2029c\x85d\x0be\n"})
    assert written.endswith(b"\n\n")
    assert len(written.decode().strip().splitlines()) == 1
    assert json.loads(written[6:]) == {"text": "a\u2028b\u2029c\x85d\x0be\n"}


def test_an_event_holds_no_infinity():
    with pytest.raises(ValueError, match="JSON"):
        event({"logprob": float("-inf")})


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_logprobs_beyond_json_are_bounded(tokenizer, value):
    request = make_request(tokenizer, logprobs=1)
    request.accept(100, TokenLogprobs(100, value, ((100, value),)))
    request.finish("length")
    for form in (ChatForm(tokenizer), CompletionForm(tokenizer)):
        event(form.choice(AnswerReader(0, request).read()))


def test_tokens_of_a_chat_have_their_text_and_their_bytes(tokenizer):
    request = make_request(tokenizer, logprobs=1, stop_ids=())
    tokens = [4, *tokenizer.encode("the \u00e9"), 2]
    for token in tokens:
        accept(request, token)
    request.finish("length")
    content = ChatForm(tokenizer).choice(AnswerReader(0, request).read())["logprobs"]["content"]
    assert [one["token"] for one in content] == [tokenizer.decode([token], keep_control=True) for token in tokens]
    assert bytes(byte for one in content for byte in one["bytes"] or []) == " the \u00e9".lstrip().encode()
    assert content[0]["bytes"] is None
    assert content[0]["token"].startswith("<|")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=12), cuts=st.sets(st.integers(0, 30)))
def test_offsets_of_completions_are_where_their_tokens_stand(tokenizer, text, cuts):
    """Also where the bytes of a character are cut, and show as U+FFFD."""
    tokens = [token for number, token in enumerate(tokenizer.encode(text)) if number not in cuts]
    request = make_request(tokenizer, logprobs=1)
    for token in tokens:
        accept(request, token)
    request.finish("length")
    piece = AnswerReader(0, request).read()
    logprobs = CompletionForm(tokenizer).choice(piece)["logprobs"]
    for number, (name, offset) in enumerate(zip(logprobs["tokens"], logprobs["text_offset"], strict=True)):
        if name.startswith("bytes:"):
            continue
        assert piece.text[offset : offset + len(name)] == name
        assert offset == len(tokenizer.decode(tokens[:number]))


def test_bytes_that_are_no_character_have_names_of_their_own(tokenizer):
    request = make_request(tokenizer, logprobs=1)
    for token in tokenizer.encode("\u4e2d"):
        accept(request, token)
    request.finish("length")
    names = CompletionForm(tokenizer).choice(AnswerReader(0, request).read())["logprobs"]["tokens"]
    assert names[-3:] == ["bytes:\\xe4", "bytes:\\xb8", "bytes:\\xad"]


def test_a_prompt_is_counted_once_for_all_of_its_choices(tokenizer):
    requests = [make_request(tokenizer, prompt=(1, 2, 3)) for _ in range(4)]
    for request in requests:
        accept(request, 100)
        request.cached_tokens = 2
    assert usage(requests[::2], requests) == {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
