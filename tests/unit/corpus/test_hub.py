"""Hub data sets: the code that streams from the hub, run on local folders, with faults put into its stream."""

import json
import os
import subprocess
import sys

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

from lumi.corpus import hub  # noqa: E402
from lumi.corpus.config import SourceConfig  # noqa: E402
from lumi.corpus.hub import hub_input, hub_revision, read_hub  # noqa: E402
from lumi.errors import ConfigError, DataError  # noqa: E402

NUM_ROWS = 30


def source(dataset, **values):
    values = {"name": "s", "kind": "hub", "dataset": str(dataset), "licence": "none", **values}
    return SourceConfig.from_values(values, "test")


def texts_of(rows):
    return [row.data["text"] for row in rows]


def numbered(file, count):
    return [{"text": f"file {file} row {i}", "title": f"t{i}", "n": i, "tags": ["a"], "image": {"bytes": b"\xff"}}
            for i in range(count)]  # fmt: skip


def write_parquet(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub, "_BATCH_ROWS", 4)  # so that a file ends within a batch


@pytest.fixture
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(hub, "sleep", seconds.append)
    return seconds


@pytest.fixture(params=["parquet", "jsonl"])
def folder(request, tmp_path):
    """Two files of 17 and 13 rows; the parquet ones in row groups of 5."""
    for file, count in enumerate((17, 13)):
        path = tmp_path / "set" / "data" / f"train-0000{file}-of-00002.{request.param}"
        if request.param == "parquet":
            write_parquet(path, numbered(file, count), row_group_size=5)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{**row, "image": None} for row in numbered(file, count)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "set"


ALL = [row["text"] for file, count in enumerate((17, 13)) for row in numbered(file, count)]


def test_rows_come_in_order_each_with_its_place_and_its_single_values(folder):
    rows = list(read_hub(source(folder), "c0ffee00beef"))
    assert texts_of(rows) == ALL
    assert rows[17].place == f"{folder}@c0ffee00:train:18"
    assert rows[17].data == {"text": "file 1 row 0", "title": "t0", "n": 0}
    assert [row.position["rows"] for row in rows] == list(range(1, NUM_ROWS + 1))


def test_reading_goes_on_from_every_position(folder):
    positions = [row.position for row in read_hub(source(folder), "x")]
    for position in positions:
        position = json.loads(json.dumps(position))  # as it comes back from a file
        again = list(read_hub(source(folder), "x", position))
        assert texts_of(again) == ALL[position["rows"] :]
        assert [row.position["rows"] for row in again] == list(range(position["rows"] + 1, NUM_ROWS + 1))


def test_a_position_reached_after_a_continuation_is_as_good(folder):
    done, position = [], None
    for _ in range(NUM_ROWS):  # stopped after every single row
        row = next(read_hub(source(folder), "x", position))
        position = row.position
        done.append(row.data["text"])
    assert done == ALL
    assert list(read_hub(source(folder), "x", position)) == []


def test_a_position_of_another_reader_is_counted_out_from_the_first_row(folder, monkeypatch, capsys):
    positions = [row.position for row in read_hub(source(folder), "x")]
    monkeypatch.setattr(hub, "_BATCH_ROWS", 7)
    for position in positions:
        again = list(read_hub(source(folder), "x", position))
        assert texts_of(again) == ALL[position["rows"] :]
        if again:  # and from there on it is a position like any other
            assert texts_of(read_hub(source(folder), "x", again[0].position)) == ALL[position["rows"] + 1 :]
    assert "passing over the first 12 rows" in capsys.readouterr().err


class Faulty:
    """A stream that raises when it is asked for these batches, once for each time a number is named."""

    def __init__(self, stream, faults, error):
        self.stream, self.faults, self.error = stream, faults, error

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def with_format(self, kind):
        return Faulty(self.stream.with_format(kind), self.faults, self.error)

    def iter(self, batch_size):
        for table in self.stream.iter(batch_size=batch_size):
            name = table["text"][0].as_py()
            if name in self.faults:
                self.faults.remove(name)
                raise self.error
            yield table


def put_faults(monkeypatch, faults, error):
    left = list(faults)
    plain = hub._open_stream
    monkeypatch.setattr(hub, "_open_stream", lambda *args: Faulty(plain(*args), left, error))
    return left


FIRST_OF_BATCHES = ALL[::4]


