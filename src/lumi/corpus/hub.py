"""Hugging Face hub data sets as sources: pinned to one commit, streamed, and read on after any network fault.

    name + revision -> commit sha (in the manifest) -> datasets, streaming -> arrow batches -> rows + positions
                                                           ^                                      |
                                                           +--- fault: wait, begin at position ---+

A position is plain JSON, and does not grow with the data set:

    rows    rows given out so far
    state   what `datasets` calls the state of the stream, at the start of a batch; null: at the first row
    after   rows given out since
    reader  what wrote the state: another version, or another size of batches, may not understand it

A local folder in the layout of a hub repository is read by the same code.
"""

import errno
import importlib
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any

from lumi.artifacts import Input, canonical_json, sha256_bytes, sha256_file
from lumi.corpus.config import SourceConfig
from lumi.corpus.rows import Position, RawRow
from lumi.errors import DataError
from lumi.progress import say

READ_ATTEMPTS = 8  # without a new row between them, 1 + 2 + ... + 32 + 60 s apart: two minutes of outage and more
RESOLVE_ATTEMPTS = 4  # a person still watches: 1 + 2 + 4 s
_COMMIT = re.compile("[0-9a-f]{40}")
_LONGEST_WAIT_SECONDS = 60.0
_BATCH_ROWS = 64  # of books, some 30 MB
_NETWORK_MODULES = frozenset({"aiohttp", "http", "httpcore", "httpx", "httpx2", "requests", "socket", "ssl", "urllib3"})
_NETWORK_ERRNOS = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT})
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def hub_input(source: SourceConfig) -> Input:
    """Return what a hub source is at this moment: the commit its revision names, or the contents of its folder.

    The revision for `read_hub` is what `hub_revision` takes out of it.

    Raises:
        DataError: the data set does not exist, is closed to this account, or the hub is out of reach.
    """
    name = _name(source)
    if (folder := Path(name)).is_dir():
        revision = _folder_hash(source, folder)
        return Input(path=f"{name}@{revision}", sha256=revision)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(f"source {source.name}: no folder at {name}", "change `dataset` in the config")
    path = f"hf://datasets/{name}@{_resolve(source, name)}"
    return Input(path=path, sha256=sha256_bytes(path.encode()))


def hub_revision(entry: Input) -> str:
    """Return the revision in an Input made by `hub_input`."""
    return entry.path.rpartition("@")[2]


def _name(source: SourceConfig) -> str:
    assert source.dataset is not None, "SourceConfig checks it"
    return source.dataset


