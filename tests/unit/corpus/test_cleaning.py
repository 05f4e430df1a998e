"""Each cleaning step with a worked example, and what must survive all of them."""

import time
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.corpus.cleaning import (
    CleaningConfig,
    clean,
    drop_control_characters,
    drop_lines,
    replace_sentencepiece_marker,
    trim_blanks,
    unify_newlines,
)

CODE = "def f(x):\n    if x:\n\treturn 1\n\n    return [2,\n            3]\n\n| a | b |\n|---|---|"
LINES_ALONE = CleaningConfig(repair_unicode=False, drop_boilerplate=False, mask_personal_data=False)
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
    assert clean("one\nA Project Gutenberg note\ntwo", drop_lines_with=("Project Gutenberg",)) == (
        "one\ntwo",
        ["drop_lines"],
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_dropped_alone_whatever_their_ends(end):
    text, _ = clean(end.join(["one", "A Project Gutenberg note", "two"]), drop_lines_with=("Project Gutenberg",))
    assert text == "one\ntwo"


PIECES = ["&", "amp;", "#38;", "lt;", "&amp;", "&#10;", "&#64;", "&shy;", "\u00c3", "\u00a9", "\u00a0", " ", "\n", "\r",
          "\x1b[0m", "\x1b", "[3", "1m", "\x00", "\ud800", "\xad", "\u200b", "\ufb01", "e", "\u0301", "a@b.c",
          "om", "@", "x.de", "8.8", ".8.8", "+1 415", " 555 2671", "read", " more", "Home | About | ", "Contact",
          "***START OF THE ", "PROJECT GUTENBERG", "uses cookies",
          "sk-", "a1b2c3d4e5f6g7h8i9j0", "[email]", "\u2581", "\u05d0", "\u200f",
          "::1", "2a00:", "1:2:3:4:5:6:7:8"]  # fmt: skip


@given(st.one_of(TEXTS, st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_cleaning_twice_changes_nothing_more_whatever_the_text(text):
    for config in (CleaningConfig(), LINES_ALONE):
        cleaned, _ = clean(text, config)
        assert clean(cleaned, config) == (cleaned, [])


def test_lone_surrogates_do_no_harm():
    assert clean("a\ud800\u00c3\u00a9 &#1; 8.8.8.8\n") == ("a\ud800\u00e9  [ip]", ANY)


@given(TEXTS)
def test_only_line_ends_blanks_controls_and_the_marker_are_touched(text):
    gone = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *" \ufeff\u2028\u2029"}

    def rest(value):
        return [character for character in value.replace("\u2581", "_") if character not in gone]

    cleaned, _ = clean(text, LINES_ALONE)
    assert rest(cleaned) == rest(text)
    assert not (gone - {"\n", "\t", " "}) & set(cleaned)
    assert "\n\n\n\n" not in cleaned
    assert all(line == line.rstrip(" \t") for line in cleaned.split("\n"))


def test_a_long_run_of_blanks_costs_no_quadratic_time():
    text = "a" + " " * 2_000_000 + "b\n \nc"  # half an hour with a regex for trailing blanks
    start = time.monotonic()
    assert clean(text)[0] == text.replace("\n \n", "\n\n")
    assert time.monotonic() - start < 2