def test_faults_are_waited_out_and_no_row_is_lost_or_doubled(folder, monkeypatch, waits, capsys):
    every = [name for name in FIRST_OF_BATCHES for _ in range(3)]
    left = put_faults(monkeypatch, every, ConnectionResetError("peer went away"))
    rows = list(read_hub(source(folder), "x"))
    assert texts_of(rows) == ALL
    assert not left
    assert waits == [1, 2, 4] * len(FIRST_OF_BATCHES)  # rows in between begin the count anew
    said = capsys.readouterr().err
    assert said.count("peer went away") == len(every)
    assert "attempt 2 of 8 in 1 s" in said


def test_faults_before_the_first_row_are_waited_out_as_well(folder, monkeypatch, waits):
    plain, failures = hub._open_stream, [TimeoutError("slow"), ConnectionError("no route")]

    def sometimes(*args):
        if failures:
            raise failures.pop()
        return plain(*args)

    monkeypatch.setattr(hub, "_open_stream", sometimes)
    assert texts_of(read_hub(source(folder), "x")) == ALL
    assert waits == [1, 2]


def test_after_eight_attempts_without_a_row_it_stops_and_the_position_is_still_good(folder, monkeypatch, waits):
    put_faults(monkeypatch, [FIRST_OF_BATCHES[3]] * 8, ConnectionResetError("peer went away"))
    rows = read_hub(source(folder), "x")
    done = [next(rows) for _ in range(12)]
    with pytest.raises(DataError, match=r"after row 12 in 8 attempts: ConnectionResetError: peer went away") as stop:
        next(rows)
    assert "the same command goes on" in stop.value.way_out
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    assert texts_of(done) + texts_of(read_hub(source(folder), "x", done[-1].position)) == ALL


def test_other_errors_are_not_retried(folder, monkeypatch, waits):
    put_faults(monkeypatch, [FIRST_OF_BATCHES[1]], FileNotFoundError("data/train-1"))
    with pytest.raises(DataError, match=r"cannot be read after row 4: FileNotFoundError: data/train-1"):
        list(read_hub(source(folder), "x"))
    put_faults(monkeypatch, [FIRST_OF_BATCHES[1]], ZeroDivisionError("a bug of ours"))
    with pytest.raises(ZeroDivisionError):
        list(read_hub(source(folder), "x"))
    assert waits == []


class Answer:
    def __init__(self, status_code):
        self.status_code = status_code


class HttpError(OSError):
    def __init__(self, status_code):
        super().__init__(f"status {status_code}")
        self.response = Answer(status_code)


def in_module(name, bases=(Exception,)):
    return type("Fault", bases, {"__module__": name})("x")


def caused_by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, transient",
    [
        (HttpError(503), True),
        (HttpError(429), True),
        (HttpError(404), False),
        (HttpError(401), False),
        (OSError(101, "network is unreachable"), True),
        (OSError(28, "no space left on device"), False),
        (PermissionError("no"), False),
        (in_module("aiohttp.client_exceptions"), True),
        (in_module("httpx2"), True),
        (in_module("pyarrow.lib"), False),
        (caused_by(RuntimeError("wrapped"), ConnectionError("x")), True),
        (caused_by(in_module("httpx2"), HttpError(404)), False),
        (ValueError("x"), False),
    ],
)
def test_what_counts_as_a_fault_of_the_network(error, transient):
    assert hub.is_transient(error) is transient


