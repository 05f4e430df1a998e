"""Looking at checkpoints: which there are, whether they are whole, what differs between two."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor

from lumi.artifacts import MANIFEST, Manifest, read_manifest
from lumi.config import Config, Positional
from lumi.errors import DataError, IntegrityError, LumiError
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.training.checkpoint import STATE, StoredState, read_run, read_state, step_folders, verify_checkpoint

_WAY_OUT = "give a run folder such as checkpoints/pretrain/tiny, or a checkpoint in it"
_SHOWN = 8  # tensors that differ most
_NAMES = ("final", "best")  # second names of step folders


class ListConfig(Config):
    """Show the checkpoints of a run, by their manifests; nothing is hashed."""

    path: Annotated[Path, Positional]
    """Run folder."""


class VerifyConfig(Config):
    """Hash checkpoints against their manifests; exits with 1 when one is damaged."""

    path: Annotated[Path, Positional]
    """Run folder, or one checkpoint."""


class DiffConfig(Config):
    """Show what differs between two checkpoints: settings, data, tensors, generators, losses."""

    paths: Annotated[tuple[Path, ...], Positional] = Field(min_length=2, max_length=2)
    """Two checkpoints."""


def list_checkpoints(config: ListConfig) -> None:
    """Print one line per checkpoint, the newest first.

    Raises:
        DataError: there is none.
    """
    folders = _checkpoints(config.path)
    names = _second_names(config.path)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (("checkpoint", "left"), ("step", "right"), ("tokens", "right"), ("held-out", "right"),
                            ("ranks", "right"), ("size", "right"), ("", "left")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for folder in folders:
        try:
            manifest = _look(folder)
        except IntegrityError as error:
            table.add_row(folder.name, "", "", "", "", "", f"not complete: {error.fact}")
            continue
        state = read_state(folder)
        size = sum(out.bytes for out in manifest.outputs)
        table.add_row(
            folder.name,
            f"{state.progress['step']:,}",
            f"{state.progress['tokens']:,}",
            _held_out(state),
            str(state.progress["world_size"]),
            f"{size / 1e6:,.0f} MB",
            ", ".join(names.get((folder / MANIFEST).read_bytes(), [])),
        )
    Console(highlight=False, markup=False, soft_wrap=True).print(table)


def verify(config: VerifyConfig) -> None:
    """Hash every byte, a line per checkpoint.

    Raises:
        DataError: there is no checkpoint.
        SystemExit: 1 when one is damaged.
    """
    damaged = False
    for folder in _checkpoints(config.path):
        try:
            manifest = verify_checkpoint(folder)
        except LumiError as error:
            damaged = True
            print(f"{folder}: DAMAGED: {error.fact}")
        else:
            print(f"{folder}: whole, {len(manifest.outputs)} files")
    if damaged:
        raise SystemExit(1)


def diff(config: DiffConfig) -> None:
    """Print what differs between two checkpoints; nothing is said of what is equal but that it is.

    Raises:
        DataError: one of them is no checkpoint.
    """
    one, other = (_checkpoints(path)[0] for path in config.paths)
    for lines in (_diff_settings(one, other), _diff_tensors(one, other), _diff_state(one, other)):
        for line in lines:
            print(line)


def _checkpoints(path: Path) -> list[Path]:
    """Return the checkpoint at a path, or those of the run there."""
    if (path / MANIFEST).is_file() or (path / STATE).is_dir():
        return [path]
    found = step_folders(path) if path.is_dir() else []
    if not found:
        raise DataError(f"there is no checkpoint in {path}", _WAY_OUT)
    return found


def _look(folder: Path) -> Manifest:
    manifest = read_manifest(folder, CHECKPOINT, _WAY_OUT)
    for out in manifest.outputs:
        path = folder / out.file
        if not path.is_file() or path.stat().st_size != out.bytes:
            raise IntegrityError(f"{out.file} is missing or has another size", _WAY_OUT)
    return manifest


def _second_names(run_folder: Path) -> dict[bytes, list[str]]:
    """Return final and best by the manifest that they share with a step folder."""
    names: dict[bytes, list[str]] = {}
    for name in _NAMES:
        if (manifest := run_folder / name / MANIFEST).is_file():
            names.setdefault(manifest.read_bytes(), []).append(name)
    return names


def _held_out(state: StoredState) -> str:
    here = [r["val_loss"] for r in state.metrics if r.get("val_loss") and r["step"] == state.progress["step"]]
    return ", ".join(f"{loss:.4f}" for loss in here[-1].values()) if here else ""


def _diff_settings(one: Path, other: Path) -> Iterator[str]:
    runs = [_flat(read_run(folder)) for folder in (one, other)]
    different = sorted(key for key in {*runs[0], *runs[1]} if runs[0].get(key) != runs[1].get(key))
    yield f"run.json: {len(different)} of {len({*runs[0], *runs[1]})} values differ"
    for key in different:
        yield f"  {key}: {runs[0].get(key)} -> {runs[1].get(key)}"


def _diff_tensors(one: Path, other: Path) -> Iterator[str]:
    with safe_open(one / WEIGHTS, "pt") as mine, safe_open(other / WEIGHTS, "pt") as theirs:
        yield from _compare("weights", dict.fromkeys(mine.keys()), dict.fromkeys(theirs.keys()),
                            lambda name: (mine.get_tensor(name), theirs.get_tensor(name)))  # fmt: skip
    states = read_state(one), read_state(other)
    yield from _compare("optimiser", dict.fromkeys(states[0].optimizer_names()),
                        dict.fromkeys(states[1].optimizer_names()),
                        lambda name: (states[0].optimizer(name), states[1].optimizer(name)))  # fmt: skip


def _compare(what: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], read: Any) -> Iterator[str]:
    found: list[tuple[float, float, str]] = []
    shapes = []
    shared = [name for name in mine if name in theirs]
    for name in shared:
        a, b = read(name)
        if a.shape != b.shape:
            shapes.append(f"  {name}: shape {tuple(a.shape)} -> {tuple(b.shape)}")
        elif not torch.equal(a, b):
            found.append((*_distance(a, b), name))
    yield f"{what}: {len(found) + len(shapes)} of {len(shared)} tensors differ"
    yield from shapes
    for largest, relative, name in sorted(found, reverse=True)[:_SHOWN]:
        yield f"  {name}: by at most {largest:.3g}, {relative:.1e} of its norm"
    if len(found) > _SHOWN:
        yield f"  ... and {len(found) - _SHOWN} more, by less"
    for name in sorted({*mine} ^ {*theirs}):
        yield f"  {name}: only in the {'first' if name in mine else 'second'}"


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    gap = (b - a).double()
    return gap.abs().max().item(), (gap.norm() / a.double().norm().clamp(min=1e-30)).item()


def _diff_state(one: Path, other: Path) -> Iterator[str]:
    states = read_state(one), read_state(other)
    progress = [_flat(state.progress) for state in states]
    for key in sorted(key for key in {*progress[0], *progress[1]} if progress[0].get(key) != progress[1].get(key)):
        yield f"state: {key}: {progress[0].get(key)} -> {progress[1].get(key)}"
    for rank in range(max(state.progress["world_size"] for state in states)):
        generators = [state.rng(rank) or {} for state in states]
        names = {*generators[0], *generators[1]}
        different = sorted(n for n in names if not _equal(generators[0].get(n), generators[1].get(n)))
        yield f"generators of rank {rank}: " + (", ".join(different) + " differ" if different else "equal")
    logs = [{r["step"]: r["loss"] for r in state.metrics if "loss" in r} for state in states]
    parted = next((step for step in sorted({*logs[0]} & {*logs[1]}) if logs[0][step] != logs[1][step]), None)
    if parted is None:
        yield f"loss log: equal in all {len({*logs[0]} & {*logs[1]})} lines that both have"
    else:
        yield f"loss log: equal until step {parted}, there {logs[0][parted]} -> {logs[1][parted]}"


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON as ``a.b.0.c`` names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {prefix.removesuffix("."): json.loads(json.dumps(value))}
    return {name: leaf for key, part in items for name, leaf in _flat(part, f"{prefix}{key}.").items()}
