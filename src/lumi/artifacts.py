"""Artifacts: folders with a manifest, the only thing that stages hand to one another.

    work in NAME.partial-KEY/  ->  hash everything, write manifest.json, fsync  ->  rename to NAME/

The manifest is the only mark of completeness. It names the resolved config, the inputs by the sha256 of their
manifests, and every output file by its sha256; times and host facts stand in ``run_info.json``, which nothing
hashes, so that the same inputs give the same bytes. KEY is the hash of kind, config and inputs: by it a stage
finds its finished output ("up to date") or the interrupted work it may continue.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pydantic import Field, ValidationError

from lumi import __version__
from lumi.config import Config, read_json_object
from lumi.errors import ConfigError, IntegrityError

MANIFEST = "manifest.json"
RUN_INFO = "run_info.json"
_RECORDS = "finished.jsonl"
_LOCK = ".lock"
FORMAT_VERSION = 1


class Input(Config):
    """What an artifact was made from: another artifact (sha256 of its manifest) or a raw file (of its bytes)."""

    path: str
    sha256: str


class OutputFile(Config):
    """One file of an artifact; ``rows`` counts documents, sequences or tensors, where that means something."""

    file: str
    bytes: int
    sha256: str
    rows: int | None = None
    counts: dict[str, Any] = Field(default_factory=dict)


class Manifest(Config):
    """The proof that an artifact is complete, and the list of what is in it."""

    kind: str
    format_version: int
    key: str
    config: dict[str, Any]
    inputs: tuple[Input, ...]
    outputs: tuple[OutputFile, ...]
    counts: dict[str, Any]
    versions: dict[str, str]

    def files(self, suffix: str = "", prefix: str = "") -> list[OutputFile]:
        """Return the outputs whose name has this prefix and suffix, in order."""
        return [out for out in self.outputs if out.file.startswith(prefix) and out.file.endswith(suffix)]

    def sha256_of(self, file: str) -> str | None:
        """Return the sha256 that is named for a file; None where the artifact has no such file."""
        return next((out.sha256 for out in self.outputs if out.file == file), None)


def canonical_json(value: Any) -> bytes:
    """Return the one byte string of a JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed versions of Lumi and of these packages."""
    return {"lumi": __version__, **{name: metadata.version(name) for name in names}}


def artifact_input(folder: Path, relative_to: Path) -> Input:
    """Describe an artifact as an input of another that will stand at ``relative_to``."""
    manifest = folder / MANIFEST
    return Input(path=os.path.relpath(folder.resolve(), relative_to.resolve()), sha256=sha256_file(manifest))


def file_input(path: Path, relative_to: Path) -> Input:
    """Describe a raw file as an input of an artifact that will stand at ``relative_to``."""
    return Input(path=os.path.relpath(path.resolve(), relative_to.resolve()), sha256=sha256_file(path))


def read_manifest(folder: Path, kind: str, way_out: str) -> Manifest:
    """Read a manifest without hashing the files it names.

    Raises:
        IntegrityError: no manifest (the artifact is missing or incomplete), another kind, another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = "is incomplete (it has no manifest.json)" if folder.is_dir() else "does not exist"
        raise IntegrityError(f"{kind} {folder} {state}", way_out)
    written = path.read_bytes()
    try:
        manifest = _unseal(read_json_object(path))
    except (ConfigError, ValidationError) as error:
        raise IntegrityError(f"{path} is damaged: {error}", way_out) from None
    if manifest is None or _sealed(manifest) != written:
        raise IntegrityError(f"{path} is damaged, or was changed by hand: its seal does not fit", way_out)
    if manifest.kind != kind:
        raise IntegrityError(f"{folder} holds a {manifest.kind}, a {kind} is needed here", f"check the path. {way_out}")
    if manifest.format_version != FORMAT_VERSION:
        raise IntegrityError(
            f"{folder} has format version {manifest.format_version}, this Lumi reads {FORMAT_VERSION}",
            way_out,
        )
    return manifest


