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
