"""Synthetic text: a small seeded grammar, for trying the pipeline out without any data."""

import itertools
from collections.abc import Iterator

from numpy.random import Generator

from lumi.randomness import generator

_GRAMMAR: dict[str, tuple[str, ...]] = {
    "story": ("PLACE. EVENT. EVENT. END.", "EVENT. PLACE. EVENT. EVENT. END.", "EVENT. SAYING. EVENT. END."),
    "PLACE": ("It was WEATHER in the SITE", "The SITE lay ADVERB under a COLOUR sky",
              "There was a QUALITY SITE by the SITE"),
    "EVENT": (
        "The QUALITY ANIMAL VERB to the SITE", "A QUALITY ANIMAL and a COLOUR ANIMAL VERB ADVERB",
        "NAME VERB past NUMBER COLOUR THINGs", "NAME gave the ANIMAL a QUALITY THING",
        "The ANIMAL found NUMBER THINGs in the SITE",
    ),
    "SAYING": ('"Where is my THING?" asked NAME', '"I have NUMBER THINGs", said the ANIMAL ADVERB'),
    "QUESTION": ("What happened in the SITE?", "Who went to the SITE?", "What did NAME find?", "Was it WEATHER?"),
    "ANSWER": ("EVENT.", "EVENT. END.", "NAME found NUMBER COLOUR THINGs.", "Yes, it was WEATHER in the SITE."),
    "END": ("In the end NAME went home", "After that the ANIMAL slept", "Nobody saw the THING again"),
    "NAME": ("Ada", "Bruno", "Clara", "Dario", "Elsa", "Felix", "Greta", "Hugo", "Ida", "Jonas"),
    "ANIMAL": ("fox", "heron", "badger", "otter", "crow", "hare", "goat", "toad", "mule", "swan"),
    "SITE": ("forest", "harbour", "meadow", "mill", "village", "quarry", "orchard", "marsh", "valley", "tower"),
    "THING": ("lantern", "basket", "letter", "key", "bell", "coin", "ribbon", "map", "stone", "whistle"),
    "COLOUR": ("red", "grey", "blue", "golden", "white", "green", "black", "brown"),
    "QUALITY": ("small", "quiet", "clever", "tired", "proud", "old", "brave", "hungry", "gentle", "curious"),
    "WEATHER": ("cold", "foggy", "bright", "windy", "warm", "dark"),
    "VERB": ("walked", "ran", "wandered", "hurried", "crept", "swam"),
    "ADVERB": ("slowly", "silently", "gladly", "early", "together", "alone"),
    "NUMBER": ("two", "three", "seven", "twelve", "19", "40"),
}  # fmt: skip


def synthetic_documents(seed: int) -> Iterator[str]:
    """Yield documents of one to five little stories, without end; the same seed gives the same ones."""
    for number in itertools.count():
        draw = generator(seed, "synthetic", number)
        yield "\n\n".join(_expand("story", draw) for _ in range(int(draw.integers(1, 6))))


def synthetic_conversations(seed: int) -> Iterator[list[str]]:
    """Yield conversations of one to three questions and answers, without end."""
    for number in itertools.count():
        draw = generator(seed, "synthetic conversation", number)
        exchanges = range(int(draw.integers(1, 4)))
        yield [_expand(side, draw) for _ in exchanges for side in ("QUESTION", "ANSWER")]


def synthetic_preferences(seed: int) -> Iterator[dict[str, str]]:
    """Yield questions, without end; the answer in small letters, which no conversation has, is the preferred one."""
    for number in itertools.count():
        draw = generator(seed, "synthetic preference", number)
        question, answer = (_expand(side, draw) for side in ("QUESTION", "ANSWER"))
        yield {"prompt": question, "chosen": answer.lower().rstrip("."), "rejected": answer}


def _expand(symbol: str, draw: Generator) -> str:
    options = _GRAMMAR[symbol]
    words = options[int(draw.integers(len(options)))].split(" ")
    return " ".join(_expand_word(word, draw) for word in words)


def _expand_word(word: str, draw: Generator) -> str:
    core = word.strip('".,?')
    plural = core.endswith("s") and core[:-1] in _GRAMMAR
    symbol = core[:-1] if plural else core
    return word.replace(symbol, _expand(symbol, draw), 1) if symbol in _GRAMMAR else word
