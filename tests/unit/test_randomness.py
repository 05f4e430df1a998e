"""Keyed generators: the same purpose gives the same stream, another purpose another one, on every machine."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lumi.randomness import generator, seed_global_generators, torch_generator, unit_interval

part = st.one_of(st.integers(-(2**40), 2**40), st.text("abcdefgh0123456789-_.", max_size=8))
purposes = st.lists(part, max_size=3).map(tuple)
seeds = st.integers(0, 2**63)


@given(seed=seeds, purpose=purposes)
def test_a_purpose_names_its_stream(seed, purpose):
    first, again = (generator(seed, *purpose).integers(0, 2**63, 4).tolist() for _ in range(2))
    assert first == again
    made = [torch.rand(4, generator=torch_generator(seed, *purpose)) for _ in range(2)]
    assert torch.equal(*made)


@given(one=st.tuples(seeds, purposes), other=st.tuples(seeds, purposes))
def test_two_purposes_share_no_stream(one, other):
    def streams(named):
        seed, purpose = named
        return (
            generator(seed, *purpose).integers(0, 2**63, 4).tolist(),
            torch_generator(seed, *purpose).initial_seed(),
            unit_interval(seed, repr(purpose), b"text"),
        )

    for left, right in zip(streams(one), streams(other), strict=True):
        assert (left == right) == (one == other)


def test_a_number_is_not_its_text():
    assert generator(0, "rows", 1).integers(2**63) != generator(0, "rows", "1").integers(2**63)


def test_streams_are_those_of_every_earlier_release():
    """A stored value: a change here moves every split, shuffle and initial weight that users already have."""
    assert generator(1, "rows", "wiki", 0).permutation(8).tolist() == [5, 2, 6, 0, 1, 7, 4, 3]
    assert unit_interval(0, "split", b"a document") == 0.513682293423831


def test_the_place_of_a_content_is_even_and_its_own():
    places = [unit_interval(3, "split", str(number).encode()) for number in range(4000)]
    assert all(0 <= place < 1 for place in places)
    held_out = sum(place < 0.1 for place in places) / len(places)
    assert abs(held_out - 0.1) < 0.02
    # A new document in front moves none: a place depends on seed, purpose and content alone.
    assert [unit_interval(3, "split", str(number).encode()) for number in reversed(range(4000))] == places[::-1]


def test_global_generators_differ_by_rank_and_repeat():
    def draws(seed, rank):
        seed_global_generators(seed, rank)
        return random.random(), float(np.random.random()), float(torch.rand(()))

    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        assert draws(5, 0) == draws(5, 0)
        assert not set(draws(5, 0)) & set(draws(5, 1))
        assert not set(draws(5, 0)) & set(draws(6, 0))
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
