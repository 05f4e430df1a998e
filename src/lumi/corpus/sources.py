"""Sources: files, packages or a grammar in, raw rows out. Reading only; nothing is parsed or judged here."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import IO, Any

from lumi.artifacts import Input, canonical_json, file_input, sha256_bytes
from lumi.corpus.compression import COMPRESSED, UNREADABLE, OnRead, ignore, open_any
from lumi.corpus.config import SourceConfig
from lumi.corpus.embedded import embedded_inputs, read_embedded
from lumi.corpus.hub import hub_input, hub_revision, read_hub
from lumi.corpus.rows import BrokenRow, Position, RawRow, row_values
from lumi.corpus.synthetic import synthetic_conversations, synthetic_documents, synthetic_preferences
from lumi.errors import DataError
from lumi.progress import say

_BLOCK = 1 << 22
_BOM = "\ufeff".encode()
_BESIDE = ("readme", "license", "licence", "citation", "dataset_infos", "dataset_info")
_SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
    "text": (".txt", ".md", ".text", ".raw"),
}


def at_hand(source: SourceConfig) -> SourceConfig:
    """Return a hub source as one of files where its `files` are there: a copy here needs no network."""
    if source.kind != "hub":
        return source
    by_kind = {
        kind: {path: pattern for pattern in source.files for path in _matches(pattern, kind)} for kind in _SUFFIXES
    }
    kind = max(by_kind, key=lambda kind: sum(path.stat().st_size for path in by_kind[kind]))
    found = list(by_kind[kind])
    if not found:
        return source
    # a download of a whole data set has other subsets and splits in it
    for part in (source.subset, source.split):
        named = [path for path in found if part and _names_part(path, part)]
        found = named or found
    say(f"{source.name}: reading {', '.join(dict.fromkeys(by_kind[kind].values()))} instead of the hub")
    files = tuple(str(path) for path in found)
    return source.model_copy(update={"kind": kind, "files": files, "dataset": None, "subset": None})


def _names_part(path: Path, part: str) -> bool:
    """Say whether a path is of a subset or split: a folder of that name, or a file that begins with it."""
    folders, name = path.parts[:-1], path.name
    return (
        part in folders
        or re.match(rf"{re.escape(part)}(?![a-zA-Z0-9])|.*[-_.]{re.escape(part)}[-_.]", name) is not None
    )


def _matches(pattern: str, kind: str) -> Iterator[Path]:
    named = Path(pattern).expanduser()
    places = [named] if named.exists() else map(Path, sorted(glob(str(named), recursive=True)))  # noqa: PTH207
    return itertools.chain.from_iterable(_files_at(place, kind) for place in places)


def find_files(source: SourceConfig) -> list[Path]:
    """Return the files of a source in order, each once: globs, and folders searched for files of its kind.

    Raises:
        DataError: a pattern finds nothing.
    """
    found: list[Path] = []
    for pattern in source.files:
        matches = list(_matches(pattern, source.kind))
        if not matches:
            kinds = " ".join(_SUFFIXES[source.kind])
            raise DataError(
                f"source {source.name}: no file at {pattern}",
                f"put files there ({kinds}; also compressed: {' '.join(COMPRESSED)}), or change `files` in the config",
            )
        found += matches
    if gone := next((path for path in found if not path.is_file()), None):
        raise DataError(f"source {source.name}: {gone} is no file", "a broken link? Mend it, or take it out of files")
    return list(dict.fromkeys(found))


def _files_at(place: Path, kind: str) -> list[Path]:
    if not place.is_dir():
        return [place]
    return sorted(
        path
        for path in place.rglob("*")
        if _plain_suffix(path) in _SUFFIXES[kind]
        and path.is_file()
        and not _is_beside_the_data(path.relative_to(place))
    )


def _plain_suffix(path: Path) -> str:
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def _is_beside_the_data(path: Path) -> bool:
    """Say whether a file below a folder is about the data, or hidden: cards, licences, the hub's own notes."""
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.stem.lower() in _BESIDE


def source_inputs(source: SourceConfig, relative_to: Path) -> list[Input]:
    """Return what a source reads, hashed, for the manifest."""
    if source.kind in ("text", "jsonl", "parquet"):
        return [file_input(path, relative_to) for path in find_files(source)]
    if source.kind == "hub":
        return [hub_input(source)]
    if source.kind == "synthetic":
        return [Input(path="synthetic", sha256=sha256_bytes(canonical_json([source.seed, source.max_bytes])))]
    return embedded_inputs(source.package)


def source_bytes(source: SourceConfig) -> int | None:
    """Return how many bytes a source reads from disk, for the progress bar; None where that is not known."""
    if source.kind in ("text", "jsonl", "parquet"):
        return sum(path.stat().st_size for path in find_files(source))
    return None


