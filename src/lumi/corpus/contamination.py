"""Decontamination: paragraphs that a test set also has are cut, so that a score is not a memory.

Overlap of 13 words in a row, as GPT-3 was checked (Brown et al. 2020, arXiv:2005.14165, appendix C). A test text of 8
to 12 words, as questions are, counts where it stands as a whole; a shorter one says nothing and is not looked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lumi.artifacts import Input, canonical_json, sha256_bytes
from lumi.config import Config
from lumi.corpus.evaluation_sets import load_evaluation_sets, scored_texts
from lumi.corpus.words import Words
from lumi.errors import DataError
from lumi.progress import say

OVERLAP = 13  # words in a row
FEWEST = 8  # words of a text that is looked for


class DecontaminationConfig(Config):
    """Cut the paragraphs that test sets have too."""

    not_identity: ClassVar[frozenset[str]] = frozenset({"evaluation_sets", "evaluation_data", "require"})  # by contents

    decontaminate: bool = True
    """Look for the test sets' text."""
    evaluation_sets: Path = Path("config/evaluation")
    """Folder of the files that declare the test sets."""
    evaluation_data: Path = Path("data/evaluation")
    """Folder of the test sets themselves; one that is not there is named as not checked."""
    require: bool = False
    """A test set that is not there is an error."""
    largest_cut: float = Field(default=0.5, ge=0, le=1)
    """A text that would lose a larger share is dropped."""


