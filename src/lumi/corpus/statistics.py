"""What the quality rules look at: numbers about each text, worked out for many texts at once.

The definitions follow Gopher (Rae et al. 2021, arXiv:2112.11446, table A1), C4 (Raffel et al. 2019,
arXiv:1910.10683, section 2.2) and FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6). Where a paper
leaves the counting open: a *token* is a run of characters without blanks; repeated n-grams are counted over the
words of `Words`, by their characters; lines and paragraphs without a word do not count; the first occurrence of
something repeated is not a repetition.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lumi.corpus.words import Words, mixed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BLANK = np.zeros(256, dtype=np.bool_)
_BLANK[list(b" \t\n")] = True
_LETTER = np.zeros(256, dtype=np.bool_)
_LETTER[list(b"abcdefghijklmnopqrstuvwxyz")] = True
_LETTER[0xC3:] = True  # beyond ASCII nearly all are letters; typographic signs (0xC2, 0xE2) are not
_LETTER[0xE2] = False
_TERMINAL = np.zeros(256, dtype=np.bool_)
_TERMINAL[list(b".!?\"'")] = True
_SENTENCE_END = np.zeros(256, dtype=np.bool_)
_SENTENCE_END[list(b".!?")] = True
_SHORT_LINE = 30  # characters; FineWeb


@dataclass(frozen=True)
class Statistics:
    """Numbers about texts; each field is one array [texts]. Shares are between 0 and 1."""

    tokens: Floats
    mean_token_length: Floats  # characters
    symbols_per_token: Floats  # '#' and ellipses
    alphabetic_tokens: Floats  # share with at least one letter
    stop_words: Floats  # how many of the eight English ones occur
    sentences: Floats
    curly_brackets: Floats  # how many open
    lorem_ipsums: Floats  # how often the two words stand together
    bullet_lines: Floats  # share of lines
    ellipsis_lines: Floats
    punctuated_lines: Floats  # share that end with a terminal punctuation mark
    short_lines: Floats
    duplicate_lines: Floats
    duplicate_line_characters: Floats  # share of the text's characters in lines that stood before
    duplicate_paragraphs: Floats
    duplicate_paragraph_characters: Floats
    top_2_gram: Floats  # share of the characters of words that the commonest 2-gram covers, where it repeats
    top_3_gram: Floats
    top_4_gram: Floats
    duplicate_5_gram: Floats  # share of the characters of words in 5-grams that stood before
    duplicate_6_gram: Floats
    duplicate_7_gram: Floats
    duplicate_8_gram: Floats
    duplicate_9_gram: Floats
    duplicate_10_gram: Floats

    def of(self, text: int) -> dict[str, float]:
        """Return the numbers of one text by name."""
        return {field.name: float(getattr(self, field.name)[text]) for field in fields(self)}


def statistics_of(words: Words) -> Statistics:
    """Work out the statistics of the texts that were split into words."""
    length = _Lengths(words)
    return Statistics(
        **_tokens(words, length),
        stop_words=_stop_words(words),
        lorem_ipsums=_lorem_ipsums(words),
        **_lines(words, length),
        **_paragraphs(words, length),
        **_repetition(words, length),
    )


class _Lengths:
    """Characters between places in the bytes, and counts of places text by text."""

    def __init__(self, words: Words) -> None:
        self.words = words
        following = (words.data & 0xC0) == 0x80  # bytes that do not begin a character
        self._before = np.concatenate(([0], np.cumsum(following))) if following.any() else None

    def between(self, starts: Ints, ends: Ints) -> Ints:
        """Return how many characters there are from each start to its end."""
        return ends - starts if self._before is None else ends - starts - (self._before[ends] - self._before[starts])

    def by_text(self, places: Ints, weights: NDArray[np.generic] | None = None) -> Floats:
        """Count ascending places in the data, or sum their weights, per text."""
        at = np.searchsorted(places, self.words.text_starts)
        if weights is None:
            return np.diff(at).astype(np.float64)
        sums = np.concatenate(([0.0], np.cumsum(weights, dtype=np.float64)))
        return np.diff(sums[at])


def _share(part: Floats, whole: Floats) -> Floats:
    return part / np.maximum(whole, 1)


def _runs(inside: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return starts and ends of runs of True; the last byte of the data never is."""
    at = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    if len(inside) and inside[0]:
        at = np.concatenate(([0], at))
    return at[::2], at[1::2]


def _tokens(words: Words, length: _Lengths) -> dict[str, Floats]:
    data = words.data
    starts, ends = _runs(~_BLANK[data])
    count = length.by_text(starts)
    letters = np.concatenate(([0], np.cumsum(_LETTER[data], dtype=np.int32)))
    hashes = np.flatnonzero(data == ord("#"))
    ellipses = _ellipses(data)
    sentence_ends = ends[_SENTENCE_END[data[ends - 1]]] - 1
    return {
        "tokens": count,
        "mean_token_length": _share(length.by_text(starts, length.between(starts, ends)), count),
        "symbols_per_token": _share(length.by_text(hashes) + length.by_text(ellipses), count),
        "alphabetic_tokens": _share(length.by_text(starts, letters[ends] > letters[starts]), count),
        "sentences": length.by_text(sentence_ends),
        "curly_brackets": length.by_text(np.flatnonzero(data == ord("{"))),
    }


