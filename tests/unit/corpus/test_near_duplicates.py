import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.corpus.minhash import BANDS, bands_of, jaccard, shingle_sets, sketches_of
from lumi.corpus.near_duplicates import candidates, near_duplicates
from lumi.corpus.words import Words

bands = st.lists(st.lists(st.integers(0, 3), min_size=BANDS, max_size=BANDS), min_size=1, max_size=12)


@settings(deadline=None)
@given(bands, st.data(), st.integers(1, 20))
def test_candidates_are_the_texts_that_share_a_band_however_they_lie_on_disk(rows, data, budget):
    keys = np.array(rows, dtype=np.uint64).T
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    found = candidates([keys[:, :cut], keys[:, cut:]], chosen, budget)
    together = {}
    for text, bucket in zip(found.texts.tolist(), found.buckets.tolist(), strict=True):
        together.setdefault(bucket, set()).add(text)
    expected = []
    for band in range(BANDS):
        for value in range(1, 4):
            members = {text for text in range(len(rows)) if chosen[text] and keys[band, text] == value}
            if len(members) > 1:
                expected.append(members)
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, expected))
    assert (np.diff(found.texts) >= 0).all()


def decide(texts: list[str], threshold: float = 0.8, order=None):
    words = Words.of(texts)
    sets = shingle_sets(words)
    found = candidates([bands_of(words)], np.ones(len(texts), dtype=bool))
    asked = [text for text in (order or range(len(texts))) if text in set(found.distinct.tolist())]
    return near_duplicates(found, np.array(asked, dtype=np.int64), Shingles(sets, sketches_of(words)), threshold)


class Shingles:
    def __init__(self, sets, sketches):
        self.of, self._sketches = sets.__getitem__, sketches

    def sketches(self, texts):
        return self._sketches[list(texts)]


def long_text(seed: int, changes: int = 0) -> str:
    words = [f"w{n}" for n in np.random.default_rng(seed).integers(0, 1 << 30, 400)]
    for place in range(changes):
        words[place] = f"x{seed}-{place}"
    return " ".join(words)


def test_a_near_duplicate_of_an_earlier_text_goes_and_others_stay():
    clusters = decide([long_text(1), long_text(2), long_text(1, changes=8), long_text(1, changes=200), "", ""])
    (duplicate,) = clusters.duplicates
    assert (duplicate.text, duplicate.kept) == (2, 0)
    sets = shingle_sets(Words.of([long_text(1), long_text(1, changes=8)]))
    assert duplicate.jaccard == jaccard(*sets) > 0.9
    assert clusters.sizes == {2: 1}


def test_a_chain_removes_nothing_that_is_unlike_all_that_stay():
    # each is like its neighbour (J = 0.86), none like the one after that (J = 0.74)
    chain = [long_text(1, changes=changes) for changes in (0, 30, 60, 90)]
    sets = shingle_sets(Words.of(chain))
    assert jaccard(sets[0], sets[1]) > 0.8 > jaccard(sets[0], sets[2])
    clusters = decide(chain)
    assert [(duplicate.text, duplicate.kept) for duplicate in clusters.duplicates] == [(1, 0), (3, 2)]


def test_the_order_that_is_asked_in_decides_who_stays():
    texts = [long_text(1), long_text(1, changes=5)]
    assert decide(texts, order=[1, 0]).duplicates[0].text == 0


def test_the_threshold_is_reached_not_passed():
    texts = [long_text(1), long_text(1, changes=39)]
    exact = jaccard(*shingle_sets(Words.of(texts)))
    assert len(decide(texts, exact).duplicates) == 1
    assert decide(texts, np.nextafter(exact, 1)).duplicates == []


def test_among_many_of_one_template_those_alike_are_found_and_few_pairs_are_verified():
    rng = np.random.default_rng(4)
    template = [f"w{n}" for n in rng.integers(0, 1 << 30, 300)]

    def filled():  # two texts share 0.5 of their shingles
        words = list(template)
        words[:45] = [f"x{n}" for n in rng.integers(0, 1 << 30, 45)]
        words[200:230] = [f"x{n}" for n in rng.integers(0, 1 << 30, 30)]
        return " ".join(words)

    texts = [filled() for _ in range(150)]
    twins = {150 + n: 10 * n for n in range(10)}
    texts += [f"{texts[of]} and a little more" for of in twins.values()]
    clusters = decide(texts)
    assert {duplicate.text: duplicate.kept for duplicate in clusters.duplicates} == twins
    assert clusters.verified < 0.02 * 150 * 149 / 2