def test_the_identity_of_a_folder_is_its_contents(folder):
    first = hub_input(source(folder))
    assert first.sha256 == hub_revision(first)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("from hf download")
    assert hub_input(source(folder)) == first
    file = next((folder / "data").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert hub_input(source(folder)).sha256 != first.sha256
    file.rename(file.with_name("other" + file.suffix))
    assert hub_input(source(folder)).sha256 != first.sha256


def test_subset_and_split_are_those_of_the_card(tmp_path):
    write_parquet(tmp_path / "en" / "a.parquet", [{"text": "english"}])
    write_parquet(tmp_path / "fr" / "a.parquet", [{"text": "french"}])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: books\n    path: en/*.parquet\n"
        "- config_name: fr\n  data_files:\n  - split: books\n    path: fr/*.parquet\n---\n"
    )
    assert texts_of(read_hub(source(tmp_path, subset="fr", split="books"), "x")) == ["french"]
    with pytest.raises(DataError, match=r"subset \(default\), split books cannot be read: .*'en', 'fr'"):
        list(read_hub(source(tmp_path, split="books"), "x"))
    with pytest.raises(DataError, match=r"split train cannot be read: .*books"):
        list(read_hub(source(tmp_path, subset="fr"), "x"))


def test_a_missing_text_column_is_named_with_those_that_are_there(folder):
    with pytest.raises(DataError, match=r"has no column TEXT \(it has text, title, n"):
        list(read_hub(source(folder, text_field="TEXT"), "x"))


def test_a_damaged_file_is_one_clear_error(tmp_path, waits):
    write_parquet(tmp_path / "a.parquet", numbered(0, 3))
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_hub(source(tmp_path), "x"))
    assert waits == []


def test_a_set_that_is_a_program_is_refused(folder, monkeypatch):
    def refuse(*_args, **_options):
        raise RuntimeError("Dataset scripts are no longer supported, but found openwebtext.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match="never run") as refused:
        list(read_hub(source(folder), "x"))
    assert "refs/convert/parquet" in refused.value.way_out


class Info:
    sha = "0123456789abcdef0123456789abcdef01234567"


def hub_answers(monkeypatch, *answers):
    """Let the hub answer one after the other; an error is raised."""
    import huggingface_hub

    asked, left = [], list(answers)

    def dataset_info(_api, name, *, revision, timeout):
        asked.append((name, revision))
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


def test_a_revision_is_resolved_to_its_commit(monkeypatch, waits):
    asked = hub_answers(monkeypatch, ConnectionError("x"), HttpError(503), Info)
    entry = hub_input(source("someone/texts", revision="v1"))
    assert entry.path == f"hf://datasets/someone/texts@{Info.sha}"
    assert hub_revision(entry) == Info.sha
    assert asked == [("someone/texts", "v1")] * 3
    assert waits == [1, 2]


def test_the_commit_is_what_is_opened(monkeypatch):
    opened = []

    def load_dataset(*args, **options):
        opened.append((args, options))
        raise ValueError("enough")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="enough"):
        list(read_hub(source("someone/texts", subset="en", split="test", revision="main"), Info.sha))
    assert opened == [(("someone/texts", "en"), {"split": "test", "streaming": True, "revision": Info.sha})]


@pytest.mark.parametrize(
    "name, fact, way_out",
    [
        ("GatedRepoError", "agree to its terms", "hf auth login"),
        ("RepositoryNotFoundError", "does not exist", "hf auth login"),
        ("RevisionNotFoundError", "has no revision main", "revision"),
    ],
)
def test_a_closed_or_missing_set_is_not_asked_for_twice(monkeypatch, waits, name, fact, way_out):
    import huggingface_hub

    answer = pytest.importorskip("httpx2").Response(
        404, request=pytest.importorskip("httpx2").Request("GET", "http://x")
    )
    hub_answers(monkeypatch, getattr(huggingface_hub.errors, name)("no", response=answer))
    with pytest.raises(DataError, match=fact) as refused:
        hub_input(source("someone/texts"))
    assert way_out in refused.value.way_out
    assert waits == []


def test_a_folder_that_is_not_there_and_an_empty_one(tmp_path):
    with pytest.raises(DataError, match="no folder at"):
        hub_input(source(tmp_path / "nothing"))
    with pytest.raises(DataError, match="is empty"):
        hub_input(source(tmp_path))


def test_offline_mode_is_said_at_once(monkeypatch, waits):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        hub_input(source("someone/texts"))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        list(read_hub(source("someone/texts"), Info.sha))
    assert waits == []


def test_a_hub_out_of_reach_says_what_was_tried_and_how_to_do_without():
    """In a process of its own: the address of the hub is read when its library is imported."""
    script = (
        "import sys; from lumi.corpus import hub; from lumi.corpus.config import SourceConfig\n"
        "hub.sleep = lambda seconds: print('waited', seconds)\n"
        "values = {'name': 's', 'kind': 'hub', 'dataset': 'someone/texts', 'revision': 'v1', 'licence': 'x'}\n"
        "hub.hub_input(SourceConfig.from_values(values, 'test'))\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.stdout.split() == ["waited", "1.0", "waited", "2.0", "waited", "4.0"]
    assert "out of reach for data set someone/texts, revision v1, asked 4 times" in run.stderr
    assert "hf download --repo-type dataset someone/texts --revision v1 --local-dir DIR" in run.stderr


def test_without_datasets_the_error_names_the_extra(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as missing:
        list(read_hub(source(folder), "x"))
    assert "lumi-lab[hub]" in missing.value.way_out


def test_the_config_wants_a_dataset_for_hub_and_only_there():
    with pytest.raises(ConfigError, match="dataset is missing for kind hub"):
        SourceConfig.from_values({"name": "s", "kind": "hub", "licence": "x"}, "test")
    with pytest.raises(ConfigError, match="dataset is for kind hub"):
        SourceConfig.from_values({"name": "s", "kind": "package", "dataset": "a/b", "licence": "x"}, "test")
