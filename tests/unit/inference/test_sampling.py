"""Sampling is a pure function: logits, settings and one number per row in, a token out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lumi.inference import GenerationConfig
from lumi.inference.sampling import PROMPTED, Sampling, adjust, probabilities, sample
from lumi.inference.stepper import draws

LOGITS = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 30)), elements=st.floats(-20, 20, width=32))
PLAIN = {"temperature": 1.0, "top_p": 1.0}


def same(rows, **values):
    return Sampling.of([GenerationConfig(**{**PLAIN, **values})] * rows)


@settings(deadline=None)
@given(LOGITS, st.floats(0.1, 5), st.one_of(st.none(), st.integers(1, 40)), st.floats(0.01, 1))
def test_a_distribution_over_the_tokens_that_are_kept(values, temperature, top_k, top_p):
    logits = torch.from_numpy(values)
    found = probabilities(logits, same(len(values), temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(found.sum(-1), torch.ones(len(values)))
    assert (found >= 0).all()
    plain = (logits / temperature).softmax(-1)
    assert torch.equal(torch.where(found > 0, plain, 0).amax(-1), plain.amax(-1))  # the most likely token stays
    for row in range(len(values)):
        kept = found[row] > 0
        assert plain[row][kept].min() >= plain[row][~kept].max() - 1e-6 if (~kept).any() else True
        if top_k is not None:
            below = logits[row] - logits[row].max()  # as it is computed: what rounding makes equal goes together
            threshold = below.sort(descending=True).values[min(top_k, logits.shape[1]) - 1]
            assert (below[kept] >= threshold).all()


@settings(deadline=None)
@given(LOGITS, st.floats(0.05, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(values, top_p):
    logits = torch.from_numpy(values)
    plain = logits.softmax(-1)
    kept = probabilities(logits, same(len(values), top_p=top_p)) > 0
    for row in range(len(values)):
        mass = plain[row][kept[row]]
        assert mass.sum() >= top_p - 1e-4
        assert mass[mass > mass.min() * (1 + 1e-5)].sum() < top_p + 1e-4  # equally likely ones stay together


@settings(deadline=None)
@given(LOGITS)
def test_temperature_zero_is_the_most_likely_token(values):
    logits = torch.from_numpy(values)
    assert torch.equal(
        sample(logits, torch.rand(len(values)).double(), same(len(values), temperature=0.0)), logits.argmax(-1)
    )


@settings(deadline=None)
@given(LOGITS, st.floats(0, 1, exclude_max=True), st.integers(1, 5), st.floats(0.1, 1))
def test_never_draws_a_token_that_was_cut(values, uniform, top_k, top_p):
    logits = torch.from_numpy(values)
    rows = same(len(values), top_k=top_k, top_p=top_p)
    found = probabilities(logits, rows)
    drawn = sample(logits, torch.full((len(values),), uniform, dtype=torch.float64), rows)
    assert (found.gather(1, drawn.unsqueeze(1)) > 0).all()


def test_frequencies_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -50.0, 0.5]])
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = sample(logits.expand(100_000, -1), uniforms, same(100_000))
    frequency = torch.bincount(drawn, minlength=5) / 100_000
    torch.testing.assert_close(frequency, logits.softmax(-1)[0], atol=2e-5, rtol=0)


def test_a_number_rounded_up_to_one_still_draws_a_real_token():
    logits = torch.tensor([[0.0, 0.0, -float("inf")]])
    assert sample(logits, torch.tensor([1.0], dtype=torch.float64), same(1)).item() == 1


def test_penalties_and_bias_as_their_formulas_say():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0, 1.0]])
    counts = torch.tensor([[PROMPTED, PROMPTED + 2, 3, 0, 0]], dtype=torch.int16)
    rows = same(1, repetition_penalty=2.0)
    assert adjust(logits, counts, None, rows).tolist() == [[1.0, -4.0, 1.0, -2.0, 1.0]]
    rows = same(1, presence_penalty=0.5, frequency_penalty=0.25)
    assert adjust(logits, counts, None, rows).tolist() == [[2.0, -3.0, 0.75, -2.0, 1.0]]
    bias = torch.tensor([[0.0, 0.0, 0.0, 5.0, -1.0]])
    assert adjust(logits, counts, bias, same(1)).tolist() == [[2.0, -2.0, 2.0, 3.0, 0.0]]


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_of_clear_logits(top_k):
    logits = torch.tensor([[5.0, 1.0, 3.0, 2.0, 4.0]])
    assert (probabilities(logits, same(1, top_k=top_k)) > 0).sum() == top_k


def test_min_p_is_a_share_of_the_most_likely_one():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert (probabilities(logits, same(1, min_p=0.31)) > 0).tolist() == [[True, True, False, False]]
    assert (probabilities(logits, same(1, min_p=0.29)) > 0).tolist() == [[True, True, True, False]]


def test_each_row_has_settings_of_its_own():
    """A wide vocabulary, so that the cut among a few and the cut among all are both taken."""
    torch.manual_seed(0)
    logits = torch.randn(6, 2000) * torch.tensor([[0.1], [4.0], [4.0], [1.0], [3.0], [4.0]])
    kinds = [
        {"top_p": 0.9}, {"top_p": 0.5}, {"temperature": 0.0}, {"top_k": 7}, {"temperature": 2.0, "min_p": 0.1}, {},
    ]  # fmt: skip
    config = [GenerationConfig(**{**PLAIN, **kind}) for kind in kinds]
    uniforms = torch.rand(6, dtype=torch.float64)
    together = sample(logits, uniforms, Sampling.of(config))
    for row, one in enumerate(config):
        here = slice(row, row + 1)
        assert sample(logits[here], uniforms[here], Sampling.of([one])).item() == together[row]
        if one.temperature:
            chance = probabilities(logits[here], Sampling.of([one]))
            plain = (logits[here] / one.temperature).softmax(-1)
            assert chance.sum() == pytest.approx(1.0)
            if one.top_p < 1:
                order = plain[0].sort(descending=True).values
                wanted = int((order.cumsum(0) < one.top_p).sum()) + 1
                assert abs(int((chance > 0).sum()) - wanted) <= 1


def test_draws_are_named_by_seed_and_place():
    assert draws(3, 5).tolist() == draws(3, 50)[:5].tolist()
    assert draws(3, 5).tolist() != draws(4, 5).tolist()


def test_a_temperature_next_to_zero_is_the_most_likely_token():
    logits = torch.tensor([[3.0, 88.0, 7.0]])
    chance = probabilities(logits, same(1, temperature=1e-40))
    assert chance.tolist() == [[0.0, 1.0, 0.0]]