def _ellipses(data: NDArray[np.uint8]) -> Ints:
    """Return where an ellipsis begins: three dots (of more dots, the first three), or U+2026."""
    dots = np.flatnonzero(data == ord("."))
    three = dots[:-2][(dots[2:] - dots[:-2]) == 2]
    three = three[(three == 0) | (data[three - 1] != ord("."))]
    signs = np.flatnonzero(data[:-2] == 0xE2)
    signs = signs[(data[signs + 1] == 0x80) & (data[signs + 2] == 0xA6)]
    return np.sort(np.concatenate((three, signs))) if len(signs) else three


def _stop_words(words: Words) -> Floats:
    found = np.zeros(len(words.counts), dtype=np.float64)
    for number in Words.of([" ".join(STOP_WORDS)]).hashes:
        places = np.flatnonzero(words.hashes == number)
        found += np.diff(np.searchsorted(places, words.first)) > 0
    return found


def _lorem_ipsums(words: Words) -> Floats:
    lorem, ipsum = Words.of(["lorem ipsum"]).hashes
    places = np.flatnonzero((words.hashes[:-1] == lorem) & (words.hashes[1:] == ipsum))
    return np.diff(np.searchsorted(places, words.first)).astype(np.float64)


def _pieces(words: Words, ends: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Return start, end, first word and last word + 1 of the stretches that end at ``ends``, if they have a word."""
    starts = np.concatenate(([0], ends[:-1] + 1))
    first = np.searchsorted(words.starts, starts)
    last = np.concatenate((first[1:], [len(words.starts)]))
    chosen = last > first
    return starts[chosen], ends[chosen], first[chosen], last[chosen]


def _repeated(words: Words, starts: Ints, first: Ints, last: Ints) -> NDArray[np.bool_]:
    """Return which stretches have the words of an earlier one of the same text."""
    if not len(first):
        return np.zeros(0, dtype=np.bool_)
    # stretches with a word follow one another, so the words from the first on are all of theirs
    inner = np.arange(first[0], last[-1]) - np.repeat(first, last - first)  # number of a word in its stretch
    weight = mixed(inner.astype(np.uint64)) | np.uint64(1)
    sums = np.add.reduceat(words.hashes[first[0] : last[-1]] * weight, first - first[0])
    text = np.searchsorted(words.text_starts, starts, side="right") - 1
    key = mixed(mixed(sums) + text.astype(np.uint64))
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), dtype=np.bool_)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return again


def _lines(words: Words, length: _Lengths) -> dict[str, Floats]:
    data = words.data
    starts, ends, first, last = _pieces(words, np.flatnonzero(data == ord("\n")))
    size = length.between(starts, ends)
    count = length.by_text(starts)
    again = _repeated(words, starts, first, last)
    characters = length.between(words.text_starts[:-1], words.text_starts[1:]).astype(np.float64)
    second, third = data[np.maximum(ends - 2, 0)], data[np.maximum(ends - 3, 0)]
    final = data[ends - 1]
    sign = (third == 0xE2) & (second == 0x80)  # General Punctuation
    curly = sign & ((final == 0x9D) | (final == 0x99))  # U+201D, U+2019
    ellipsis = (sign & (final == 0xA6)) | ((final == ord(".")) & (second == ord(".")) & (third == ord(".")))
    return {
        "bullet_lines": _share(length.by_text(starts, _bullets(data, starts)), count),
        "ellipsis_lines": _share(length.by_text(starts, ellipsis & (size >= 1)), count),
        "punctuated_lines": _share(length.by_text(starts, _TERMINAL[final] | curly | ellipsis), count),
        "short_lines": _share(length.by_text(starts, size <= _SHORT_LINE), count),
        "duplicate_lines": _share(length.by_text(starts, again), count),
        "duplicate_line_characters": _share(length.by_text(starts, size * again), characters),
    }


def _bullets(data: NDArray[np.uint8], starts: Ints) -> NDArray[np.bool_]:
    """Return which lines begin, after blanks, with a bullet: - * or U+2022, U+2023, U+25AA.., U+25CF, U+25E6 ..."""
    at = starts.copy()
    for _ in range(16):  # deeper indentation is code, not a list
        blank = (data[at] == 0x20) | (data[at] == 0x09)
        if not blank.any():
            break
        at += blank
    end = len(data) - 1
    sign, second, third = data[at], data[np.minimum(at + 1, end)], data[np.minimum(at + 2, end)]
    plain = ((sign == ord("-")) | (sign == ord("*"))) & ((second == 0x20) | (second == 0x09))
    round_ = (second == 0x80) & ((third == 0xA2) | (third == 0xA3))
    geometric = (second == 0x96) | (second == 0x97)  # U+2580..U+25FF
    found: NDArray[np.bool_] = plain | ((sign == 0xE2) & (round_ | geometric))
    return found


def _paragraphs(words: Words, length: _Lengths) -> dict[str, Floats]:
    data = words.data
    newline = data == ord("\n")
    ends = np.flatnonzero(newline[:-1] & newline[1:])
    starts, ends, first, last = _pieces(words, np.union1d(ends, words.text_starts[1:] - 1))
    starts = starts + newline[starts]  # the second of two newlines
    count = length.by_text(starts)
    again = _repeated(words, starts, first, last)
    characters = length.between(words.text_starts[:-1], words.text_starts[1:]).astype(np.float64)
    return {
        "duplicate_paragraphs": _share(length.by_text(starts, again), count),
        "duplicate_paragraph_characters": _share(
            length.by_text(starts, length.between(starts, ends) * again), characters
        ),
    }


def _repetition(words: Words, length: _Lengths) -> dict[str, Floats]:
    size = length.between(words.starts, words.ends)
    up_to = np.concatenate(([0], np.cumsum(size)))  # characters of all words before
    total = np.diff(up_to[words.first]).astype(np.float64)
    salt = np.repeat(mixed(np.arange(len(words.counts), dtype=np.uint64)), words.counts)
    text = words.text_of
    out: dict[str, Floats] = {}
    twice = np.zeros(0, dtype=np.bool_)
    for n, hashes, whole in words.ngrams(10):
        if 2 <= n <= 4:
            spans = up_to[n:] - up_to[:-n] if len(hashes) else up_to[:0]
            out[f"top_{n}_gram"] = np.minimum(_share(_top(hashes, whole, spans, text, len(total)), total), 1)
        elif n >= 5:
            # An n-gram that stands twice begins with an (n-1)-gram that does: fewer and fewer are looked at.
            chosen = np.flatnonzero(whole if n == 5 else whole & twice[: len(whole)])
            shared, later = _shared(hashes[chosen] ^ salt[chosen])
            twice, again = np.zeros((2, len(hashes)), dtype=np.bool_)
            twice[chosen[shared]] = True
            again[chosen[later]] = True
            covered = _covered(again, n, len(size))
            sums = np.concatenate(([0], np.cumsum(size * covered)))
            out[f"duplicate_{n}_gram"] = _share(np.diff(sums[words.first]).astype(np.float64), total)
    return out


def _top(hashes: NDArray[np.uint64], whole: NDArray[np.bool_], spans: Ints, text: Ints, texts: int) -> Floats:
    """Return the characters that the n-gram covering most of each text covers; 0 where none repeats.

    One sort of one number each: text, hash and length are packed together (as many bits as the texts need, 8 for
    the length, the rest for the hash), because sorting numbers alone is far quicker than sorting places.
    """
    best = np.zeros(texts, dtype=np.float64)
    bits = max(texts - 1, 1).bit_length()
    places = np.flatnonzero(whole)
    if not len(places):
        return best
    key = text[places].astype(np.uint64) << np.uint64(64 - bits)
    key |= (hashes[places] >> np.uint64(bits)) & ~np.uint64(0xFF)
    key |= np.minimum(spans[places], 255).astype(np.uint64)
    key.sort()
    same = np.concatenate(([False], key[1:] == key[:-1], [False]))
    runs = np.flatnonzero(~same[:-1] & same[1:])  # of two and more
    if len(runs):
        count = np.flatnonzero(same[:-1] & ~same[1:]) - runs + 1
        covered = count * (key[runs] & np.uint64(0xFF)).astype(np.int64)
        owner = (key[runs] >> np.uint64(64 - bits)).astype(np.int64)
        change = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1])))
        best[owner[change]] = np.maximum.reduceat(covered, change)
    return best


def _shared(key: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which keys stand twice and more, and which of them stood before."""
    shared, later = np.zeros((2, len(key)), dtype=np.bool_)
    if len(key) < 2:
        return shared, later
    order = np.argsort(key)
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return shared, later
    later[order] = True
    later[np.minimum.reduceat(order, np.flatnonzero(np.concatenate(([True], ~same))))] = False
    shared[order] = np.concatenate(([False], same)) | np.concatenate((same, [False]))
    return shared, later


def _covered(again: NDArray[np.bool_], n: int, words: int) -> NDArray[np.bool_]:
    """Return which words lie in an n-gram that begins at one of the marked places."""
    places = np.flatnonzero(again)
    step = np.zeros(words + 1, dtype=np.int32)
    step[places] += 1
    step[places + n] -= 1
    return np.cumsum(step[:-1]) > 0
