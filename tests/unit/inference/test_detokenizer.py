"""Streaming loses nothing: joined bits equal the whole, and no bit ends inside a character."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.inference import IncrementalDetokenizer

ANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def streamed(tokenizer, ids):
    detokenizer = IncrementalDetokenizer(tokenizer)
    return [detokenizer.push(token) for token in ids] + [detokenizer.finish()]


@ANY
@given(st.text().filter(lambda text: "\u2581" not in text))
def test_streaming_a_text_gives_it_back(tokenizer, text):
    bits = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(bits) == text
    assert "\ufffd" not in "".join(bits) or "\ufffd" in text


@ANY
@given(st.data())
def test_streaming_any_ids_equals_decoding_them(tokenizer, data):
    """Also ids that no text gives: control symbols, halves of characters."""
    ids = data.draw(st.lists(st.integers(1, tokenizer.vocab_size - 1), max_size=20))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_spaces_and_newlines_survive(tokenizer):
    for text in (" a b", "  two", "\n\n  indented\n", "\ttab", " ", "a ", "caf\u00e9 \u65e5\u672c \U0001f600!"):
        assert "".join(streamed(tokenizer, tokenizer.encode(text))) == text


def test_a_stop_text_ends_the_answer_wherever_it_is_cut(tokenizer):
    text = "the old mill and the water mill stood"
    ids = tokenizer.encode(text)
    for stop in (
        ["mill"],
        ["water", "stood"],
        ["e w"],
        ["and the water mill stood"],
        ["nowhere", "mill stoo"],
        ["stoody"],
    ):
        detokenizer = IncrementalDetokenizer(tokenizer, stop)
        bits = [detokenizer.push(token) for token in ids] + [detokenizer.finish()]
        places = [text.find(one) for one in stop if one in text]
        assert "".join(bits) == text[: min(places, default=len(text))]
        assert detokenizer.stopped == bool(places)


def test_the_beginning_of_a_stop_text_is_held_back(tokenizer):
    detokenizer = IncrementalDetokenizer(tokenizer, ["mill stop"])
    shown = ""
    for token in tokenizer.encode("the mill st"):
        shown += detokenizer.push(token)
    assert shown == "the "
    assert detokenizer.finish() == "mill st"
