"""Invariant 17: what serving writes before an answer is what training had before it; transformers agrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conversations import conversations

from lumi.conversation import TEMPLATES, Message, render
from lumi.conversation.chat_template import add_chat_template
from lumi.tokenizer import Tokenizer

templates = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)


@pytest.fixture(scope="module")
def tokenizer(artifacts):
    return Tokenizer.load(artifacts / "tokenizer")


@pytest.fixture(scope="module")
def others(artifacts, tmp_path_factory):
    """Transformers' tokenizer with each chat template."""
    from transformers import AutoTokenizer

    made = {}
    for name, template in TEMPLATES.items():
        folder = tmp_path_factory.mktemp(name)
        Tokenizer.load(artifacts / "tokenizer").export(folder)
        add_chat_template(folder, template)
        made[name] = AutoTokenizer.from_pretrained(folder)
    return made


ANSWERS = ["Yes.", '"Quoted"', "* list", "(so)", "\n\nlate", "12", "\u4e2d", "\U0001f600", "e\u0301", "...", "\ttab"]


@templates
@given(data=st.data())
def test_a_prompt_is_the_beginning_of_what_was_trained_on(template, tokenizer, data):
    asked = data.draw(conversations(asks=True))
    prompt = render(asked, template, tokenizer, asks=True)
    answer = Message("assistant", data.draw(st.sampled_from(ANSWERS)))
    answered = render([*asked, answer], template, tokenizer)
    before = len(prompt.ids)
    np.testing.assert_array_equal(answered.ids[:before], prompt.ids)
    assert answered.loss[before]
    assert answered.ends[-1] > before


plain_contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\u2581"), min_size=1).filter(
    str.strip
)


@templates
@given(data=st.data(), asks=st.booleans())
def test_transformers_finds_the_same_ids(template, tokenizer, others, data, asks):
    messages = data.draw(conversations(asks=asks, contents=plain_contents))
    found = others[template.name].apply_chat_template(
        [message.to_json() for message in messages], add_generation_prompt=asks, return_dict=False
    )
    assert found == render(messages, template, tokenizer, asks=asks).ids.tolist()