def verify(folder: Path, kind: str, way_out: str) -> Manifest:
    """Read a manifest and hash every file it names.

    Raises:
        IntegrityError: as `read_manifest`; a file is missing, has another size or other bytes.
    """
    manifest = read_manifest(folder, kind, way_out)
    for out in manifest.outputs:
        path = folder / out.file
        if not path.is_file():
            raise IntegrityError(f"{path} is missing, {folder / MANIFEST} names it", way_out)
        if path.stat().st_size != out.bytes:
            raise IntegrityError(f"{path} has {path.stat().st_size} bytes, its manifest says {out.bytes}", way_out)
        if (found := sha256_file(path)) != out.sha256:
            raise IntegrityError(
                f"{path} is damaged: sha256 {found[:12]}, its manifest says {out.sha256[:12]}", way_out
            )
    return manifest


def _sealed(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest file: its contents and, as ``seal``, their sha256."""
    contents = manifest.resolved()
    sealed = {**contents, "seal": sha256_bytes(canonical_json(contents))}
    return json.dumps(sealed, indent=1, ensure_ascii=False).encode() + b"\n"


def _unseal(data: dict[str, Any]) -> Manifest | None:
    seal = data.pop("seal", None)
    return Manifest.model_validate_json(json.dumps(data)) if seal == sha256_bytes(canonical_json(data)) else None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def describe_file(folder: Path, file: str, rows: int | None = None, counts: dict[str, Any] | None = None) -> OutputFile:
    """Hash one finished file of an artifact."""
    path = folder / file
    return OutputFile(file=file, bytes=path.stat().st_size, sha256=sha256_file(path), rows=rows, counts=counts or {})


def complete(partial: Path, final: Path, manifest: Manifest, scratch: Sequence[str] = ()) -> None:
    """Write the manifest into ``partial`` and `publish` it as ``final``.

    What was only needed for the work (``scratch``) goes once the manifest is there.
    """
    write_run_info(partial)
    write_atomically(partial / MANIFEST, _sealed(manifest))
    for name in scratch:
        shutil.rmtree(partial / name, ignore_errors=True)
        (partial / name).unlink(missing_ok=True)
    publish(partial, final)


def publish(partial: Path, final: Path) -> None:
    """Make everything in ``partial`` durable and rename it to ``final``.

    An older folder at ``final`` is set aside first and deleted last, so that one complete one is there at every moment.
    """
    for path in partial.rglob("*"):
        _fsync(path)
    _fsync(partial)
    replaced = final.with_name(final.name + ".replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    _fsync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def write_run_info(folder: Path) -> None:
    """Note when, where and by which command; nothing hashes this file."""
    info = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }
    (folder / RUN_INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf8")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def manifest_key(kind: str, config: dict[str, Any], inputs: Iterable[Input]) -> str:
    """Return the hash by which a stage finds its own output: what it is, from which config and inputs."""
    named = {"kind": kind, "format": FORMAT_VERSION, "config": config, "inputs": [i.sha256 for i in inputs]}
    return sha256_bytes(canonical_json(named))


class Workspace:
    """A stage's folder while it works; shards recorded as finished survive an interruption.

    Usage::

        with Workspace(output_dir, "corpus", config, inputs) as work:
            if (manifest := work.finished()) is not None:
                return manifest                                  # up to date
            for name in shard_names:
                if work.recorded(name) is None:
                    ...write work.path / name...
                    work.record(name, rows=n)
            return work.publish(counts={...}, versions=package_versions("zstandard"))

    Args:
        output_dir: where the finished artifact will stand.
        kind: ``corpus``, ``tokenizer``, ``packed data``...
        config: its ``identity()`` goes into the key and the manifest.
        inputs: what the artifact is made from.
        fresh: build anew although a complete artifact stands there; it is replaced at the very end.
    """

    def __init__(
        self, output_dir: Path, kind: str, config: Config, inputs: Sequence[Input], *, fresh: bool = False
    ) -> None:
        self.output_dir = output_dir
        self.kind = kind
        self.config = config.identity()
        self.inputs = tuple(inputs)
        self.key = manifest_key(kind, self.config, self.inputs)
        if not output_dir.absolute().name:
            raise ConfigError(f"output_dir {output_dir} has no name", "name a folder below it")
        output_dir = output_dir.absolute() if not output_dir.name else output_dir
        self.path = output_dir.with_name(f"{output_dir.name}.partial-{self.key[:12]}")
        self.fresh = fresh
        self._records: dict[str, OutputFile] = {}
        self._lock: IO[bytes] | None = None

    def finished(self) -> Manifest | None:
        """Return the manifest of the complete output of these very inputs, or None where there is none.

        Raises:
            IntegrityError: something else stands at the output folder, and ``fresh`` was not asked for.
        """
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise IntegrityError(f"{self.output_dir} is a file", "choose another --output_dir")
        if (self.path / MANIFEST).is_file():  # killed while it was published
            return self._publish_again()
        if self.fresh or not self.output_dir.exists() or not any(self.output_dir.iterdir()):
            return None
        way_out = f"choose another --output_dir, or pass --fresh to replace what stands in {self.output_dir}"
        manifest = read_manifest(self.output_dir, self.kind, way_out)
        if manifest.key == self.key:
            return verify(self.output_dir, self.kind, f"pass --fresh to build {self.output_dir} anew")
        changed = [k for k in {*manifest.config, *self.config} if manifest.config.get(k) != self.config.get(k)]
        if [i.sha256 for i in manifest.inputs] != [i.sha256 for i in self.inputs]:
            changed.append("inputs")
        raise IntegrityError(
            f"{self.output_dir} was made with other settings (different: {', '.join(sorted(changed))})",
            way_out,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def open(self) -> Path:
        """Make or reopen the partial folder; shards recorded there earlier count as finished.

        Raises:
            IntegrityError: another process works in it.
        """
        if self._lock is not None:
            return self.path
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / _LOCK).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise IntegrityError(f"another process is working in {self.path}", "wait for it, or end it") from None
        self._lock = lock
        records = self.path / _RECORDS
        for line in records.read_text(encoding="utf8").splitlines() if records.exists() else []:
            try:
                record = OutputFile.model_validate_json(line)
            except ValidationError:  # the line that an interruption cut off
                break
            path = self.path / record.file
            if path.is_file() and path.stat().st_size == record.bytes and sha256_file(path) == record.sha256:
                self._records[record.file] = record
        return self.path

    def recorded(self, file: str) -> OutputFile | None:
        """Return the record of a file that an earlier, interrupted run finished, or None."""
        return self._records.get(file)

    def record(self, file: str, rows: int | None = None, counts: dict[str, Any] | None = None) -> OutputFile:
        """Mark a file in the partial folder as finished."""
        record = describe_file(self.path, file, rows, counts)
        _fsync(self.path / file)  # before the line that says so
        with (self.path / _RECORDS).open("ab") as log:
            log.write(canonical_json(record.resolved()) + b"\n")
            log.flush()
            os.fsync(log.fileno())
        self._records[file] = record
        return record

    def discard(self, file: str) -> None:
        """Delete an intermediate file and its record, so that it does not become an output."""
        self._records.pop(file, None)
        (self.path / file).unlink(missing_ok=True)

    def _publish_again(self) -> Manifest | None:
        """Finish a publish that was cut off; None where what it named is not all there."""
        self.open()
        try:
            manifest = verify(self.path, self.kind, "")
        except IntegrityError:
            (self.path / MANIFEST).unlink()
            return None
        named = {Path(out.file).parts[0] for out in manifest.outputs} | {MANIFEST, RUN_INFO}
        rest = [path.name for path in self.path.iterdir() if path.name not in named]
        complete(self.path, self.output_dir, manifest, rest)
        return manifest

    def publish(self, *, counts: dict[str, Any], versions: dict[str, str], scratch: str | None = None) -> Manifest:
        """Write the manifest over all recorded files and rename the folder to its final name.

        Args:
            counts: for the manifest.
            versions: for the manifest.
            scratch: a folder in it that was only needed for the work.
        """
        manifest = Manifest(
            kind=self.kind,
            format_version=FORMAT_VERSION,
            key=self.key,
            config=self.config,
            inputs=self.inputs,
            outputs=tuple(
                self._records[name]
                for name in sorted(self._records)
                if scratch is None or Path(name).parts[0] != scratch
            ),
            counts=counts,
            versions=versions,
        )
        complete(self.path, self.output_dir, manifest, [*([scratch] if scratch else []), _RECORDS, _LOCK])
        return manifest
