import numpy as np
import pytest

from lumi.corpus.minhash import BANDS, ROWS, SHINGLE, bands_of, jaccard, shingle_sets
from lumi.corpus.words import Words


def text_of(numbers) -> str:
    return " ".join(f"w{number}" for number in numbers)


def test_shingle_sets_are_those_of_the_words():
    texts = [text_of([1, 2, 3, 4, 5, 6]), text_of([1, 2, 3, 4, 5]), text_of([7, 8]), "", text_of([1] * 9)]
    sets = shingle_sets(Words.of(texts))
    assert [len(one) for one in sets] == [2, 1, 1, 0, 1]
    assert sets[1][0] in sets[0]
    assert all((np.diff(one) > 0).all() for one in sets if len(one) > 1)


def test_jaccard_is_the_true_one():
    a, b = shingle_sets(Words.of([text_of(range(20)), text_of(range(4, 24))]))
    shingles = [{tuple(range(i, i + SHINGLE)) for i in range(start, start + 16)} for start in (0, 4)]
    assert jaccard(a, b) == len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
    assert jaccard(a, a) == 1
    assert jaccard(a, a[:0]) == 0


def test_bands_of_a_text_do_not_depend_on_its_company():
    texts = [text_of(range(40)), "", text_of(range(100, 103)), text_of(range(50))]
    together = bands_of(Words.of(texts))
    assert together.shape == (BANDS, 4)
    for number, text in enumerate(texts):
        assert (together[:, number] == bands_of(Words.of([text]))[:, 0]).all()
    assert (together[:, 1] == 0).all()
    assert (together[:, [0, 2, 3]] != 0).all()


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_texts_share_a_band_as_often_as_theory_says(similarity):
    rng = np.random.default_rng(1)
    texts, truth = [], []
    for pair in range(300):
        own = rng.integers(0, 1 << 30, 200)
        other = own.copy()
        kept = round(2 * similarity / (1 + similarity) * 196) + 4  # words of a common beginning
        other[kept:] = rng.integers(1 << 30, 1 << 31, 200 - kept)
        texts += [f"p{pair} " + text_of(own), f"p{pair} " + text_of(other)]
    words = Words.of(texts)
    sets = shingle_sets(words)
    truth = [jaccard(a, b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    bands = bands_of(words)
    shared = (bands[:, ::2] == bands[:, 1::2]).any(axis=0).mean()
    expected = np.mean([1 - (1 - j**ROWS) ** BANDS for j in truth])
    assert np.mean(truth) == pytest.approx(similarity, abs=0.02)
    assert shared == pytest.approx(expected, abs=0.09)  # three standard errors of 300 pairs at the most
