"""Each cleaning step with a worked example, and what must survive all of them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.corpus.cleaning import (
    clean,
    drop_control_characters,
    drop_lines,
    replace_sentencepiece_marker,
    trim_blanks,
    unify_newlines,
)

CODE = "def f(x):\n    if x:\n\treturn 1\n\n    return [2,\n            3]\n\n| a | b |\n|---|---|"
TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \t\n\r\f\x00\x1b\x7f\x85\x9f\xa0\ufeff\u2028\u2581ab"),
        st.characters(exclude_categories=["Cs"]),
    )
)


@pytest.mark.parametrize(
    "step, before, after",
    [
        (unify_newlines, "a\r\nb\rc\x0cd\u2028e\x85f", "a\nb\nc\nd\ne\nf"),
        (drop_control_characters, "\ufeffa\x00b\x1bc\x7fd\te\nf\x80g\x9fh", "abcd\te\nfgh"),
        (drop_control_characters, "\xa0\xc2\xe9\u0100\U0001f600", "\xa0\xc2\xe9\u0100\U0001f600"),
        (replace_sentencepiece_marker, "a\u2581b", "a_b"),
        (trim_blanks, "\n\n  a  \t\n\n\n\n\n\nb \n\n", "  a\n\n\nb"),
    ],
)
def test_steps(step, before, after):
    assert step(before) == after
    assert step(after) == after


@pytest.mark.parametrize("end", ["\r\n", "\r", "\f", "\x85", "\u2028", "\u2029"])
def test_each_line_end_alone(end):
    assert clean(f"a{end}b") == ("a\nb", ["unify_newlines"])


def test_code_tables_and_paragraphs_survive():
    assert clean(CODE) == (CODE, [])


def test_the_steps_that_changed_something_are_named():
    assert clean("a\r\nb ") == ("a\nb", ["unify_newlines", "trim_blanks"])


def test_lines_with_a_string_are_dropped():
    assert drop_lines("one\nA note\ntwo", ("note", "x")) == "one\ntwo"
    assert clean("one\nA Project Gutenberg note\ntwo", ("Project Gutenberg",)) == ("one\ntwo", ["drop_lines"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_dropped_alone_whatever_their_ends(end):
    text, _ = clean(end.join(["one", "A Project Gutenberg note", "two"]), ("Project Gutenberg",))
    assert text == "one\ntwo"


@given(TEXTS)
def test_cleaning_twice_changes_nothing_more(text):
    cleaned, _ = clean(text)
    assert clean(cleaned) == (cleaned, [])


@given(TEXTS)
def test_only_line_ends_blanks_controls_and_the_marker_are_touched(text):
    gone = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *" \ufeff\u2028\u2029"}

    def rest(value):
        return [character for character in value.replace("\u2581", "_") if character not in gone]

    cleaned, _ = clean(text)
    assert rest(cleaned) == rest(text)
    assert not (gone - {"\n", "\t", " "}) & set(cleaned)
    assert "\n\n\n\n" not in cleaned
    assert all(line == line.rstrip(" \t") for line in cleaned.split("\n"))


def test_a_long_run_of_blanks_costs_no_quadratic_time():
    text = "a" + " " * 2_000_000 + "b\n \nc"  # half an hour with a regex for trailing blanks
    start = time.monotonic()
    assert clean(text)[0] == text.replace("\n \n", "\n\n")
    assert time.monotonic() - start < 2
