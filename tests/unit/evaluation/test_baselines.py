"""The trigram is a probability distribution and the one that its definition names; xz is xz."""

import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.evaluation.baselines import TokenTrigram, trigram_nats, xz_bits_per_byte
from lumi.tokenizer.ids import BOS_ID, EOS_ID

VOCAB = 12
DOCUMENTS = st.lists(st.lists(st.integers(6, VOCAB - 1), max_size=12), min_size=1, max_size=8)


def framed(documents):
    return np.array([t for doc in documents for t in (BOS_ID, *doc, EOS_ID)], dtype=np.uint16)


@settings(deadline=None)
@given(DOCUMENTS, st.integers(0, VOCAB - 1), st.integers(0, VOCAB - 1))
def test_probabilities_of_any_context_sum_to_one(documents, first, second):
    model = TokenTrigram(framed(documents), VOCAB)
    found = model.probabilities((first * VOCAB + second) * VOCAB + np.arange(VOCAB))
    assert found.min() > 0
    assert math.isclose(found.sum(), 1.0, rel_tol=1e-12)


def naive(stream, vocab_size):
    """Interpolated Kneser-Ney as the formula stands, with dictionaries."""
    padded = [EOS_ID, *stream.tolist()]
    three = Counter(t for t in zip(padded, padded[1:], padded[2:], strict=False) if t[2] != BOS_ID)
    two = Counter(t[1:] for t in three)
    one = Counter(t[1:] for t in two)

    def order(counts):
        by_context = defaultdict(list)
        for gram, count in counts.items():
            by_context[gram[:-1]].append(count)
        values = list(counts.values())
        once, twice = values.count(1), values.count(2)
        return counts, by_context, min(max(once / max(once + 2 * twice, 1), 0.1), 0.9)

    orders = [order(one), order(two), order(three)]

    def probability(gram):
        p = 1 / vocab_size
        for length, (counts, by_context, discount) in enumerate(orders, start=1):
            part = gram[-length:]
            seen = by_context.get(part[:-1])
            if seen:
                p = (max(counts.get(part, 0) - discount, 0) + discount * len(seen) * p) / sum(seen)
        return p

    return probability


@settings(deadline=None)
@given(DOCUMENTS, DOCUMENTS)
def test_equals_the_formula(train, held_out):
    train, held_out = framed(train), framed(held_out)
    probability = naive(train, VOCAB)
    padded = [EOS_ID, *held_out.tolist()]
    expected = [-math.log(probability(t)) for t in zip(padded, padded[1:], padded[2:], strict=False) if t[2] != BOS_ID]
    nats, targets = trigram_nats(train, held_out, VOCAB)
    assert targets == len(expected)
    assert math.isclose(nats, sum(expected), rel_tol=1e-9)


def test_learns_what_follows_what():
    train = framed([[7, 8, 9] * 30])
    nats, targets = trigram_nats(train, framed([[7, 8, 9] * 5]), VOCAB)
    assert nats / targets < 0.5 < math.log(VOCAB)


def test_xz_is_charged_per_byte_of_text():
    documents = [b"one text " * 50, b"another text " * 50]
    size = sum(map(len, documents))
    assert xz_bits_per_byte(documents, size) == 8 * len(lzma.compress(b"\n\n".join(documents), preset=9)) / size
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    assert xz_bits_per_byte([noise], len(noise)) == pytest.approx(8, abs=0.05)
