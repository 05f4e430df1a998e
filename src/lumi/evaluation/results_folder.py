"""A results folder as it lies on disk: the figures of one model, and the pieces that each of them is made of."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lumi.artifacts import MANIFEST, sha256_file
from lumi.errors import DataError
from lumi.evaluation.results import (
    FORMAT_VERSION,
    PARTS,
    RESULTS,
    Evaluation,
    Measurement,
    Outcomes,
    Part,
    TaskResult,
    read_parts,
)

RESULTS_DIR = Path("evaluation_results")
_ANY_MODEL = Path("checkpoints/pretrain/tiny/final")


@dataclass(frozen=True)
class ResultsFolder:
    """What an evaluation left behind."""

    path: Path
    evaluation: Evaluation
    parts: tuple[Part, ...]

    def outcomes_of(self, result: Measurement | TaskResult) -> Outcomes | None:
        """Return the pieces of a figure; None where they were not kept.

        A part counts only if results.json holds the very same result: one that an earlier model of the same name
        left in the folder is never taken for this one's.
        """
        found = (part.outcomes for part in self.parts if result in (part.task, part.text, part.held_out))
        return next(found, None)


def read_results_folder(path: Path) -> ResultsFolder:
    """Read results.json and its parts.

    Raises:
        DataError: there are none, they are damaged, or of another format version.
    """
    file = path / RESULTS
    if not file.is_file():
        started = (path / PARTS).is_dir()
        raise DataError(
            f"the evaluation in {path} was not finished" if started else f"{path} holds no {RESULTS}",
            "run the same `lumi evaluate` command again: it goes on where it was cut off"
            if started
            else f"measure a model first: {evaluate_command(_ANY_MODEL)}",
        )
    evaluation = _read_evaluation(file)
    parts = read_parts(path)
    whole = {f"{name}.json" for name in parts}
    if damaged := sorted(part.name for part in (path / PARTS).glob("*.json") if part.name not in whole):
        raise DataError(
            f"{path / PARTS / damaged[0]} is damaged, or of another format version",
            f"the same command measures that part anew: {evaluate_command(Path(evaluation.model.path), path.parent)}",
        )
    return ResultsFolder(path, evaluation, tuple(parts.values()))


def find_results_folder(path: Path, results_dir: Path) -> Path:
    """Return a results folder, or the newest one that is about the checkpoint at ``path``.

    Raises:
        DataError: there is nothing there, or its checkpoint was not evaluated.
    """
    if (path / RESULTS).is_file() or (path / PARTS).is_dir():
        return path
    if not (path / MANIFEST).is_file():
        state = "is neither a results folder nor a checkpoint" if path.exists() else "does not exist"
        raise DataError(f"{path} {state}", f"give a folder in {results_dir}, or a checkpoint (it has a {MANIFEST})")
    sha256 = sha256_file(path / MANIFEST)
    for folder in _folders(results_dir):
        if _model_sha256(folder / RESULTS) == sha256:
            return folder
    raise DataError(
        f"{path} was not evaluated: no results in {results_dir} are about it",
        evaluate_command(path, results_dir),
    )


def newest_results_folder(results_dir: Path) -> Path:
    """Return the folder whose results were written last.

    Raises:
        DataError: there is none.
    """
    for folder in _folders(results_dir):
        return folder
    raise DataError(
        f"there are no results in {results_dir}",
        f"measure a model first: {evaluate_command(_ANY_MODEL, results_dir)}",
    )


def evaluate_command(model_path: Path, results_dir: Path = RESULTS_DIR) -> str:
    """Return the command that measures a model into a folder of these results."""
    where = "" if results_dir == RESULTS_DIR else f" --output_dir {shlex.quote(str(results_dir))}"
    return f"lumi evaluate --model_path {shlex.quote(str(model_path))}{where}"


def _folders(results_dir: Path) -> Iterator[Path]:
    files = [path for path in results_dir.glob(f"*/{RESULTS}") if path.is_file()]
    yield from (path.parent for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True))


def _model_sha256(file: Path) -> str | None:
    """Return which model results are about; None where that cannot be read, which is told where they are asked for."""
    try:
        model = json.loads(file.read_bytes())["model"]
        return str(model["sha256"])
    except (ValueError, KeyError, TypeError):
        return None


def _read_evaluation(file: Path) -> Evaluation:
    model = f"the model of {file.parent.name}"
    way_out = f"measure {model} again: {evaluate_command(Path('MODEL'), file.parent.parent)}"
    try:
        data: Any = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}", way_out) from None
    if isinstance(data, dict) and (version := data.get("format_version", 1)) != FORMAT_VERSION:
        raise DataError(f"{file} has format version {version}, this Lumi reads {FORMAT_VERSION}", way_out)
    try:
        return Evaluation.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise DataError(f"{file} is damaged: {key}: {first['msg'].lower()}", way_out) from None
