"""The corpus benchmark's truth is checked by other means: a benchmark that is wrong proves nothing."""

import random
from itertools import combinations

import pytest
from benchmarks.corpus_duplicates import (
    BELOW,
    KINDS,
    TOLERATED,
    TRUE,
    Truth,
    jaccard,
    numbered,
    passages,
    plant,
    shingles_of,
    similar_pairs,
    words_of,
)
from hypothesis import given
from hypothesis import strategies as st

THRESHOLDS = st.sampled_from([0.3, 0.5, 0.7, 0.8, 0.95, 1.0])


def text_of(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.choice('abcdefgh')}{rng.randrange(500)}{rng.choice(['', ',', '.'])}" for _ in range(words))


def test_words_are_runs_of_letters_and_digits_in_lower_case():
    assert words_of("It's 3.5 caf\u00e9s_A-B\n") == ["it", "s", "3", "5", "caf\u00e9s", "a", "b"]


def test_shingles_are_five_words_and_a_short_text_is_one():
    assert shingles_of("A b, c d e f") == ["a b c d e", "b c d e f"]
    assert shingles_of("A b") == ["a b"]
    assert shingles_of("...") == []


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_jaccard_is_shared_over_all(a, b):
    assert jaccard(a, b) == (len(a & b) / len(a | b) if a | b else 0)


@given(st.lists(st.frozensets(st.integers(0, 12), max_size=12), max_size=12), THRESHOLDS)
def test_every_similar_pair_is_found(sets, threshold):
    expected = {
        (a, b): jaccard(sets[a], sets[b])
        for a, b in combinations(range(len(sets)), 2)
        if jaccard(sets[a], sets[b]) >= threshold
    }
    assert similar_pairs(sets, threshold) == expected


def test_passages_have_the_wanted_length_and_stand_in_their_text():
    texts = [text_of(seed, words) for seed, words in enumerate([10, 50, 99, 100, 5000])]
    found = list(passages(iter(texts), 50, 99, random.Random(0)))
    assert [50 <= len(words_of(passage)) <= 99 for passage in found] == [True] * 4
    assert found[:2] == texts[1:3]
    assert found[3] in texts[4] or found[3] in texts[3]


@pytest.fixture(scope="module")
def documents():
    return plant([text_of(seed, 400 + 10 * seed) for seed in range(48)], seed=3)


@pytest.fixture(scope="module")
def truth(documents):
    return Truth.of(documents)


def test_copies_are_as_similar_as_their_kind_says(documents, truth):
    lowest = {"exact": 1.0, "blanks and case": 1.0, "block of 5 %": 0.86, "scattered 1 %": 0.86, "J 0.80-0.85": 0.77}
    seen = set()
    for (a, b), similarity in truth.planted.items():
        kind = truth.kinds[a, b]
        if "" not in (documents[a].kind, documents[b].kind):
            continue  # two copies of one passage, which differ twice
        seen.add(kind)
        if kind == BELOW:
            assert 0.25 <= similarity <= 0.71
        else:
            assert lowest[kind] <= similarity <= (1 if lowest[kind] == 1 else 0.95)
    assert seen == set(KINDS)


def test_truth_is_exact(documents, truth):
    sets = [frozenset(shingles_of(document.text)) for document in documents]
    every = {(a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in combinations(range(len(sets)), 2)}
    assert truth.similar == {pair: similarity for pair, similarity in every.items() if similarity >= TOLERATED}
    same = {pair for pair in every if documents[pair[0]].base == documents[pair[1]].base}
    assert truth.planted == {pair: every[pair] for pair in same}
    assert numbered(["a b", "a b"])[0] == numbered(["a b", "a b"])[1]


def test_the_same_seed_plants_the_same(documents):
    bases = [text_of(seed, 400 + 10 * seed) for seed in range(48)]
    assert plant(bases, seed=3) == documents
    assert plant(bases, seed=4) != documents


def test_keeping_everything_has_no_recall(documents, truth):
    score = truth.score(set(range(len(documents))), len(documents))
    assert (score.recall, score.precision, score.spared, score.removed) == (0, 1, 1, 0)
    assert set(score.by_kind.values()) == {0}


def test_the_right_removals_score_full(documents, truth):
    kept: set[int] = set()
    for number in range(len(documents)):
        if not any(truth.similar.get((other, number), 0) >= TRUE for other in kept):
            kept.add(number)
    score = truth.score(kept, len(documents))
    assert (score.recall, score.precision, score.covered, score.spared) == (1, 1, 1, 1)
    assert set(score.by_kind.values()) == {1}


def test_a_removal_without_reason_costs_precision(documents, truth):
    lonely = next(document.number for document in documents if document.kind == BELOW)
    pair = next(pair for pair, similarity in truth.similar.items() if similarity >= TRUE)
    everything = set(range(len(documents)))
    assert truth.score(everything - {lonely}, len(documents)).precision == 0
    assert truth.score(everything - {lonely, pair[1]}, len(documents)).precision == 0.5
    assert truth.score(everything - {lonely}, len(documents)).spared < 1


def test_removing_all_of_a_cluster_leaves_none_covered(documents, truth):
    base = next(document.base for document in documents if document.kind == "exact")
    cluster = {document.number for document in documents if document.base == base}
    score = truth.score(set(range(len(documents))) - cluster, len(documents))
    assert (score.precision, score.covered) == (1, 0)
