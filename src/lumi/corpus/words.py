"""Words of many texts at once, as numbers: what quality rules, decontamination and near-dedup all count.

    texts --> one run of bytes --> word starts and ends --> 64-bit hashes --> hashes of n words in a row

A word is a maximal run of letters and digits in lower case; a Chinese, Japanese or Korean
character is a word by itself. Everything is done on whole arrays: a text costs what its bytes cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WIDTH = 8  # bytes read at once
_LONGEST = 64  # bytes of a word that its hash sees; beyond them its length alone
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_WORD_BYTE = np.zeros(256, dtype=np.bool_)
_WORD_BYTE[list(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] = True
_WORD_BYTE[0x80:] = True
# The first bytes of punctuation beyond ASCII: U+0080..U+00BF, U+2000..U+207F, U+3000..U+303F.
_LATIN, _GENERAL, _IDEOGRAPHIC = 0xC2, 0xE2, 0xE3
_CJK = np.zeros(256, dtype=np.bool_)
_CJK[0xE3:0xEE] = True  # first bytes of U+3000..U+DFFF


@dataclass(frozen=True)
class Words:
    """The words of a sequence of texts, text after text.

    Attributes:
        texts: as they were given.
        data: the texts as UTF-8 in lower case, each followed by a newline.
        text_starts: where each text starts in ``data``, and the end; int64 [texts + 1].
        starts: where each word starts in ``data``; int64 [words].
        ends: where it ends.
        hashes: uint64 [words].
        first: number of the first word of each text, and of all words; int64 [texts + 1].
    """

    texts: Sequence[str]
    data: NDArray[np.uint8]
    text_starts: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Words":
        """Split texts (that UTF-8 can write) into words."""
        parts = [_lower(text) + b"\n" for text in texts]
        raw = b"".join(parts)
        data = np.frombuffer(raw, dtype=np.uint8)
        text_starts = np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64)))
        starts, ends = _bounds(data)
        first = np.searchsorted(starts, text_starts)
        return cls(texts, data, text_starts, starts, ends, _hashes(raw, starts, ends), first)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Words of each text, [texts]."""
        return np.diff(self.first)

    @property
    def text_of(self) -> NDArray[np.int64]:
        """Number of the text in which each word stands, [words]."""
        return np.repeat(np.arange(len(self.first) - 1), self.counts)

    def ngrams(self, longest: int) -> Iterator[tuple[int, NDArray[np.uint64], NDArray[np.bool_]]]:
        """Yield (n, hashes, whole) for n of 1 to ``longest``: the n words from each word on.

        ``whole`` says which of them lie inside one text; both are [words - n + 1].
        """
        hashes = self.hashes
        left = np.repeat(self.first[1:], self.counts) - np.arange(len(hashes))  # words to the end of the text
        for n in range(1, longest + 1):
            if n > 1:
                hashes = hashes[: max(len(self.hashes) - n + 1, 0)] * _FACTOR
                hashes += self.hashes[n - 1 :]
            yield n, hashes, left[: len(hashes)] >= n


def _lower(text: str) -> bytes:
    """Return UTF-8 in lower case, each character as many bytes as before: places must stay those of the text."""
    raw = text.encode()
    if text.isascii():
        return raw.lower()
    lower = text.lower().encode()
    if len(lower) == len(raw):
        return lower
    return b"".join([low if len(low := one.lower().encode()) == len(one.encode()) else one.encode() for one in text])


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return values in which each bit depends on all bits (the last steps of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bounds(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    inside = _WORD_BYTE[data]
    if (data >= 0x80).any():
        _leave_out_punctuation(data, inside)
    edges = inside[1:] != inside[:-1]
    at = np.flatnonzero(edges) + 1
    if len(inside) and inside[0]:
        at = np.concatenate(([0], at))
    starts, ends = at[::2], at[1::2]  # the last byte is a newline, so edges come in pairs
    single = np.flatnonzero(_CJK[data] & inside)
    if len(single):  # these begin and end a word, also inside a run
        cuts = np.union1d(single, single + 3)
        cuts = cuts[inside[cuts] & inside[cuts - 1] & (cuts > 0)]
        starts, ends = np.sort(np.concatenate((starts, cuts))), np.sort(np.concatenate((ends, cuts)))
    return starts, ends


def _leave_out_punctuation(data: NDArray[np.uint8], inside: NDArray[np.bool_]) -> None:
    latin = np.flatnonzero(data == _LATIN)
    for byte in range(2):
        inside[latin + byte] = False
    for lead, seconds in ((_GENERAL, (0x80, 0x81)), (_IDEOGRAPHIC, (0x80,))):
        places = np.flatnonzero(data == lead)
        places = places[np.isin(data[places + 1], seconds)]
        for byte in range(3):
            inside[places + byte] = False


def _hashes(raw: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash each word eight bytes at a time; only the longer ones are looked at again."""
    at_byte: NDArray[np.uint64] = np.ndarray((len(raw),), dtype="<u8", buffer=raw + bytes(_WIDTH), strides=(1,))
    lengths = ends - starts
    hashes = lengths.astype(np.uint64)
    chosen = np.arange(len(starts))
    for offset in range(0, _LONGEST, _WIDTH):
        if offset:
            chosen = chosen[lengths[chosen] > offset]
            if not len(chosen):
                break
        missing = np.maximum(offset + _WIDTH - lengths[chosen], 0).astype(np.uint64)
        # Bytes behind the word are shifted out; by 8 at most 7 times, as a chosen word has a byte here.
        value = at_byte[starts[chosen] + offset] << (missing * np.uint64(8))
        hashes[chosen] = mixed((hashes[chosen] ^ value) * _FACTOR + np.uint64(1))
    return hashes
