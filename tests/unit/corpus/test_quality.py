"""Each rule with a worked example: a text that it drops, and the same text mended."""

import pytest

from lumi.corpus.quality import HISTOGRAMS, RULES, QualityConfig, bins_of, verdicts
from lumi.corpus.statistics import Statistics, statistics_of
from lumi.corpus.words import Words

SENTENCE = "The old harbour had a light that burned all night, and the boats came to it with their nets. "
OTHERS = [
    "A storm in the spring took the roof of the mill and left the miller without bread for a month.",
    "Nobody in that town would have believed the story, so she told it to the sea instead.",
    "He had been to the market twice and still had no salt, no thread and no candles.",
    "When the water fell, children ran out to look for shells between the black stones.",
    "They have a saying there that one must never count the boats before they are home.",
]
GOOD = "\n".join([SENTENCE.strip(), *OTHERS])

EXAMPLES = {  # rule: (threshold where the default is none, a text that it drops)
    "gopher_few_words": (None, " ".join(GOOD.split()[:49])),
    "gopher_many_words": (60, GOOD),
    "gopher_short_words": (None, GOOD + " a" * 400),
    "gopher_long_words": (None, GOOD + " incomprehensibilities" * 100),
    "gopher_symbols": (None, GOOD + " # # # # # # # # # # # # # # #"),
    "gopher_bullet_lines": (None, "\n".join(f"- {line}" for line in GOOD.split("\n"))),
    "gopher_ellipsis_lines": (None, GOOD.replace(".\n", "...\n")),
    "gopher_alphabetic_words": (None, GOOD + " 1 2 3 4 5 6 7 8 9 10" * 4),
    "gopher_stop_words": (None, "Ein Satz ohne englische Verbindungen steht hier. Noch einer steht da. Gut so! " * 9),
    "gopher_duplicate_lines": (None, GOOD + "\nshort" * 5),
    "gopher_duplicate_line_characters": (None, f"{GOOD}\n{OTHERS[0]}\n{OTHERS[1]}"),
    "gopher_duplicate_paragraphs": (None, GOOD.replace("\n", "\n\n") + "\n\nend" * 5),
    "gopher_duplicate_paragraph_characters": (None, f"{GOOD}\n\n{OTHERS[0]}\n\n{OTHERS[0]}\n\n{OTHERS[0]}"),
    "gopher_top_2_gram": (None, GOOD.replace("the ", "copper kettle the ")),
    "gopher_top_3_gram": (None, GOOD.replace("the ", "copper kettle lid the ")),
    "gopher_top_4_gram": (None, GOOD.replace("the ", "copper kettle lid off the ")),
    **{f"gopher_duplicate_{n}_gram": (None, GOOD + " " + SENTENCE + OTHERS[0]) for n in range(5, 11)},
    "c4_few_sentences": (None, GOOD.replace(".", ",")),
    "c4_lorem_ipsum": (None, GOOD + " Lorem ipsum dolor sit amet."),
    "c4_curly_brackets": (0, GOOD + " { color: red }"),
    "fineweb_punctuated_lines": (0.12, GOOD.replace(".", "")),
    "fineweb_duplicate_line_characters": (0.1, f"{GOOD}\n{OTHERS[3]}"),
    "fineweb_short_lines": (0.67, GOOD + "\na short line" + "".join(f"\nline {n}" for n in range(12))),
}


def only(rule: str, threshold: float | None) -> QualityConfig:
    """Return a config with one rule in force."""
    others = {name: None for name in RULES if name != rule}
    return QualityConfig(**others, **({} if threshold is None else {rule: threshold}))


def judged(text: str, config: QualityConfig) -> str:
    return verdicts(statistics_of(Words.of([text])), config)[0]


def test_every_rule_has_a_field_an_example_and_a_statistic():
    fields = set(QualityConfig.model_fields) - {"judge_quality"}
    assert fields == set(RULES) == set(EXAMPLES)
    assert all(rule.statistic in Statistics.__dataclass_fields__ for rule in RULES.values())


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_drops_its_example_and_keeps_good_text(rule):
    threshold, example = EXAMPLES[rule]
    config = only(rule, threshold)
    assert judged(example, config) == rule
    if rule != "gopher_many_words":
        assert judged(GOOD, config) == ""
    assert judged(example, only(rule, None) if threshold else QualityConfig(**dict.fromkeys(RULES))) == ""


def test_good_text_passes_all_defaults_and_the_first_rule_gives_the_reason():
    assert judged(GOOD, QualityConfig()) == ""
    both = " ".join(EXAMPLES["c4_lorem_ipsum"][1].split()[-6:])
    assert judged(both, QualityConfig()) == "gopher_few_words"


def test_texts_are_judged_one_by_one_in_any_company():
    texts = [example for _, example in EXAMPLES.values()] + [GOOD]
    together = verdicts(statistics_of(Words.of(texts)), QualityConfig())
    assert together == [judged(text, QualityConfig()) for text in texts]


def test_bins_hold_their_values():
    statistics = statistics_of(Words.of([GOOD, "", "word " * 3_000_000]))
    bins = bins_of(statistics)
    for row, (name, edges) in zip(bins, HISTOGRAMS.items(), strict=True):
        for value, place in zip(getattr(statistics, name).tolist(), row.tolist(), strict=True):
            assert edges[place] <= value < edges[place + 1] or value < edges[0] or value >= edges[-1]