class Ngrams:
    """The n-grams of one length of all test sets.

    Args:
        hashes: uint64, each once.
        owners: the number of the test set of each.
    """

    def __init__(self, hashes: NDArray[np.uint64], owners: NDArray[np.uint8]) -> None:
        self.hashes, first = np.unique(hashes, return_index=True)
        self.owners = owners[first]
        # A table over the low bits, nearly empty, sorts most n-grams of a corpus out before they are searched for.
        self._seen = np.zeros(1 << int(64 * len(self.hashes) + 1).bit_length(), dtype=np.bool_)
        self._seen[self.hashes & self._mask] = True

    @property
    def _mask(self) -> np.uint64:
        return np.uint64(len(self._seen) - 1)

    def find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return which of the hashes are among these, and whose they are."""
        maybe = np.flatnonzero(self._seen[hashes & self._mask])
        at = np.searchsorted(self.hashes, hashes[maybe])
        at[at == len(self.hashes)] = 0
        found = np.flatnonzero(self.hashes[at] == hashes[maybe]) if len(self.hashes) else at[:0]
        return maybe[found], self.owners[at[found]]


@dataclass(frozen=True)
class ScoredTexts:
    """The scored texts of the test sets that are at hand.

    Attributes:
        texts: by test set.
        missing: the test sets that are not there.
        whole: how many texts each set has when all of it is there.
    """

    texts: Mapping[str, Sequence[str]]
    missing: tuple[str, ...] = ()
    whole: Mapping[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Input]:
        """What the texts are, for the manifest."""
        return [
            Input(path=f"test set {name}", sha256=sha256_bytes(canonical_json(list(texts))))
            for name, texts in self.texts.items()
        ]

    def decontaminator(self) -> "Decontaminator":
        """Return what finds and cuts these texts."""
        return Decontaminator(self.texts)

    def tell(self) -> None:
        """Say on screen what is checked and what is not."""
        if self.texts:
            say(f"decontamination: {', '.join(map(self._told, self.texts))}")
        if self.missing:
            say(f"not checked, because not there: {', '.join(self.missing)}")

    def _told(self, name: str) -> str:
        part = f" ({len(self.texts[name]):,} of {self.whole[name]:,} texts)" if self.is_partial(name) else ""
        return name + part

    def is_partial(self, name: str) -> bool:
        """Return whether only a part of a set is there."""
        return len(self.texts[name]) < self.whole.get(name, 0)

    def summary(self, cut: Mapping[str, int]) -> dict[str, Any]:
        """Return what the manifest says of them; ``cut`` is how many paragraphs were, by test set."""
        checked = {}
        for name, texts in self.texts.items():
            short = int((Words.of(list(texts)).counts < FEWEST).sum())
            checked[name] = {
                "texts": len(texts), "texts_of_the_whole_set": self.whole.get(name, len(texts)),
                "too_short_to_look_for": short, "paragraphs_cut": cut.get(name, 0),
            }  # fmt: skip
        return {"checked": checked, "not_checked": list(self.missing)}


def read_scored_texts(config: DecontaminationConfig) -> ScoredTexts:
    """Read the declared test sets.

    Raises:
        ConfigError: a file that declares one is not right.
        DataError: a damaged test set; or one is not there, and the config requires it.
    """
    if not config.decontaminate:
        return ScoredTexts({})
    found: dict[str, Sequence[str]] = {}
    missing = []
    sets = load_evaluation_sets(config.evaluation_sets)
    for declared in sets:
        texts = scored_texts(declared, config.evaluation_data)
        if texts is None:
            missing.append(declared.name)
        else:
            found[declared.name] = texts
    whole = {declared.name: declared.num_texts for declared in sets}
    scored = ScoredTexts(found, tuple(missing), whole)
    lacking = [*missing, *(f"{name} (a part of it is)" for name in found if scored.is_partial(name))]
    if lacking and config.require:
        raise DataError(
            f"test sets that decontamination requires are not in {config.evaluation_data}: {', '.join(lacking)}",
            f"put them there (each file in {config.evaluation_sets} says from where), or leave out --require",
        )
    return scored


@dataclass(frozen=True, slots=True)
class Cut:
    """What was cut from a text."""

    text: str  # what is left
    paragraphs: tuple[tuple[str, str], ...]  # test set and what was cut, in order
    share: float  # of the text's bytes that went


class Decontaminator:
    """Finds and cuts what test sets have too.

    Args:
        texts: scored texts by test set.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        self.names = tuple(texts)
        hashes: dict[int, list[NDArray[np.uint64]]] = {n: [] for n in range(FEWEST, OVERLAP + 1)}
        owners: dict[int, list[NDArray[np.uint8]]] = {n: [] for n in hashes}
        for number, of_set in enumerate(texts.values()):
            words = Words.of(of_set)
            length = np.repeat(words.counts, words.counts)  # of the text of each word
            for n, grams, whole in words.ngrams(OVERLAP):
                if n in hashes:
                    chosen = grams[whole if n == OVERLAP else whole & (length[: len(grams)] == n)]
                    hashes[n].append(chosen)
                    owners[n].append(np.full(len(chosen), number, dtype=np.uint8))
        self.ngrams = {n: Ngrams(np.concatenate(hashes[n]), np.concatenate(owners[n])) for n in hashes if hashes[n]}

    def cuts(self, words: Words) -> dict[int, Cut]:
        """Return what to cut, by number of the text; texts without overlap are not in it.

        ``words`` must be of the texts as they are: the cut is made in their bytes.
        """
        spans: dict[int, list[tuple[int, int, str]]] = {}
        for n, grams, whole in words.ngrams(OVERLAP):
            if n not in self.ngrams:
                continue
            places, owners = self.ngrams[n].find(grams)
            for word, owner in zip(places[whole[places]].tolist(), owners[whole[places]].tolist(), strict=True):
                text = int(np.searchsorted(words.first, word, side="right")) - 1
                start = int(words.text_starts[text])
                span = int(words.starts[word]) - start, int(words.ends[word + n - 1]) - start, self.names[owner]
                spans.setdefault(text, []).append(span)
        return {text: _cut(words.texts[text].encode(), sorted(found)) for text, found in spans.items()}


def _cut(data: bytes, spans: Sequence[tuple[int, int, str]]) -> Cut:
    """Cut the paragraphs (between blank lines; where there are none, lines) that the ascending spans touch."""
    separator = b"\n\n" if b"\n\n" in data else b"\n"
    spans = _merged(spans)
    left: list[bytes] = []
    cut: list[tuple[str, str]] = []
    start = number = 0
    for paragraph in data.split(separator):
        end = start + len(paragraph)
        while number < len(spans) and spans[number][1] <= start:
            number += 1
        if number < len(spans) and spans[number][0] < end:
            cut.append((spans[number][2], paragraph.decode()))
        else:
            left.append(paragraph)
        start = end + len(separator)
    text = separator.join(left)
    return Cut(text.decode(), tuple(cut), 1 - len(text) / max(len(data), 1))


def _merged(spans: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Join spans that overlap, under the name of the first."""
    merged: list[tuple[int, int, str]] = []
    for start, end, name in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        else:
            merged.append((start, end, name))
    return merged
