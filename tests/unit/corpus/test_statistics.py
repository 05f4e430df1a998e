"""The statistics against a plain count of each, over strings and lists."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.corpus.compression import open_any
from lumi.corpus.statistics import STOP_WORDS, statistics_of
from lumi.corpus.words import Words

PIECES = ["the", "to", "and", "word", "Word", "x1", "42", "#", "...", "....", ".", "!", "- ", "* ", "\u2022 ", "\u2026",
          "\n", "\n\n", " ", "  ", "{", "caf\u00e9", "\u201cso.\u201d", "lorem ipsum", "that", "a b c d e f",
          "a b c d e f g h i j k"]  # fmt: skip


def plain(text: str) -> dict[str, float]:
    """Count one ASCII-blank text in the simplest way."""
    tokens = [token for token in re.split("[ \t\n]+", text) if token]
    words = re.findall("[a-z0-9\u00e9]+", text.lower())
    lines = [line for line in text.split("\n") if re.search("[a-z0-9\u00e9]", line.lower())]
    paragraphs = [part for part in re.split("\n\n+", text) if re.search("[a-z0-9\u00e9]", part.lower())]
    size = len(text) + 1
    total = max(sum(map(len, words)), 1)

    def repeated(parts):
        seen, count, characters = set(), 0, 0
        for part in parts:
            key = tuple(re.findall("[a-z0-9\u00e9]+", part.lower()))
            count += key in seen
            characters += len(part) * (key in seen)
            seen.add(key)
        return count / max(len(parts), 1), characters / size

    out = {
        "tokens": len(tokens),
        "mean_token_length": sum(map(len, tokens)) / max(len(tokens), 1),
        "alphabetic_tokens": sum(any(c.isalpha() for c in token) for token in tokens) / max(len(tokens), 1),
        "stop_words": sum(word in words for word in STOP_WORDS),
        "curly_brackets": text.count("{"),
        "lorem_ipsums": sum(a == "lorem" and b == "ipsum" for a, b in itertools.pairwise(words)),
        "sentences": sum(token[-1] in ".!?" for token in tokens),
        "symbols_per_token": (text.count("#") + len(re.findall(r"\.{3,}|\u2026", text))) / max(len(tokens), 1),
        "short_lines": sum(len(line) <= 30 for line in lines) / max(len(lines), 1),
    }
    out["duplicate_lines"], out["duplicate_line_characters"] = repeated(lines)
    out["duplicate_paragraphs"], out["duplicate_paragraph_characters"] = repeated(paragraphs)
    for n in (2, 3, 4):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        best = max((count * len("".join(gram)) for gram, count in grams.items() if count > 1), default=0)
        out[f"top_{n}_gram"] = min(best / total, 1)
    for n in range(5, 11):
        seen, covered = set(), set()
        for i in range(len(words) - n + 1):
            if (gram := tuple(words[i : i + n])) in seen:
                covered.update(range(i, i + n))
            seen.add(gram)
        out[f"duplicate_{n}_gram"] = sum(len(words[i]) for i in covered) / total
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=60), min_size=1, max_size=4))
def test_every_statistic_is_what_a_plain_count_gives(pieces):
    texts = [" ".join(parts).strip("\n") for parts in pieces]
    statistics = statistics_of(Words.of(texts))
    for number, text in enumerate(texts):
        found = statistics.of(number)
        for name, value in plain(text).items():
            assert found[name] == pytest.approx(value), (name, text)


def test_lines_by_how_they_begin_and_end():
    text = "- one\n  * two\n\u2022 three\n-four\nfive...\nsix\u2026\nseven.\neight?\u201d\nnine\n*** \n10 - x"
    found = statistics_of(Words.of([text])).of(0)
    assert found["bullet_lines"] == pytest.approx(3 / 10)  # the line of stars has no word
    assert found["ellipsis_lines"] == pytest.approx(2 / 10)
    assert found["punctuated_lines"] == pytest.approx(4 / 10)


def test_real_text_gives_the_plain_count_too():
    path = Path("../shared/data/wikipedia/wikipedia-boolq-articles-valid.jsonl.xz")
    if not path.exists():
        pytest.skip("needs ../shared/data")
    with open_any(path) as file:
        texts = [json.loads(line)["text"].encode("ascii", "ignore").decode() for line in itertools.islice(file, 20)]
    statistics = statistics_of(Words.of(texts))
    for number, text in enumerate(texts):
        expected = plain(text.replace("\r", ""))
        found = statistics.of(number)
        for name in ("tokens", "sentences", "duplicate_lines", "top_2_gram", "duplicate_5_gram", "duplicate_10_gram"):
            assert found[name] == pytest.approx(expected[name]), name
