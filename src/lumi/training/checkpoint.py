"""Checkpoints: a folder that transformers loads as it is, plus everything that an exact resume needs.

    step_100/  config.json generation_config.json model.safetensors tokenizer files    the model, for anyone
               run.json                                                                 what made it
               training_state/  optimizer.safetensors  rng_00000.safetensors            for an exact resume
                                state.json  metrics.jsonl
               manifest.json                                                            complete, and hashed

Where the ranks hold shards (FSDP), each writes its rows of the optimiser to ``optimizer_00000.safetensors``...,
and ``optimizer.index.json`` says which rows stand where; a run of any number of ranks can read them.

safetensors and JSON only: nothing in it can run code. The folder is written under another name and renamed
when its manifest is there, so a reader sees a complete checkpoint or none.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lumi.artifacts import (
    FORMAT_VERSION,
    MANIFEST,
    RUN_INFO,
    Manifest,
    OutputFile,
    complete,
    describe_file,
    manifest_key,
    package_versions,
    read_manifest,
)
from lumi.artifacts import verify as verify_artifact
from lumi.errors import IntegrityError, ResumeError
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.model.tensor_file import save_tensors
from lumi.progress import say

STATE = "training_state"
MODEL_CARD = "README.md"  # of a finished model; the manifest does not name it
_INDEX = "optimizer.index.json"
_STEP = re.compile(r"step_(\d+)")

Rows = tuple[int, int]  # first, and one past the last


@dataclass(frozen=True)
class TrainingState:
    """What one rank brings to a checkpoint beside the model."""

    progress: dict[str, Any]  # step, tokens, position in the data, loss scale...: JSON
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    metrics: Sequence[dict[str, Any]]
    rows: Mapping[str, Rows | None] | None = None  # of the optimiser's tensors where they are shards; None: whole


def partial_folder(folder: Path) -> Path:
    """Return where a checkpoint stands while it is written."""
    return folder.with_name(f"{folder.name}.partial")


def begin_checkpoint(folder: Path) -> None:
    """Make room for a new checkpoint; what a save that was cut off left there goes."""
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    (partial / STATE).mkdir(parents=True)


def write_share(folder: Path, state: TrainingState, rank: int) -> list[OutputFile]:
    """Write what every rank has of its own: its generators, and its optimiser where that is in shards."""
    files = {f"rng_{rank:05d}": state.rng}
    if state.rows is not None:
        files[f"optimizer_{rank:05d}"] = state.optimizer
    partial = partial_folder(folder)
    for name, tensors in files.items():
        save_tensors(tensors, partial / STATE / f"{name}.safetensors")
    return [describe_file(partial, f"{STATE}/{name}.safetensors") for name in files]


def write_common(
    folder: Path, write_model: Callable[[Path], list[str]], state: TrainingState, run: dict[str, Any]
) -> list[OutputFile]:
    """Write what all ranks have alike; ``write_model`` writes the model's files into a folder and names them."""
    partial = partial_folder(folder)
    files = write_model(partial)
    _write_json(partial / "run.json", run)
    _write_json(partial / STATE / "state.json", state.progress)
    lines = "".join(json.dumps(record) + "\n" for record in state.metrics)
    (partial / STATE / "metrics.jsonl").write_text(lines, encoding="utf8")
    files += ["run.json", f"{STATE}/state.json", f"{STATE}/metrics.jsonl"]
    if state.rows is None:
        save_tensors(state.optimizer, partial / STATE / "optimizer.safetensors")
        files.append(f"{STATE}/optimizer.safetensors")
    return [describe_file(partial, file) for file in files]


def write_index(folder: Path, rows_by_rank: Sequence[Mapping[str, Rows | None]]) -> list[OutputFile]:
    """Write which rows of the optimiser's tensors stand in which rank's file; scalars are in all, and read from one."""
    index = {
        name: [
            {"file": f"optimizer_{rank:05d}.safetensors", "rows": rows[name]}
            for rank, rows in enumerate(rows_by_rank)
            if rows[name] is not None or rank == 0
        ]
        for name in rows_by_rank[0]
    }
    partial = partial_folder(folder)
    _write_json(partial / STATE / _INDEX, index)
    return [describe_file(partial, f"{STATE}/{_INDEX}")]


def publish_checkpoint(
    folder: Path, outputs: Iterable[OutputFile], identity: dict[str, Any], progress: Mapping[str, Any]
) -> None:
    """Write the manifest and give the folder its name: from here on the checkpoint is there."""
    manifest = Manifest(
        kind=CHECKPOINT,
        format_version=FORMAT_VERSION,
        key=manifest_key(CHECKPOINT, identity, ()),
        config=identity,
        inputs=(),
        outputs=tuple(sorted(outputs, key=lambda out: out.file)),
        counts={"step": progress["step"], "tokens": progress["tokens"]},
        versions=package_versions("torch", "safetensors"),
    )
    complete(partial_folder(folder), folder, manifest)


