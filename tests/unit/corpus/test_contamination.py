import numpy as np
import pytest

from lumi.corpus.contamination import FEWEST, OVERLAP, Decontaminator
from lumi.corpus.words import Words


def words_of(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def cuts(texts: list[str], **sets: list[str]):
    return Decontaminator(sets).cuts(Words.of(texts))


def test_a_paragraph_with_thirteen_words_of_a_test_text_is_cut_whatever_its_spelling():
    test = words_of(0, 40)
    copied = test.upper().replace(" ", ", ").split(", ")[10:23]
    text = f"First, untouched.\n\nBefore {' - '.join(copied)} after.\n\nLast,\nuntouched."
    (cut,) = cuts([text], mine=[test]).values()
    assert cut.text == "First, untouched.\n\nLast,\nuntouched."
    assert cut.paragraphs == (("mine", f"Before {' - '.join(copied)} after."),)
    assert cut.share == pytest.approx(1 - len(cut.text) / len(text))


def test_twelve_words_of_a_longer_text_are_no_overlap():
    assert OVERLAP == 13
    assert cuts([words_of(3, 12)], mine=[words_of(0, 40)]) == {}
    assert list(cuts([words_of(3, 13)], mine=[words_of(0, 40)])) == [0]


@pytest.mark.parametrize("count", range(FEWEST, OVERLAP))
def test_a_short_test_text_counts_as_a_whole(count):
    question = words_of(0, count)
    assert list(cuts(["x y z", f"asked: {question}?"], mine=[question])) == [1]
    assert cuts([words_of(0, count - 1), words_of(1, count - 1)], mine=[question]) == {}


def test_still_shorter_texts_are_not_looked_for():
    assert cuts([words_of(0, FEWEST - 1)], mine=[words_of(0, FEWEST - 1)]) == {}
    assert cuts([words_of(0, 20)], mine=[""]) == {}
    assert cuts(["", "a"], mine=[words_of(0, 20)]) == {}


def test_lines_are_the_paragraphs_of_a_text_without_blank_lines():
    text = f"one\n{words_of(0, 13)}\nthree"
    assert cuts([text], mine=[words_of(0, 13)])[0].text == "one\nthree"


def test_an_overlap_over_two_paragraphs_cuts_both_and_names_the_set():
    text = f"keep\n\n{words_of(0, 7)}\n\n{words_of(7, 7)}\n\nkeep too"
    cut = cuts([text], first=["nothing of this"], second=[words_of(0, 14)])[0]
    assert cut.text == "keep\n\nkeep too"
    assert [name for name, _ in cut.paragraphs] == ["second", "second"]


def test_texts_beside_one_another_make_no_overlap_and_beyond_ascii_nothing_is_lost():
    assert cuts([words_of(0, 7), words_of(7, 7)], mine=[words_of(0, 14)]) == {}
    text = f"caf\u00e9 \u65e5\u672c\n\n\u201c{words_of(0, 14)}\u201d\n\n\u00fc \U0001f600"
    assert cuts([text], mine=[words_of(0, 14)])[0].text == "caf\u00e9 \u65e5\u672c\n\n\u00fc \U0001f600"


def test_every_ngram_of_a_large_set_is_found_and_no_other():
    rng = np.random.default_rng(0)
    tests = [" ".join(f"t{n}" for n in rng.integers(0, 50, 30)) for _ in range(300)]
    known = {tuple(text.split()[i : i + 13]) for text in tests for i in range(18)}
    texts = [" ".join(f"t{n}" for n in rng.integers(0, 50, 13)) for _ in range(300)] + [" ".join(k) for k in known]
    found = cuts(texts, mine=tests)
    assert set(found) == {number for number, text in enumerate(texts) if tuple(text.split()) in known}
