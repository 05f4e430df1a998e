r"""Where a model came from: the artifacts behind a checkpoint, by hash, and the commands that made them.

checkpoint --> packed data --> corpus --> raw files
         \                \-> tokenizer --> corpus
          \-> the model that it began with --> its data ...
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from lumi.artifacts import MANIFEST, RUN_INFO, Manifest, read_manifest, sha256_file
from lumi.config import read_json_object
from lumi.errors import ConfigError
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.training.checkpoint import read_run

_RAW, _CORPUS, _GONE = "raw file", "corpus", "not here any more"


@dataclass(frozen=True)
class Ancestor:
    """One artifact or raw file that a model came from."""

    path: Path
    kind: str
    sha256: str | None  # of its manifest (of its bytes for a raw file) as it is now; None: not there any more
    expected: str | None  # as its descendant names it
    depth: int
    manifest: Manifest | None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def matches(self) -> bool:
        return self.sha256 is not None and self.expected in (None, self.sha256)


@dataclass(frozen=True)
class MakingStep:
    """A command, and the artifacts that it made; an empty one was not recorded."""

    command: tuple[str, ...]
    made: tuple[str, ...]

    @property
    def line(self) -> str:
        """As it is typed: a script from the repository's root, an installed command by its name."""
        if not self.command:
            return ""
        program, *rest = self.command
        pure = PurePath(program)
        words = ["python", f"scripts/{pure.name}"] if pure.suffix == ".py" else [pure.name]
        return shlex.join([*words, *rest])


def trace(checkpoint: Path, *, raw_files: bool = True) -> tuple[Ancestor, ...]:
    """Return the chain behind a checkpoint, itself first, each artifact above what it was made from.

    Args:
        checkpoint: its folder.
        raw_files: list and hash the files that were read first too; they may be large.

    Raises:
        IntegrityError: a manifest on the way is damaged.
    """
    found = [*_trace(checkpoint, None, 0, set()), *_trace_ingredients(read_run(checkpoint), 1, set())]
    return tuple(_hashed(ancestor) for ancestor in found if raw_files or ancestor.kind != _RAW)


def _hashed(ancestor: Ancestor) -> Ancestor:
    if ancestor.kind != _RAW or not ancestor.path.is_file():
        return ancestor
    return Ancestor(ancestor.path, _RAW, sha256_file(ancestor.path), ancestor.expected, ancestor.depth, None)


def _trace_ingredients(run: Mapping[str, Any], depth: int, seen: set[Path]) -> Iterator[Ancestor]:
    """Yield what a run was made from: its data, and below the model that it began with that model's own."""
    for data in run.get("data", []):
        yield from _trace(Path(data["path"]), data["manifest_sha256"], depth, seen)
    base = run.get("base")
    if base is None:
        return
    path, expected = Path(base["path"]), base["weights_sha256"]
    if not (path / MANIFEST).is_file():
        yield Ancestor(path, _GONE, None, expected, depth, None)
        return
    manifest = read_manifest(path, CHECKPOINT, "train it again")
    yield Ancestor(path, "model to begin with", manifest.sha256_of(WEIGHTS), expected, depth, manifest)
    yield from _trace_ingredients(read_run(path), depth + 1, seen)


def _trace(path: Path, expected: str | None, depth: int, seen: set[Path], of: str = "") -> Iterator[Ancestor]:
    """Yield an artifact and, below it, what it was made from; each one once, raw files not yet hashed."""
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        # a corpus is made of nothing else
        yield Ancestor(path, _RAW if path.is_file() or of == _CORPUS else _GONE, None, expected, depth, None)
        return
    try:
        kind = str(read_json_object(manifest_path).get("kind"))
    except ConfigError:
        kind = "artifact"  # damaged: read_manifest says how
    manifest = read_manifest(path, kind, "build it again")
    yield Ancestor(path, kind, sha256_file(manifest_path), expected, depth, manifest)
    for source in manifest.inputs:
        yield from _trace(path / source.path, source.sha256, depth + 1, seen, kind)


def making_steps(checkpoint: Path) -> tuple[MakingStep, ...]:
    """Return the commands that made a checkpoint and all before it, in an order in which they can be run again.

    One command that made several artifacts stands there once.

    Raises:
        IntegrityError: a manifest on the way is damaged.
    """
    made: dict[tuple[str, ...], list[str]] = {}
    missing = []
    for path, kind in _in_making_order(checkpoint, set()):
        command = _recorded_command(path)
        if command:
            made.setdefault(command, []).append(f"{kind} {path.name}")
        else:
            missing.append(f"{kind} {path.name}")
    steps = [MakingStep(command, tuple(artifacts)) for command, artifacts in made.items()]
    return (*steps, *([MakingStep((), tuple(missing))] if missing else []))


def _in_making_order(path: Path, seen: set[Path]) -> Iterator[tuple[Path, str]]:
    """Yield an artifact behind all that it was made from."""
    manifest_path = path / MANIFEST
    if path.resolve() in seen or not manifest_path.is_file():
        return
    seen.add(path.resolve())
    manifest = read_manifest(path, str(read_json_object(manifest_path).get("kind")), "build it again")
    run = read_run(path) if manifest.kind == CHECKPOINT else {}
    base = [Path(run["base"]["path"])] if run.get("base") else []
    data = [Path(data["path"]) for data in run.get("data", [])]
    for source in (*base, *data, *(path / source.path for source in manifest.inputs)):
        yield from _in_making_order(source, seen)
    yield path, manifest.kind


def _recorded_command(path: Path) -> tuple[str, ...]:
    info = path / RUN_INFO
    return tuple(str(word) for word in read_json_object(info).get("command", ())) if info.is_file() else ()
