"""Evaluation sets, as `config/evaluation/*.json` declares them: where they may lie and which text of a row is scored.

    declared set --> the first of its layouts that is at hand --> rows --> scored texts

Scored text is what a model must not have seen: the question and the answers, never a passage that the prompt gives.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lumi.config import Config
from lumi.corpus.compression import COMPRESSED, UNREADABLE, open_any
from lumi.errors import ConfigError, DataError

_SLOT = re.compile(r"\{([^{}]*)\}")
_PATH = re.compile(r"(?P<fields>\w+(?:\.\w+)*)(?:\[(?P<index>\w+|\*)\])?")


class Layout(Config):
    """One form in which a set may be at hand."""

    files: tuple[str, ...] = Field(min_length=1)
    """Globs below the data folder; all files of the first that finds one are read, compressed or not."""
    format: Literal["jsonl", "json", "parquet", "lines"]
    """One JSON object a line; one JSON list of objects; parquet; plain text, whose lines are the field `text`."""
    texts: tuple[str, ...] = Field(min_length=1)
    """Scored texts of a row, with fields in braces: {question}, {choices.text[*]} (each of a list),
    {endings[label]} (the one that another field names), {choices[0]}."""
    after: str = ""
    """What stands before this in a text, and this, is the set's own phrase, not scored."""
    before: str = ""
    """The same for what stands from this on."""
    fill: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """A blank and what may stand in it, each a text of its own: {"_": ["{option1}", "{option2}"]}."""


class EvaluationSet(Config):
    """A public set that models are compared by."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_]+$")
    """As results and cards have it."""
    title: str
    """As its authors write it."""
    licence: str
    """As its authors state it."""
    citation: str
    """Where it was published."""
    dataset: str
    """Its name on the Hugging Face hub."""
    subset: str | None = None
    """Its configuration there."""
    split: str
    """The split that scores are reported on."""
    layouts: tuple[Layout, ...] = Field(min_length=1)
    """Forms in which it may be at hand, the best first."""


def load_evaluation_sets(folder: Path) -> list[EvaluationSet]:
    """Return the sets that a folder declares, by name.

    Raises:
        ConfigError: no such folder, or a file that is not right.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"no evaluation sets are declared: there is no folder {folder}",
            "run from the project's folder, give another one by --evaluation_sets, or pass --no_decontaminate",
        )
    sets = [EvaluationSet.load(path) for path in sorted(folder.glob("*.json"))]
    names = [one.name for one in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{folder}: two files declare the set {twice[0]}", "keep one of the two")
    return sets


def scored_texts(evaluation_set: EvaluationSet, data_dir: Path) -> list[str] | None:
    """Return the scored texts of a set, in order; None where it is not at hand.

    Raises:
        DataError: a file is damaged, or a row has not the declared fields: less would be looked for than was said.
    """
    for layout in evaluation_set.layouts:
        for pattern in layout.files:
            if files := _found(data_dir, pattern):
                return [text for path in files for text in _texts_of_file(path, layout)]
    return None


def _found(data_dir: Path, pattern: str) -> list[Path]:
    for suffix in ("", *COMPRESSED):
        if files := sorted(path for path in data_dir.glob(pattern + suffix) if path.is_file()):
            return files
    return []


def _texts_of_file(path: Path, layout: Layout) -> Iterator[str]:
    for place, row in _rows(path, layout.format):
        try:
            yield from _texts_of_row(row, layout)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, row {place}: not as declared: {type(error).__name__}: {error}",
                "replace the file, or correct `layouts` in the set's config",
            ) from None


def _rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        if kind == "parquet":
            import pyarrow.parquet as parquet

            yield from enumerate(parquet.read_table(path).to_pylist(), 1)
            return
        with open_any(path) as file:
            if kind == "json":
                yield from enumerate(json.loads(file.read()), 1)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, {"text": line.decode()} if kind == "lines" else json.loads(line)
    except (*UNREADABLE, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", "replace the file") from None


def _texts_of_row(row: dict[str, Any], layout: Layout) -> list[str]:
    texts = [text for template in layout.texts for text in _filled(template, row)]
    if layout.after:
        texts = [text.partition(layout.after)[2] or text for text in texts]
    if layout.before:
        texts = [text.partition(layout.before)[0] for text in texts]
    for blank, templates in layout.fill.items():
        fillings = [filling for template in templates for filling in _filled(template, row)]
        texts = [text.replace(blank, filling) for text in texts for filling in fillings]
    return [text.strip() for text in texts]


def _filled(template: str, row: dict[str, Any]) -> list[str]:
    """Return the template with its fields filled in, once for each value of a field that has several."""
    results = [""]
    at = 0
    for slot in _SLOT.finditer(template):
        values = _values(slot[1], row)
        results = [done + template[at : slot.start()] + value for done in results for value in values]
        at = slot.end()
    return [done + template[at:] for done in results]


def _values(path: str, row: dict[str, Any]) -> list[str]:
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{{{path}}} names no field")
    value: Any = row
    for name in match["fields"].split("."):
        value = value[name]
    index = match["index"]
    if index == "*":
        return [str(one) for one in value]
    if index is not None:
        value = value[int(index if index.isdigit() else row[index])]
    if not isinstance(value, (str, int, float)):
        raise TypeError(f"{{{path}}} is no text but a {type(value).__name__}")
    return [str(value)]
