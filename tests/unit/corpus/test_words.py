import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lumi.corpus.words import Words

texts = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=5)


def spelled(words: Words, text: int) -> list[str]:
    places = range(words.first[text], words.first[text + 1])
    return [bytes(words.data[words.starts[i] : words.ends[i]]).decode() for i in places]


def test_words_are_runs_of_letters_and_digits_in_lower_case():
    words = Words.of(["Don't stop: 3 Cafés, naïve!", "", "x"])
    assert spelled(words, 0) == ["don", "t", "stop", "3", "cafés", "naïve"]
    assert spelled(words, 1) == []
    assert spelled(words, 2) == ["x"]
    assert words.counts.tolist() == [6, 0, 1]
    assert words.text_of.tolist() == [0] * 6 + [2]


def test_letters_beyond_ascii_are_lowered_too_where_that_keeps_their_places():
    assert spelled(Words.of(["\u00c9t\u00c9 \u0416\u0423\u041a"]), 0) == ["\u00e9t\u00e9", "\u0436\u0443\u043a"]
    words = Words.of(["\u0130X \u212aY \u00c9"])  # lower case takes three bytes for two, one for three
    assert spelled(words, 0) == ["\u0130x", "\u212ay", "\u00e9"]


def test_typographic_punctuation_separates_and_cjk_characters_stand_alone():
    assert spelled(Words.of(["“quoted”—so\u00a0it… goes"]), 0) == ["quoted", "so", "it", "goes"]
    assert spelled(Words.of(["日本語abc、カナ。한국"]), 0) == ["日", "本", "語", "abc", "カ", "ナ", "한", "국"]


@given(texts)
def test_ascii_words_are_those_of_a_regex_and_equal_words_have_equal_hashes(texts):
    plain = [text.encode("ascii", "ignore").decode() for text in texts]
    words = Words.of(plain)
    expected = [re.findall("[a-z0-9]+", text.lower()) for text in plain]
    assert [spelled(words, number) for number in range(len(plain))] == expected
    flat = [word for words_of_text in expected for word in words_of_text]
    assert len(set(words.hashes.tolist())) == len({(word[:64], len(word)) for word in flat})


@given(texts)
def test_bytes_of_any_text_stay_in_their_places(texts):
    words = Words.of(texts)
    for number, text in enumerate(texts):
        span = slice(words.text_starts[number], words.text_starts[number + 1] - 1)
        assert len(words.data[span]) == len(text.encode())
        if len(text.lower().encode()) == len(text.encode()):
            assert bytes(words.data[span]).decode() == text.lower()
    assert (words.starts < words.ends).all()
    assert (words.ends[:-1] <= words.starts[1:]).all()


@given(texts, st.integers(1, 6))
def test_ngrams_are_equal_where_their_words_are_and_stay_in_a_text(texts, n):
    words = Words.of(texts)
    hashes, whole = next((hashes, whole) for size, hashes, whole in words.ngrams(n) if size == n)
    seen = {}
    count = 0
    for text in range(len(texts)):
        spelling = spelled(words, text)
        for place in range(len(spelling) - n + 1):
            at = words.first[text] + place
            assert whole[at]
            count += 1
            assert seen.setdefault(hashes[at], spelling[place : place + n]) == spelling[place : place + n]
    assert np.count_nonzero(whole) == count
    assert len(seen) == len({tuple(spelling) for spelling in seen.values()})


def test_a_word_has_the_same_hash_wherever_it_stands():
    word = "a" * 9 + "b" * 70
    hashes = Words.of([f"{word} x{word[:7]} {word}", f"{word}", f"... {word[:-1]}c"]).hashes
    assert hashes[0] == hashes[2] == hashes[3]
    assert hashes[1] != hashes[0]
    assert hashes[4] == hashes[0]  # 64 bytes and the length are looked at
