"""What a model must beat: a general compressor and a token trigram, on the very same held-out text.

Both are charged like the model: what ends a document costs bits (two newlines for xz, ``</s>`` for the trigram),
and all are divided by the bytes of the documents alone.
"""

import lzma
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumi.tokenizer import BOS_ID, EOS_ID

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def xz_bits_per_byte(documents: Sequence[bytes], text_bytes: int) -> float:
    """Compress documents, joined by an empty line, as ``xz -9`` does; return bits per byte of ``text_bytes``."""
    return 8 * len(lzma.compress(b"\n\n".join(documents), preset=9)) / text_bytes


@dataclass(frozen=True)
class _Order:
    """One order of the model: counts of n-grams, and of the contexts they begin with, as sorted arrays."""

    ngrams: Ints
    counts: Ints
    contexts: Ints
    totals: Ints  # per context
    types: Ints  # per context: different continuations
    discount: float

    @classmethod
    def of(cls, ngrams: Ints, counts: Ints, vocab_size: int) -> "_Order":
        """Group sorted n-grams by their context, which is all but the last token."""
        contexts, starts = np.unique(ngrams // vocab_size, return_index=True)
        totals = np.add.reduceat(counts, starts)
        types = np.diff(np.append(starts, len(ngrams)))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = min(max(once / max(once + 2 * twice, 1), 0.1), 0.9)
        return cls(ngrams, counts, contexts, totals, types, discount)

    def interpolate(self, ngrams: Ints, vocab_size: int, lower: Floats) -> Floats:
        """Return the probability of each n-gram's last token, given that of the order below."""
        counts = _look_up(self.ngrams, self.counts, ngrams)
        contexts = ngrams // vocab_size
        totals = _look_up(self.contexts, self.totals, contexts)
        types = _look_up(self.contexts, self.types, contexts)
        kept = np.maximum(counts - self.discount, 0.0)
        mixed: Floats = (kept + self.discount * types * lower) / np.maximum(totals, 1)
        return np.where(totals > 0, mixed, lower)


class TokenTrigram:
    """Interpolated Kneser-Ney trigram (Kneser and Ney 1995; Chen and Goodman 1999, one discount per order).

    Lower orders count in how many contexts a token was seen, not how often; below the unigram stands the
    uniform distribution, so nothing has probability zero. ``<s>`` is only ever context.

    Args:
        stream: training tokens, framed documents one after the other.
        vocab_size: number of tokens that share the probability.
    """

    def __init__(self, stream: NDArray[np.integer], vocab_size: int) -> None:
        self.vocab_size = vocab_size
        trigrams = self._trigrams(stream)
        ngrams, counts = np.unique(trigrams, return_counts=True)
        orders = [_Order.of(ngrams, counts, vocab_size)]
        for length in (2, 1):
            ngrams, counts = np.unique(ngrams % vocab_size**length, return_counts=True)
            orders.append(_Order.of(ngrams, counts, vocab_size))
        self._orders = orders[::-1]  # unigram first

    def probabilities(self, trigrams: Ints) -> Floats:
        """Return P(w | u, v) of trigrams given as (u V + v) V + w."""
        found: Floats = np.full(len(trigrams), 1.0 / self.vocab_size)
        for length, order in enumerate(self._orders, start=1):
            found = order.interpolate(trigrams % self.vocab_size**length, self.vocab_size, found)
        return found

    def nats(self, stream: NDArray[np.integer]) -> tuple[float, int]:
        """Return the summed loss of a stream's targets (all but ``<s>``), and their number."""
        trigrams = self._trigrams(stream)
        return float(-np.log(self.probabilities(trigrams)).sum()), len(trigrams)

    def _trigrams(self, stream: NDArray[np.integer]) -> Ints:
        # a document begins after the end of another; so does the first
        padded = np.concatenate([[EOS_ID], stream]).astype(np.int64)
        first, second, third = padded[:-2], padded[1:-1], padded[2:]
        keys: Ints = (first * self.vocab_size + second) * self.vocab_size + third
        scored: Ints = keys[third != BOS_ID]
        return scored


def trigram_nats(train: NDArray[np.integer], held_out: NDArray[np.integer], vocab_size: int) -> tuple[float, int]:
    """Train a trigram on one stream and score another; returns summed nats and the number of targets."""
    return TokenTrigram(train, vocab_size).nats(held_out)


def bits_per_byte(nats: float, text_bytes: int) -> float:
    return nats / math.log(2) / text_bytes


def _look_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """Return the value of each wanted key in sorted keys, 0 where it is not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