def read_source(
    source: SourceConfig,
    on_read: OnRead = ignore,
    *,
    inputs: Sequence[Input] = (),
    skip: int = 0,
    position: Position | None = None,
) -> Iterator[RawRow]:
    """Yield the rows of a source in their order.

    Args:
        source: the source.
        on_read: told of `source_bytes` as they are used up.
        inputs: its `source_inputs`; a hub source is read at the commit that they name.
        skip: rows that are left out.
        position: of a hub source, behind the last of them: they need not be read again.

    Raises:
        DataError: a file cannot be read or decompressed, or a package is missing.
    """
    if source.kind == "hub":
        rows, skip = read_hub(source, hub_revision(inputs[0]), position), 0 if position else skip
    else:
        rows = _read_local(source, on_read)
    yield from itertools.islice(rows if source.group_by is None else _grouped(rows, source.group_by), skip, None)


def _grouped(rows: Iterator[RawRow], key: str) -> Iterator[RawRow]:
    """Join rows that follow one another and have the same value under a key; a row without it stays as it is."""
    group: list[dict[str, Any]] = []
    first = last = None
    for row in rows:
        try:
            values = row_values(row)
        except BrokenRow:
            values = {}
        if group and values.get(key) != group[0][key] and first and last:
            yield RawRow(first.place, {"tree": group}, last.position)
            group = []
        if values.get(key) is None:
            yield row
        else:
            first, last = (first if group else row), row
            group.append(values)
    if group and first and last:
        yield RawRow(first.place, {"tree": group}, last.position)


def _read_local(source: SourceConfig, on_read: OnRead) -> Iterator[RawRow]:
    if source.kind == "package":
        yield from read_embedded(source.package)
    elif source.kind == "synthetic":
        yield from _read_synthetic(source)
    else:
        readers = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet}
        for path in find_files(source):
            try:
                yield from readers[source.kind](path, source, on_read)
            except UNREADABLE as error:
                raise DataError(
                    f"{path} cannot be read: {error}", "replace the file, or take it out of files"
                ) from None


def _read_synthetic(source: SourceConfig) -> Iterator[RawRow]:
    made: Iterator[dict[str, Any]]
    if source.package == "preferences":
        made = synthetic_preferences(source.seed)
    elif source.package == "conversations":
        made = ({"turns": turns} for turns in synthetic_conversations(source.seed))
    else:
        made = ({source.text_field: text} for text in synthetic_documents(source.seed))
    for number, row in enumerate(made):
        yield RawRow(f"synthetic:{number}", row)


def _read_text(path: Path, source: SourceConfig, on_read: OnRead) -> Iterator[RawRow]:
    with open_any(path, on_read) as file:
        if source.separator is None:
            yield RawRow(str(path), {source.text_field: file.read()})
            return
        separator = source.separator.replace("\r\n", "\n").encode()
        line = 1
        for part in _split(file, separator):
            if part.strip():
                yield RawRow(f"{path}:{line}", {source.text_field: part})
            line += part.count(b"\n") + separator.count(b"\n")


def _split(file: IO[bytes], separator: bytes) -> Iterator[bytes]:
    r"""Yield what stands between separators, ``\r\n`` read as ``\n``; only one part is in memory."""
    rest = held = b""
    while block := file.read(_BLOCK):
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""  # the \n may come with the next block
        *parts, rest = (rest + block.removesuffix(held).replace(b"\r\n", b"\n")).split(separator)
        yield from parts
    yield rest + held


def _read_jsonl(path: Path, source: SourceConfig, on_read: OnRead) -> Iterator[RawRow]:
    with open_any(path, on_read) as file:
        lines = enumerate(file, 1)
        for number, line in lines:
            if line.removeprefix(_BOM).lstrip().startswith(b"["):
                yield from _read_array(path, line + file.read())
                return
            if line.strip():
                yield RawRow(f"{path}:{number}", line)
                break
        for number, line in lines:
            if line.strip():
                yield RawRow(f"{path}:{number}", line)


def _read_array(path: Path, data: bytes) -> Iterator[RawRow]:
    """Yield the objects of one JSON array, which is read whole."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON array that can be read: {error}", "mend or replace the file") from None
    for number, value in enumerate(values, 1):
        row = value if isinstance(value, dict) else json.dumps(value).encode()  # the latter is set aside as broken
        yield RawRow(f"{path}, item {number}", row)


def _read_parquet(path: Path, source: SourceConfig, on_read: OnRead) -> Iterator[RawRow]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{path} needs pyarrow, which is not installed", "pip install 'lumi-lab[parquet]'") from None
    try:
        number = 0
        table = parquet.ParquetFile(path)
        bytes_per_row = path.stat().st_size / max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(batch_size=1024):
            on_read(round(batch.num_rows * bytes_per_row))
            for row in _values(batch):
                number += 1
                yield RawRow(f"{path}:{number}", row)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable parquet file: {error}", "replace the file") from None


def _values(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch; a value that Python cannot hold is given as its bytes, or as nothing."""
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError):
        for number in range(batch.num_rows):
            yield {name: _value(batch.column(name)[number]) for name in batch.schema.names}


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()
    except (OverflowError, ValueError):  # a date beyond Python's
        return None
