"""docs/templates.md shows the very bytes that are written."""

import re
from pathlib import Path

import pytest

from lumi.conversation import TEMPLATES, Message, render
from lumi.tokenizer import Tokenizer

PAGE = (Path(__file__).parents[3] / "docs/templates.md").read_text(encoding="utf8")
SAID = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"),
        Message("assistant", "See you")]  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_shows_what_is_written(artifacts, name):
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    messages = SAID[1:3] if name == "alpaca" else SAID
    rendered = render(messages, TEMPLATES[name], tokenizer)
    marked, before = "", False
    for token, loss in zip(rendered.ids.tolist(), rendered.loss.tolist(), strict=True):
        marked += "|>" * (loss and not before) + "<|" * (before and not loss)
        marked += tokenizer.decode([token], keep_control=True)
        before = loss
    marked += "<|" * before
    section = re.split(rf"\n## {name}\b.*\n", PAGE)[1].split("\n## ")[0]
    (shown,) = re.findall(r"```text\n(.*?)\n```", section, flags=re.DOTALL)
    assert shown == marked
