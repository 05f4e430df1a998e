"""Evaluation sets, as `config/evaluation/*.json` declares them: where they may lie and which text of a row is scored.

    declared set --> the first of its layouts that is at hand --> rows --> scored texts

Scored text is what a model must not have seen: the question and the answers, never a passage that the prompt gives.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lumi.config import Config
from lumi.corpus.compression import COMPRESSED, UNREADABLE, open_any
from lumi.errors import ConfigError, DataError

_SLOT = re.compile(r"\{([^{}]*)\}")
_PATH = re.compile(r"(?P<fields>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\[(?P<index>\w+|\*)\])?")


def _check_template(template: str) -> str:
    slots = _SLOT.findall(template)
    if wrong := [slot for slot in slots if not _PATH.fullmatch(slot)]:
        raise ValueError(f"{{{wrong[0]}}} names no field: use {{name}}, {{name.name}}, {{name[0]}}, {{name[other]}}")
    if not slots or set("{}") & set(_SLOT.sub("", template)):
        raise ValueError("a template has fields in braces, each closed")
    return template


def _check_glob(pattern: str) -> str:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError("a glob stays below the data folder")
    return pattern


Template = Annotated[str, AfterValidator(_check_template)]
Glob = Annotated[str, Field(min_length=1), AfterValidator(_check_glob)]
Format = Literal["jsonl", "json", "parquet", "lines"]


class Layout(Config):
    """One form in which a set may be at hand."""

    files: tuple[Glob, ...] = Field(min_length=1)
    """Globs below the data folder; all files of the first that finds one are read, compressed or not."""
    format: Format
    """One JSON object a line; one JSON list of objects; parquet; plain text, whose lines are the field `text`."""
    labels: Glob | None = None
    """A file beside each of `files` with one label a line, for rows that have none; scored texts need none."""
    texts: tuple[Template, ...] = Field(min_length=1)
    """Scored texts of a row, with fields in braces: {question}, {choices.text[*]} (each of a list),
    {endings[label]} (the one that another field names), {choices[0]}."""
    after: str = ""
    """What stands before this in a text, and this, is the set's own phrase, not scored; it must be there."""
    before: str = ""
    """The same for what stands from this on."""
    fill: dict[Annotated[str, Field(min_length=1)], tuple[Template, ...]] = Field(default_factory=dict)
    """A blank and what may stand in it, each a text of its own: {"_": ["{option1}", "{option2}"]}."""
    may_be_blank: bool = False
    """Rows without text belong to the form, as WikiText's empty lines on the hub, and are left out."""


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
    num_texts: int = Field(gt=0)
    """Scored texts of the whole split, as `layouts` gives them: what is less is only a part of it."""
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
    found = find_layout(evaluation_set, data_dir)
    if found is None:
        return None
    layout, files = found
    return [text for path in files for text in _texts_of_file(path, layout)]


def find_layout(evaluation_set: EvaluationSet, data_dir: Path) -> tuple[Layout, list[Path]] | None:
    """Return the first layout of a set that is at hand, with its files in order; None where none is."""
    for layout in evaluation_set.layouts:
        for pattern in layout.files:
            if files := find_files(data_dir, pattern):
                return layout, files
    return None


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that a glob finds, in order; compressed ones where no plain one is there."""
    for suffix in ("", *COMPRESSED):
        if files := sorted(path for path in folder.glob(pattern + suffix) if path.is_file()):
            return files
    return []


def read_rows(path: Path, kind: Format) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each row of a file stands, and the row.

    Lines of plain text come whole, with their ends, and the blank ones too; other formats have no blank rows.

    Raises:
        DataError: the file is damaged, or a row is not an object.
    """
    for place, data in _raw_rows(path, kind):
        try:
            row = _parsed(data, kind)
        except (TypeError, ValueError) as error:
            raise _not_as_declared(place, error) from None
        yield place, row


def _texts_of_file(path: Path, layout: Layout) -> list[str]:
    texts = []
    for place, row in read_rows(path, layout.format):
        if layout.format == "lines" and not row["text"].strip():
            continue  # of plain text, that one has nothing to score
        try:
            texts += _texts_of_row(row, layout)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _not_as_declared(place, error) from None
    if not texts:
        raise DataError(f"{path} has no text in it", "replace the file; without it the set is named as not checked")
    return texts


def _not_as_declared(place: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: not as declared: {type(error).__name__}: {error}",
        "replace the file, or correct `layouts` in the set's config",
    )


def _raw_rows(path: Path, kind: Format) -> Iterator[tuple[str, Any]]:
    """Yield where each row stands and what is there: bytes of a line, or the row itself."""
    try:
        if kind == "parquet":
            yield from ((f"{path}, row {number}", row) for number, row in enumerate(_parquet_rows(path), 1))
            return
        with open_any(path) as file:
            if kind == "json":
                rows = json.loads(file.read())
                if not isinstance(rows, list):
                    raise ValueError(f"a JSON list of rows is declared, not a {type(rows).__name__}")
                yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
                return
            lines = ((f"{path}:{number}", line) for number, line in enumerate(file, 1))
            yield from (one for one in lines if kind == "lines" or one[1].strip())
    except (*UNREADABLE, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", "replace the file") from None


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow, which is not installed", "pip install 'lumi-lab[parquet]'") from None
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def _parsed(data: Any, kind: Format) -> dict[str, Any]:
    if kind == "lines":
        return {"text": data.decode()}
    row = json.loads(data) if kind == "jsonl" else data
    if not isinstance(row, dict):
        raise TypeError(f"a row is an object, not a {type(row).__name__}")
    return row


def _texts_of_row(row: dict[str, Any], layout: Layout) -> list[str]:
    texts = [text for template in layout.texts for text in _filled(template, row)]
    if layout.after:
        texts = [_parts(text, layout.after)[1] for text in texts]
    if layout.before:
        texts = [_parts(text, layout.before)[0] for text in texts]
    for blank, templates in layout.fill.items():
        fillings = [filling for template in templates for filling in _filled(template, row)]
        if any(blank not in text for text in texts):
            raise ValueError(f"{blank!r} is not in the text")
        texts = [text.replace(blank, filling) for text in texts for filling in fillings]
    texts = [text.strip() for text in texts]
    if not layout.may_be_blank and not all(texts):
        raise ValueError("a text is blank")
    return [text for text in texts if text]


def _parts(text: str, mark: str) -> tuple[str, str]:
    before, found, after = text.partition(mark)
    if not found:
        raise ValueError(f"{mark!r} is not in the text")
    return before, after


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
    assert match is not None  # the config was checked
    value: Any = row
    for name in match["fields"].split("."):
        value = value[name]
    index = match["index"]
    values = [value] if index is None else _chosen(value, index, row)
    for one in values:
        if not isinstance(one, (str, int, float)):
            raise TypeError(f"{{{path}}} is no text but a {type(one).__name__}")
    return [str(one) for one in values]


def _chosen(values: Any, index: str, row: dict[str, Any]) -> list[Any]:
    """Return one of a list, or all of it; a negative index, which Python would take, is a missing label."""
    if not isinstance(values, list):
        raise TypeError(f"[{index}] is of a list, not of a {type(values).__name__}")
    if not values:
        raise ValueError(f"[{index}] is of an empty list")
    if index == "*":
        return values
    number = int(index if index.isdigit() else row[index])
    if not 0 <= number < len(values):
        raise IndexError(f"[{index}] is {number}, and there are {len(values)}")
    return [values[number]]
