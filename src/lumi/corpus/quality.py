"""Quality rules: which texts are not worth training on, by numbers that published corpora were filtered with.

A rule compares one statistic of a text with a threshold from the config. Its name is its field there and the
reason in the card; `null` switches it off. Sources: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1), C4
(Raffel et al. 2019, arXiv:1910.10683, section 2.2), FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6).
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumi.config import Config
from lumi.corpus.statistics import Statistics

Threshold = float | None


class QualityConfig(Config):
    """Drop texts past a threshold; null switches a rule off."""

    judge_quality: bool = True
    """Use the quality rules below."""
    gopher_few_words: Threshold = Field(default=50, ge=0)
    """Fewer words (between blanks) than this."""
    gopher_many_words: Threshold = Field(default=None, ge=0)
    """More words than this; Gopher has 100,000, which would drop books."""
    gopher_short_words: Threshold = Field(default=3, ge=0)
    """Shorter words than this on average, in characters."""
    gopher_long_words: Threshold = Field(default=10, ge=0)
    """Longer words than this on average, in characters."""
    gopher_symbols: Threshold = Field(default=0.1, ge=0)
    """More hash signs and ellipses a word than this."""
    gopher_bullet_lines: Threshold = Field(default=0.9, ge=0, le=1)
    """A larger share of lines that begin with a bullet."""
    gopher_ellipsis_lines: Threshold = Field(default=0.3, ge=0, le=1)
    """A larger share of lines that end with an ellipsis."""
    gopher_alphabetic_words: Threshold = Field(default=0.8, ge=0, le=1)
    """A smaller share of words with a letter in them."""
    gopher_stop_words: Threshold = Field(default=2, ge=0, le=8)
    """Fewer than this of: the, be, to, of, and, that, have, with. For English; null for other languages."""
    gopher_duplicate_lines: Threshold = Field(default=0.3, ge=0, le=1)
    """A larger share of lines that stood before in the text."""
    gopher_duplicate_line_characters: Threshold = Field(default=0.2, ge=0, le=1)
    """A larger share of characters in such lines."""
    gopher_duplicate_paragraphs: Threshold = Field(default=0.3, ge=0, le=1)
    """A larger share of paragraphs (between blank lines) that stood before."""
    gopher_duplicate_paragraph_characters: Threshold = Field(default=0.2, ge=0, le=1)
    """A larger share of characters in such paragraphs."""
    gopher_top_2_gram: Threshold = Field(default=0.2, ge=0, le=1)
    """The commonest two words in a row cover a larger share of the text."""
    gopher_top_3_gram: Threshold = Field(default=0.18, ge=0, le=1)
    """The same for three."""
    gopher_top_4_gram: Threshold = Field(default=0.16, ge=0, le=1)
    """The same for four."""
    gopher_duplicate_5_gram: Threshold = Field(default=0.15, ge=0, le=1)
    """Five words in a row that stood before cover a larger share of the text."""
    gopher_duplicate_6_gram: Threshold = Field(default=0.14, ge=0, le=1)
    """The same for six."""
    gopher_duplicate_7_gram: Threshold = Field(default=0.13, ge=0, le=1)
    """The same for seven."""
    gopher_duplicate_8_gram: Threshold = Field(default=0.12, ge=0, le=1)
    """The same for eight."""
    gopher_duplicate_9_gram: Threshold = Field(default=0.11, ge=0, le=1)
    """The same for nine."""
    gopher_duplicate_10_gram: Threshold = Field(default=0.1, ge=0, le=1)
    """The same for ten."""
    c4_few_sentences: Threshold = Field(default=3, ge=0)
    """Fewer words that end a sentence (. ! ?)."""
    c4_lorem_ipsum: Threshold = Field(default=0, ge=0)
    """The placeholder text stands there more often than this."""
    c4_curly_brackets: Threshold = Field(default=None, ge=0)
    """More curly brackets than this; C4 has 0, which drops all code."""
    fineweb_punctuated_lines: Threshold = Field(default=None, ge=0, le=1)
    """No larger share of lines that end with a punctuation mark; FineWeb has 0.12, for web pages."""
    fineweb_duplicate_line_characters: Threshold = Field(default=None, ge=0, le=1)
    """At least this share of characters in lines that stood before; FineWeb has 0.1, for web pages."""
    fineweb_short_lines: Threshold = Field(default=None, ge=0, le=1)
    """At least this share of lines of 30 characters and fewer; FineWeb has 0.67, for web pages."""


@dataclass(frozen=True)
class QualityRule:
    """Drops a text whose ``statistic`` is ``past`` the threshold that its config field holds."""

    statistic: str
    past: Callable[[Any, Any], Any]


def _rules() -> dict[str, QualityRule]:
    less, more = operator.lt, operator.gt
    rules = {
        "gopher_few_words": QualityRule("tokens", less),
        "gopher_many_words": QualityRule("tokens", more),
        "gopher_short_words": QualityRule("mean_token_length", less),
        "gopher_long_words": QualityRule("mean_token_length", more),
        "gopher_symbols": QualityRule("symbols_per_token", more),
        "gopher_bullet_lines": QualityRule("bullet_lines", more),
        "gopher_ellipsis_lines": QualityRule("ellipsis_lines", more),
        "gopher_alphabetic_words": QualityRule("alphabetic_tokens", less),
        "gopher_stop_words": QualityRule("stop_words", less),
    }
    repeated = [
        "duplicate_lines",
        "duplicate_line_characters",
        "duplicate_paragraphs",
        "duplicate_paragraph_characters",
    ]
    repeated += [f"top_{n}_gram" for n in (2, 3, 4)] + [f"duplicate_{n}_gram" for n in range(5, 11)]
    rules |= {f"gopher_{statistic}": QualityRule(statistic, more) for statistic in repeated}
    rules |= {
        "c4_few_sentences": QualityRule("sentences", less),
        "c4_lorem_ipsum": QualityRule("lorem_ipsums", more),
        "c4_curly_brackets": QualityRule("curly_brackets", more),
        "fineweb_punctuated_lines": QualityRule("punctuated_lines", operator.le),
        "fineweb_duplicate_line_characters": QualityRule("duplicate_line_characters", operator.ge),
        "fineweb_short_lines": QualityRule("short_lines", operator.ge),
    }
    return rules


RULES = _rules()


def verdicts(statistics: Statistics, config: QualityConfig) -> list[str]:
    """Return for each text the first rule that drops it, or nothing where it stays."""
    names = [name for name in RULES if getattr(config, name) is not None]
    first = np.full(len(statistics.tokens), len(names))
    for number, name in reversed(list(enumerate(names))):
        rule = RULES[name]
        values: NDArray[np.float64] = getattr(statistics, rule.statistic)
        first[rule.past(values, getattr(config, name))] = number
    return [[*names, ""][number] for number in first.tolist()]


# Statistics that the card draws: name, edges of the bins (values beyond them count in the outer ones).
HISTOGRAMS: dict[str, NDArray[np.float64]] = {
    "tokens": np.geomspace(1, 1e6, 25),
    "mean_token_length": np.linspace(0, 12, 25),
    "alphabetic_tokens": np.linspace(0, 1, 26),
    "punctuated_lines": np.linspace(0, 1, 26),
    "short_lines": np.linspace(0, 1, 26),
    "duplicate_line_characters": np.linspace(0, 0.5, 26),
    "top_2_gram": np.linspace(0, 0.5, 26),
    "duplicate_5_gram": np.linspace(0, 0.5, 26),
}


def bins_of(statistics: Statistics) -> NDArray[np.uint8]:
    """Return in which bin of each of the `HISTOGRAMS` each text falls, [histograms, texts]."""
    return np.stack(
        [
            np.clip(np.searchsorted(edges, getattr(statistics, name), side="right") - 1, 0, len(edges) - 2)
            for name, edges in HISTOGRAMS.items()
        ]
    ).astype(np.uint8)