def link_checkpoint(source: Path, target: Path) -> None:
    """Let a second name (``final``, ``best``) stand for a complete checkpoint, without copying its bytes."""
    if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == (source / MANIFEST).read_bytes():
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    manifest = read_manifest(source, CHECKPOINT, "train again")
    # written anew: a link must not change the other name's file
    for name in (MANIFEST, RUN_INFO, MODEL_CARD):
        (partial / name).unlink(missing_ok=True)
    complete(partial, target, manifest)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def verify_checkpoint(folder: Path) -> Manifest:
    """Hash a checkpoint against its manifest.

    Raises:
        ResumeError: there is no such folder.
        IntegrityError: incomplete or damaged.
    """
    if not folder.is_dir():
        raise ResumeError(f"checkpoint {folder} does not exist", "check the path; complete ones are named step_N")
    return verify_artifact(folder, CHECKPOINT, "resume from an older step folder, or pass --fresh to start anew")


def read_run(folder: Path) -> dict[str, Any]:
    """Read what made a checkpoint."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf8"))
    return run


@dataclass(frozen=True)
class StoredState:
    """The state in a verified checkpoint, its tensors read when they are asked for."""

    folder: Path
    progress: dict[str, Any]
    metrics: list[dict[str, Any]]
    _index: dict[str, list[dict[str, Any]]] | None = field(repr=False)

    def rng(self, rank: int) -> dict[str, Tensor] | None:
        """Return the generators of a rank; None: there was no such rank."""
        path = self.folder / f"rng_{rank:05d}.safetensors"
        return load_file(path) if path.is_file() else None

    def optimizer(self, name: str, rows: Rows | None = None) -> Tensor:
        """Return a tensor of the optimiser, or some rows of it."""
        if self._index is None:
            return _read_rows(self.folder / "optimizer.safetensors", name, rows)
        parts = []
        for part in self._index[name]:
            if part["rows"] is None:
                return _read_rows(self.folder / part["file"], name, None)
            first, last = part["rows"]
            start, stop = (first, last) if rows is None else (max(first, rows[0]), min(last, rows[1]))
            if start < stop:
                parts.append(_read_rows(self.folder / part["file"], name, (start - first, stop - first)))
        return torch.cat(parts) if parts else self._empty(name)

    def optimizer_names(self) -> list[str]:
        """Return the names of the optimiser's tensors."""
        if self._index is not None:
            return sorted(self._index)
        with safe_open(self.folder / "optimizer.safetensors", "pt") as file:
            return sorted(file.keys())

    def _empty(self, name: str) -> Tensor:
        assert self._index is not None
        return _read_rows(self.folder / self._index[name][0]["file"], name, (0, 0))


def _read_rows(path: Path, name: str, rows: Rows | None) -> Tensor:
    with safe_open(path, "pt") as file:
        tensor: Tensor = file.get_tensor(name) if rows is None else file.get_slice(name)[rows[0] : rows[1]]
        return tensor


def read_state(folder: Path) -> StoredState:
    """Read what an exact resume needs from a verified checkpoint."""
    state = folder / STATE
    lines = (state / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    index = state / _INDEX
    return StoredState(
        state,
        progress=json.loads((state / "state.json").read_text(encoding="utf8")),
        metrics=[json.loads(line) for line in lines],
        _index=json.loads(index.read_text(encoding="utf8")) if index.is_file() else None,
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a verified checkpoint.

    Raises:
        IntegrityError: they are not float32, which training needs.
    """
    weights = load_file(folder / WEIGHTS)
    if narrow := sorted({str(tensor.dtype) for tensor in weights.values()} - {"torch.float32"}):
        raise IntegrityError(
            f"{folder / WEIGHTS} holds {', '.join(narrow)}, training needs float32", "see docs/checkpoints.md"
        )
    return weights


def step_folders(run_folder: Path) -> list[Path]:
    """Return the step folders of a run, newest first, complete or not."""
    found = [(int(match[1]), path) for path in run_folder.glob("step_*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_complete(run_folder: Path) -> Path | None:
    """Return the newest checkpoint whose every byte is right, saying which were skipped and why."""
    for folder in step_folders(run_folder):
        try:
            verify_checkpoint(folder)
        except IntegrityError as error:
            say(f"skipping {folder.name}: {error.fact}")
            continue
        return folder
    return None


def drop_cut_off_saves(run_folder: Path) -> None:
    """Delete what saves that were cut off left behind."""
    for path in run_folder.glob("*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def drop_old_checkpoints(run_folder: Path, keep: int | None) -> None:
    """Delete all step folders but the ``keep`` newest."""
    for folder in step_folders(run_folder)[keep:] if keep is not None else []:
        # first without its manifest: a deletion cut off half-way must not look like a checkpoint
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
