"""Invariant 16: only the assistant's tokens and the token that ends them bear loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conversations import SPELLED, conversations

from lumi.conversation import TEMPLATES, Message, render
from lumi.conversation.render import stripped
from lumi.conversation.template import symbol_id
from lumi.tokenizer import Tokenizer
from lumi.tokenizer.ids import NUM_CONTROL

templates = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


@pytest.fixture(scope="module")
def tokenizer(artifacts):
    return Tokenizer.load(artifacts / "tokenizer")


def answers_in(rendered, tokenizer):
    """The text of each run of tokens with loss, its end symbol spelled out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rendered.loss.astype(int), [0]])))
    return [tokenizer.decode(rendered.ids[a:b].tolist(), keep_control=True) for a, b in edges.reshape(-1, 2)]


def expected(messages, template):
    said = [stripped(message.content) for message in messages if message.role == "assistant"]
    return [f"{template.answer_lead}{content}{template.end_symbol}" for content in said]


@templates
@given(data=st.data())
def test_what_bears_loss_is_each_answer_and_its_end(template, tokenizer, data):
    messages = data.draw(conversations())
    assert answers_in(render(messages, template, tokenizer), tokenizer) == expected(messages, template)


@templates
@given(data=st.data())
def test_a_shortened_conversation_has_whole_answers_only(template, tokenizer, data):
    messages = data.draw(conversations())
    whole = render(messages, template, tokenizer)
    short = whole.shortened(data.draw(st.integers(0, len(whole.ids))))
    kept = len(short.ends)
    assert answers_in(short, tokenizer) == expected(messages, template)[:kept]
    if kept:
        exchanges = messages[: (messages[0].role == "system") + 2 * kept]
        np.testing.assert_array_equal(short.ids, render(exchanges, template, tokenizer).ids)


@templates
def test_symbols_that_a_user_types_stay_text(template, tokenizer):
    plain = render([Message("user", "x"), Message("assistant", "y")], template, tokenizer)
    typed = render([Message("user", SPELLED), Message("assistant", SPELLED)], template, tokenizer)
    symbols = [[token for token in one.ids.tolist() if token < NUM_CONTROL] for one in (plain, typed)]
    assert symbols[0] == symbols[1]
    assert symbols[0][0] == symbol_id("<s>")
    assert typed.loss.sum() > plain.loss.sum()
