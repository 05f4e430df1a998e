"""Sampling is a pure function: logits and one number per row in, a token out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lumi.inference import probabilities, sample
from lumi.inference.sampling import penalize_repetition

LOGITS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.floats(-20, 20, width=32))


@settings(deadline=None)
@given(LOGITS, st.floats(0.1, 5), st.one_of(st.none(), st.integers(1, 40)), st.floats(0.01, 1))
def test_a_distribution_over_the_tokens_that_are_kept(values, temperature, top_k, top_p):
    logits = torch.from_numpy(values)
    found = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(values)))
    assert (found >= 0).all()
    plain = (logits / temperature).softmax(-1)
    assert torch.equal(torch.where(found > 0, plain, 0).amax(-1), plain.amax(-1))  # the most likely token stays
    for row in range(len(values)):
        kept = found[row] > 0
        assert plain[row][kept].min() >= plain[row][~kept].max() - 1e-6 if (~kept).any() else True
        if top_k is not None:
            threshold = logits[row].sort(descending=True).values[min(top_k, logits.shape[1]) - 1]
            assert (logits[row][kept] >= threshold).all()


@settings(deadline=None)
@given(LOGITS, st.floats(0.05, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(values, top_p):
    logits = torch.from_numpy(values)
    plain = logits.softmax(-1)
    kept = probabilities(logits, top_p=top_p) > 0
    for row in range(len(values)):
        mass = plain[row][kept[row]]
        assert mass.sum() >= top_p - 1e-4
        assert mass.sum() - mass.min() < top_p + 1e-4


@settings(deadline=None)
@given(LOGITS)
def test_temperature_zero_is_the_most_likely_token(values):
    logits = torch.from_numpy(values)
    assert torch.equal(sample(logits, torch.rand(len(values)).double(), temperature=0.0), logits.argmax(-1))


@settings(deadline=None)
@given(LOGITS, st.floats(0, 1, exclude_max=True), st.integers(1, 5), st.floats(0.1, 1))
def test_never_draws_a_token_that_was_cut(values, uniform, top_k, top_p):
    logits = torch.from_numpy(values)
    found = probabilities(logits, top_k=top_k, top_p=top_p)
    drawn = sample(logits, torch.full((len(values),), uniform, dtype=torch.float64), top_k=top_k, top_p=top_p)
    assert (found.gather(1, drawn.unsqueeze(1)) > 0).all()


def test_frequencies_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -50.0, 0.5]])
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = sample(logits.expand(100_000, -1), uniforms)
    frequency = torch.bincount(drawn, minlength=5) / 100_000
    torch.testing.assert_close(frequency, logits.softmax(-1)[0], atol=2e-5, rtol=0)


def test_a_number_rounded_up_to_one_still_draws_a_real_token():
    logits = torch.tensor([[0.0, 0.0, -float("inf")]])
    assert sample(logits, torch.tensor([1.0], dtype=torch.float64)).item() == 1


def test_repetition_penalty_lowers_what_was_seen_and_nothing_else():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalize_repetition(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    assert penalize_repetition(logits, seen, 1.0) is logits


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_of_clear_logits(top_k):
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0, 4.0]])
    assert (probabilities(logits, top_k=top_k) > 0).sum() == top_k
