"""What a model was trained on, as the manifests tell it: data sets, their share, the sources behind them, languages."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumi.artifacts import MANIFEST, Manifest, read_manifest
from lumi.config import read_json_object
from lumi.errors import LumiError

_CORPUS = "corpus"
_SPOKEN = 0.05  # a language of fewer texts is noise of the identification
# names of licences as the hub has them; others are "other" there
_HUB_LICENCES = frozenset({
    "apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "odc-by", "pddl",
    "bsd-3-clause", "gpl-3.0", "openrail",
})  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One origin of text."""

    name: str
    licence: str
    citation: str
    hub_name: str | None  # of the data set on the hub, where it is one
    documents: int
    bytes: int


@dataclass(frozen=True)
class DataSet:
    """One data set of a run; what its manifests do not tell, or where they are gone, is None or empty."""

    name: str
    rows: int
    share: float | None  # of the rows that were drawn
    tokens: int | None  # of its training split
    sources: tuple[Source, ...]
    languages: frozenset[str]
    checked: Mapping[str, int]  # test sets that were looked for, and paragraphs cut for each
    not_checked: tuple[str, ...]
    has_corpus: bool


def data_sets(run: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> tuple[DataSet, ...]:
    """Return the data sets of a run.

    Args:
        run: its run.json.
        metrics: the lines of its log, which say what was drawn.
    """
    drawn: Mapping[str, int] = next((line["mix"] for line in reversed(metrics) if line.get("mix")), {})
    total = sum(drawn.values())
    return tuple(_data_set(data, drawn.get(data["name"], 0) / total if total else None) for data in run.get("data", []))


def _data_set(data: Mapping[str, Any], share: float | None) -> DataSet:
    path = Path(data["path"])
    packed = _manifest(path)
    inputs = packed.inputs if packed else ()
    corpora = [found for one in inputs if (found := _manifest(path / one.path)) is not None and found.kind == _CORPUS]
    checked: Counter[str] = Counter()
    not_checked: list[str] = []
    for corpus in corpora:
        about = corpus.counts.get("decontamination", {})
        checked.update({name: one["paragraphs_cut"] for name, one in about.get("checked", {}).items()})
        not_checked += about.get("not_checked", [])
    return DataSet(
        name=data["name"],
        rows=data["rows"],
        share=share,
        tokens=packed.counts.get("train", {}).get("tokens") if packed else None,
        sources=tuple(source for corpus in corpora for source in _sources(corpus)),
        languages=frozenset(language for corpus in corpora for language in _languages(corpus)),
        checked=dict(checked),
        not_checked=tuple(dict.fromkeys(not_checked)),
        has_corpus=bool(corpora),
    )


def _manifest(folder: Path) -> Manifest | None:
    """Return the manifest of an artifact; None where it is gone or damaged: it is not told about then."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return read_manifest(folder, str(read_json_object(path).get("kind")), "")
    except LumiError:
        return None


def _sources(corpus: Manifest) -> Iterator[Source]:
    counts = corpus.counts.get("sources", {})
    for source in corpus.config.get("sources", []):
        count = counts.get(source["name"], {})
        # a local folder may stand in a hub name's place
        is_hub = source.get("kind") == "hub" and re.fullmatch(r"[\w.-]+/[\w.-]+", source.get("dataset") or "")
        yield Source(
            name=source["name"],
            licence=source.get("licence", ""),
            citation=source.get("citation", ""),
            hub_name=source["dataset"] if is_hub and not Path(source["dataset"]).exists() else None,
            documents=count.get("documents", 0),
            bytes=count.get("bytes", 0),
        )


def _languages(corpus: Manifest) -> list[str]:
    """Return the languages that a corpus was restricted to, else those that enough of its texts are in."""
    if asked := corpus.config.get("languages"):
        return list(asked)
    found: Mapping[str, int] = corpus.counts.get("languages", {})
    total = sum(found.values())
    return [language for language, number in found.items() if language and number >= _SPOKEN * total]


def hub_licence(licences: Sequence[str]) -> str | None:
    """Return the hub's name of a licence that all of these are; ``other`` where there is none; None for no licence."""
    named = {_hub_name(licence) for licence in licences if licence}
    if not named:
        return None
    return named.pop() if len(named) == 1 else "other"


def _hub_name(licence: str) -> str:
    bare = re.sub(r"\(.*?\)", "", licence).strip().lower()  # remarks
    name = re.sub(r"[\s_]+", "-", bare).removesuffix("-license")
    name = {"odc-by-1.0": "odc-by", "cc0": "cc0-1.0", "apache-license-2.0": "apache-2.0"}.get(name, name)
    return name if name in _HUB_LICENCES else "other"
