"""Each cleaning step with a worked example, and what must survive all of them."""

import pytest

from lumi.corpus.cleaning import (
    clean,
    drop_control_characters,
    replace_sentencepiece_marker,
    trim_blanks,
    unify_newlines,
)

CODE = "def f(x):\n    if x:\n\treturn 1\n\n    return [2,\n            3]\n\n| a | b |\n|---|---|"


@pytest.mark.parametrize(
    "step, before, after",
    [
        (unify_newlines, "a\r\nb\rc\x0cd\u2028e\x85f", "a\nb\nc\nd\ne\nf"),
        (drop_control_characters, "\ufeffa\x00b\x1bc\x7fd\te\nf", "abcd\te\nf"),
        (replace_sentencepiece_marker, "a\u2581b", "a_b"),
        (trim_blanks, "\n\n  a  \t\n\n\n\n\n\nb \n\n", "  a\n\n\nb"),
    ],
)
def test_steps(step, before, after):
    assert step(before) == after
    assert step(after) == after


def test_code_tables_and_paragraphs_survive():
    assert clean(CODE) == (CODE, [])


def test_the_steps_that_changed_something_are_named():
    assert clean("a\r\nb ") == ("a\nb", ["unify_newlines", "trim_blanks"])


def test_lines_with_a_string_are_dropped():
    assert clean("one\nA Project Gutenberg note\ntwo", ("Project Gutenberg",)) == ("one\ntwo", ["drop_lines"])