def _folder_hash(source: SourceConfig, folder: Path) -> str:
    """Hash names, sizes and contents; hidden files, such as the notes that `hf download` leaves, are not data."""
    files = [
        (path.relative_to(folder).as_posix(), path.stat().st_size, sha256_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"source {source.name}: the folder {folder} is empty", "change `dataset` in the config")
    return sha256_bytes(canonical_json(files))


def _resolve(source: SourceConfig, name: str) -> str:
    """Ask the hub once which commit the revision names; a whole commit hash names itself."""
    if _COMMIT.fullmatch(source.revision):
        return source.revision
    _, hub = _libraries()
    _check_online(source, hub)

    def ask() -> str:
        sha = hub.HfApi().dataset_info(name, revision=source.revision, timeout=30).sha
        assert isinstance(sha, str), "the hub names the commit of every revision"
        return sha

    what = f"source {source.name}: the hub data set {name}"
    try:
        return _patiently(ask, source, RESOLVE_ATTEMPTS)
    except hub.errors.GatedRepoError:
        raise DataError(
            f"{what} asks its readers to agree to its terms first",
            f"agree at https://huggingface.co/datasets/{name}, then log in with `hf auth login`",
        ) from None
    except hub.errors.RevisionNotFoundError:
        raise DataError(f"{what} has no revision {source.revision}", "change `revision` in the config") from None
    except (hub.errors.RepositoryNotFoundError, hub.errors.HFValidationError):
        raise DataError(
            f"{what} does not exist, or this account may not read it",
            "check `dataset` in the config; for a private one log in with `hf auth login`",
        ) from None


def _check_online(source: SourceConfig, hub: ModuleType) -> None:
    if hub.constants.HF_HUB_OFFLINE:
        raise _out_of_reach(source, "offline mode is on (HF_HUB_OFFLINE)", 0)


def _patiently(ask: Callable[[], str], source: SourceConfig, attempts: int) -> str:
    for failures in range(1, attempts + 1):
        try:
            return ask()
        except Exception as error:
            if not is_transient(error):
                raise
            if failures == attempts:
                raise _out_of_reach(source, _brief(error), attempts) from None
            _wait(source, failures, attempts, error)
    raise AssertionError("the last attempt returns or raises")


def _out_of_reach(source: SourceConfig, why: str, attempts: int) -> DataError:
    name = _name(source)
    tried = f", asked {attempts} times" if attempts else ""
    return DataError(
        f"source {source.name}: the Hugging Face hub is out of reach for data set {name},"
        f" revision {source.revision}{tried}: {why}",
        f"run it again when there is network; or, on a machine that has it,"
        f" `hf download --repo-type dataset {name} --revision {source.revision} --local-dir DIR`,"
        f" copy DIR here and set `dataset` to it; or give your own files with kind jsonl or parquet",
    )


def read_hub(source: SourceConfig, revision: str, position: Position | None = None) -> Iterator[RawRow]:
    """Yield each row, with the position right after it; given one, begin there.

    Of the columns, the text and those of single values (strings, numbers, dates) are kept: images, audio and
    nested values are never decoded. Network faults are waited out and the stream is reopened at the last row, so
    that no row comes twice and none is missing.

    Args:
        source: of kind ``hub``.
        revision: the commit, from `hub_revision`; a folder's is its content hash.
        position: from an earlier call with the same source and revision.

    Raises:
        DataError: no such subset, split or column; rows that cannot be read; or no row in `READ_ATTEMPTS` attempts.
    """
    place = f"{_name(source)}@{revision[:8]}:{source.split}"
    at: Position = position or {"rows": 0, "state": None, "after": 0, "reader": _reader()}
    if at["reader"] != _reader():
        say(f"{source.name}: the position is of {at['reader']}: passing over the first {at['rows']:,} rows")
        at = {"rows": at["rows"], "state": None, "after": at["rows"], "reader": _reader()}
    failures = 0
    while True:
        try:
            for values, behind in _rows_after(at, source, revision):
                at, failures = behind, 0
                yield RawRow(f"{place}:{at['rows']}", values, at)
            return
        except Exception as error:
            if not is_transient(error):
                if isinstance(error, _unreadable()):
                    raise _cannot_be_read(source, at, error) from error
                raise
            failures += 1
            if failures == READ_ATTEMPTS:
                raise DataError(
                    f"source {source.name}: no row of {place} after row {at['rows']} in {failures} attempts:"
                    f" {_brief(error)}",
                    "when there is network again, the same command goes on where it stopped",
                ) from None
            _wait(source, failures, READ_ATTEMPTS, error)


def _rows_after(at: Position, source: SourceConfig, revision: str) -> Iterator[tuple[dict[str, Any], Position]]:
    stream = _open_stream(source, revision).with_format("arrow")  # tables: five times as fast as rows
    state, after, rows = at["state"], at["after"], at["rows"]
    if state is not None:
        stream.load_state_dict(state)
    given = 0  # since ``state``
    for table in stream.iter(batch_size=_BATCH_ROWS):
        following = stream.state_dict()
        fresh = table.slice(after - given)  # beyond the end: nothing
        given += table.num_rows - fresh.num_rows
        for row in _wanted_columns(fresh, source).to_pylist():
            rows += 1
            given += 1
            yield row, {**at, "rows": rows, "state": state, "after": given}
        if given >= after:
            state, after, given = following, 0, 0


def _reader() -> str:
    datasets, _ = _libraries()
    return f"datasets {datasets.__version__}, batches of {_BATCH_ROWS}"


def _open_stream(source: SourceConfig, revision: str) -> Any:
    """Open the split at its first row; nothing of the data set's own code is run."""
    datasets, hub = _libraries()
    name = _name(source)
    commit = None if Path(name).is_dir() else revision
    if commit is not None:
        _check_online(source, hub)
    stream = datasets.load_dataset(name, source.subset, split=source.split, streaming=True, revision=commit)
    columns = stream.column_names
    if columns is not None and (missing := source.missing_column(columns)):
        raise DataError(
            f"source {source.name}: data set {name} has no column {missing} (it has {', '.join(columns)})",
            "change `text_field` in the config",
        )
    return stream


def _wanted_columns(table: Any, source: SourceConfig) -> Any:
    return table.select([field.name for field in table.schema if source.wants_column(field.name, field.type)])


def _libraries() -> tuple[ModuleType, ModuleType]:
    """Import datasets and huggingface_hub, made quiet: no bars, no log lines, no telemetry, no waiting of their own.

    Raises:
        DataError: `datasets` is not installed.
    """
    try:
        datasets, hub = importlib.import_module("datasets"), importlib.import_module("huggingface_hub")
    except ImportError:
        raise DataError(
            "hub data sets need the package datasets, which is not installed", "pip install 'lumi-lab[hub]'"
        ) from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    hub.utils.disable_progress_bars()
    hub.logging.set_verbosity_error()
    hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    # It would try 20 times, 5 s apart, without a word to the user; one place waits, and that is `read_hub`.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    return datasets, hub


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later: the network, an overloaded hub; not a wrong name."""
    causes = _causes(error)
    statuses = [status for cause in causes if (status := _status(cause)) is not None]
    if statuses:
        return statuses[0] in _TRANSIENT_STATUS
    return any(_is_network_fault(cause) for cause in causes)


def _is_network_fault(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK_ERRNOS:
        return True
    # Libraries that may not be installed name their faults by classes of their own.
    return any(cls.__module__.partition(".")[0] in _NETWORK_MODULES for cls in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of any of the client libraries carries."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _causes(error: BaseException) -> list[BaseException]:
    found = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__
    return found


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _wait(source: SourceConfig, failures: int, attempts: int, error: BaseException) -> None:
    seconds = min(2.0 ** (failures - 1), _LONGEST_WAIT_SECONDS)
    say(f"{source.name}: {_brief(error)}; attempt {failures + 1} of {attempts} in {seconds:.0f} s")
    sleep(seconds)


def _unreadable() -> tuple[type[BaseException], ...]:
    """Return what `datasets` raises for data that are not there or not as they should be."""
    import pyarrow

    datasets, _ = _libraries()
    own = datasets.exceptions.DatasetsError
    return OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, pyarrow.ArrowException, own


def _cannot_be_read(source: SourceConfig, at: Position, error: BaseException) -> DataError:
    named = f"{_name(source)}, subset {source.subset or '(default)'}, split {source.split}"
    if "scripts are no longer supported" in str(error):
        return DataError(
            f"source {source.name}: data set {named} needs a program of its own, which is never run",
            'set `revision` to "refs/convert/parquet", where the hub keeps many of these sets as plain files',
        )
    after = f" after row {at['rows']}" if at["rows"] else ""
    return DataError(
        f"source {source.name}: data set {named} cannot be read{after}: {_brief(error)}",
        "check `dataset`, `subset` and `split` in the config against the data set's page; if a local file is"
        " damaged, get it again; where rows differ in shape, give the files with kind jsonl or parquet",
    )
