"""Exact duplicates: only the first of each digest stays, in whatever pieces they are sorted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lumi.corpus.exact_duplicates import first_of_each

# few values, so that both halves of a digest repeat apart from each other
DIGESTS = st.lists(st.tuples(st.integers(0, 5), st.integers(2**64 - 3, 2**64 - 1)), max_size=40)


@given(st.lists(DIGESTS, max_size=4), st.integers(1, 50))
def test_the_first_of_each_stays(parts, budget):
    seen: set[tuple[int, int]] = set()
    expected = [not (digest in seen or seen.add(digest)) for part in parts for digest in part]
    arrays = [np.array(part, dtype=np.uint64).reshape(-1, 2) for part in parts]
    assert first_of_each(arrays, budget).tolist() == expected
