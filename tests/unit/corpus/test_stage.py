"""The stage as a whole: budgets, counts, progress, and a corpus that was damaged afterwards."""

import json
import shutil

import pytest
from tests.corpora import PLAIN

from lumi import progress as progress_module
from lumi.artifacts import read_manifest
from lumi.corpus import CorpusConfig, prepare_corpus, read_documents
from lumi.corpus import compression as compression_module
from lumi.corpus import stage as stage_module
from lumi.errors import ConfigError, DataError, IntegrityError

SOURCE = {"name": "s", "kind": "jsonl", "licence": "none", "files": ["nothing"]}


def config(tmp_path, *sources, **settings):
    values = {
        "name": "c",
        "sources": [{**SOURCE, **source} for source in sources],
        "output_dir": str(tmp_path / "out"),
        "num_workers": 1,
        **PLAIN,
        **settings,
    }
    return CorpusConfig.from_values(values, "test")


@pytest.fixture
def raw(tmp_path):
    """Two hundred rows of 100 bytes of text, different from one another."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n:03d} ".ljust(100, "x")}) + "\n" for n in range(200)))
    return path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_budget_is_kept_and_little_is_read_beyond_it(tmp_path, raw, monkeypatch, workers):
    taken = []
    read_source = stage_module.read_source

    def counting(*args, **settings):
        for row in read_source(*args, **settings):
            taken.append(row)
            yield row

    monkeypatch.setattr(stage_module, "read_source", counting)
    monkeypatch.setattr(stage_module, "_CHUNK_BYTES", 500)
    manifest = prepare_corpus(config(tmp_path, {"files": [str(raw)], "max_bytes": 5000}, num_workers=workers))
    assert (manifest.counts["documents"], manifest.counts["bytes"]) == (50, 5000)
    assert 50 <= len(taken) <= 60


def test_the_manifest_counts_each_source_apart(tmp_path, raw):
    other = tmp_path / "b.jsonl"
    other.write_text(json.dumps({"text": "000 ".ljust(100, "x")}) + '\n{"text": "y "}\n{"text": "short"}\n{bad\n')
    sources = [{"files": [str(raw)], "max_bytes": 1000}, {"name": "t", "files": [str(other)]}]
    manifest = prepare_corpus(config(tmp_path, *sources, min_characters=5))
    sources = manifest.counts["sources"]
    assert [sum(source.pop("languages").values()) for source in sources.values()] == [10, 2]
    assert sources == {
        "s": {"rows_read": 10, "documents": 10, "bytes": 1000, "broken": 0, "dropped": {}, "cleaned": {}, "cut": {}},
        "t": {
            "rows_read": 4,
            "documents": 1,
            "bytes": 5,
            "broken": 1,
            "dropped": {"exact_duplicate": 1, "too_short": 1},
            "cleaned": {"trim_blanks": 1},
            "cut": {},
        },
    }
    assert manifest.counts["dropped"] == {"broken_row": 1, "exact_duplicate": 1, "too_short": 1}
    assert manifest.counts["rows_read"] == 14
    (rejected,) = manifest.files(prefix="rejected/")
    assert (rejected.file, rejected.rows) == ("rejected/t.jsonl", 1)


def test_only_the_first_broken_rows_are_shown_however_many_segments(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' + "{bad\n" * 500)
    monkeypatch.setattr(stage_module, "_CHUNK_ROWS", 20)
    manifest = prepare_corpus(config(tmp_path, {"files": [str(path)]}, shard_bytes=2000))
    said = capsys.readouterr().err
    assert said.count("set aside /") == 3
    assert "set aside 500 broken rows of s in all" in said
    assert manifest.counts["dropped"] == {"broken_row": 500}
    (rejected,) = manifest.files(prefix="rejected/")
    assert rejected.rows == 500


def shares_shown(capsys):
    shown = capsys.readouterr().err.splitlines()
    lines = [line for line in shown if "s left" in line and line.startswith("corpus c, s: ")]
    assert all("MB/s, " in line for line in lines)
    return [int(line.removeprefix("corpus c, s: ").split("%")[0]) for line in lines]


def test_progress_of_a_budget_tells_rate_and_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "_PLAIN_SECONDS", 0.0)
    manifest = prepare_corpus(config(tmp_path, {"kind": "synthetic", "files": [], "max_bytes": 20_000}))
    shares = shares_shown(capsys)
    assert len(shares) == manifest.counts["documents"]
    assert shares == sorted(shares)
    assert shares[0] <= 8
    assert shares[-1] == 100


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_of_files_is_that_of_their_bytes(tmp_path, raw, monkeypatch, capsys, workers):
    monkeypatch.setattr(progress_module, "_PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(stage_module, "_CHUNK_BYTES", 200)
    monkeypatch.setattr(compression_module, "_BLOCK", 100)
    prepare_corpus(config(tmp_path, {"files": [str(raw)]}, num_workers=workers))
    shares = shares_shown(capsys)
    assert len(shares) == 200
    assert 40 <= shares[99] <= 60 + 5 * workers  # what workers have under way is read, and not yet counted
    assert shares[-1] == 100


def test_a_flipped_byte_is_refused_and_the_file_named(tmp_path, raw):
    out = tmp_path / "out"
    manifest = prepare_corpus(config(tmp_path, {"files": [str(raw)]}, shard_bytes=8000))
    names = [file.file for file in manifest.files(prefix="shard_")]
    assert len(names) == 5
    assert len(list(read_documents(out))) == 200
    data = bytearray((out / names[2]).read_bytes())
    data[len(data) // 2] ^= 1
    (out / names[2]).write_bytes(data)
    with pytest.raises(IntegrityError, match=names[2]) as caught:
        next(read_documents(out))
    assert "01_prepare_corpus.py" in caught.value.way_out


def test_a_corpus_that_is_missing_or_unfinished_is_refused(tmp_path):
    with pytest.raises(DataError, match="no corpus at"):
        next(read_documents(tmp_path / "nowhere"))
    with pytest.raises(IntegrityError, match="incomplete"):
        next(read_documents(tmp_path))


def test_the_same_command_again_is_up_to_date_and_changed_input_is_noticed(tmp_path, raw, capsys):
    wanted = config(tmp_path, {"files": [str(raw)]})
    first = prepare_corpus(wanted)
    assert prepare_corpus(wanted) == first
    assert "up to date" in capsys.readouterr().err
    raw.write_text(raw.read_text() + '{"text": "one more"}\n')
    with pytest.raises(IntegrityError, match="different: inputs"):
        prepare_corpus(wanted)
    again = prepare_corpus(config(tmp_path, {"files": [str(raw)]}, fresh=True))
    assert again.counts["documents"] == 201
    assert read_manifest(tmp_path / "out", "corpus", "-") == again


@pytest.mark.parametrize(
    "sources, settings, message",
    [
        ([{}, {}], {}, "two sources have the name s"),
        ([{"name": "../../evil"}], {}, "sources.0.name"),
        ([{"kind": "text", "separator": ""}], {}, "sources.0.separator"),
        ([{"drop_lines_with": [""]}], {}, "sources.0.drop_lines_with.0"),
        ([{"files": []}], {}, "files is missing for kind jsonl"),
        ([{"kind": "synthetic"}], {}, "max_bytes is missing"),
        ([{"licence": ""}], {}, "sources.0.licence"),
        ([{"surprise": 1}], {}, "sources.0.surprise: unknown key"),
        ([{}], {"min_characters": 9, "max_characters": 8}, "min_characters 9 is above max_characters 8"),
        ([], {}, "sources"),
    ],
)
def test_impossible_configs_are_refused_before_any_work(tmp_path, sources, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, *sources, **settings)


def test_a_hub_source_goes_on_behind_its_last_segment(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet as parquet

    folder = tmp_path / "hub/data"
    folder.mkdir(parents=True)
    texts = [f"{n:04d} ".ljust(100, "x") for n in range(1000)]
    for part in range(2):
        table = pyarrow.table({"text": texts[500 * part : 500 * part + 500]})
        parquet.write_table(table, folder / f"train-0000{part}-of-00002.parquet")
    monkeypatch.setattr(stage_module, "_CHUNK_BYTES", 10_000)
    source = {"kind": "hub", "dataset": str(tmp_path / "hub"), "files": []}
    made = config(tmp_path, source, shard_bytes=20_000)
    read_source, positions = stage_module.read_source, []

    def cut(*args, **settings):
        positions.append(settings["position"])
        for number, row in enumerate(read_source(*args, **settings)):
            if len(positions) == 1 and number == 700:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(stage_module, "read_source", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(made)
    prepare_corpus(made)
    assert positions[0] is None
    assert positions[1]["rows"] > 200
    assert [document.text for document in read_documents(tmp_path / "out")] == [text.rstrip() for text in texts]


def test_files_at_hand_are_read_instead_of_the_hub(tmp_path, raw, capsys):
    source = {"kind": "hub", "dataset": "nobody/nothing", "files": [str(tmp_path / "nowhere"), str(raw)]}
    assert prepare_corpus(config(tmp_path, source)).counts["documents"] == 200
    assert f"reading {raw} instead of the hub" in " ".join(capsys.readouterr().err.split())


def test_too_small_a_disk_is_said_before_any_work(tmp_path, raw, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"about 0 MB more") as error:
        prepare_corpus(config(tmp_path, {"files": [str(raw)]}))
    assert "max_bytes" in error.value.way_out
    assert [path.name for path in tmp_path.iterdir()] == [raw.name]
    small = config(tmp_path, {"files": [str(raw)], "max_bytes": 5000})
    assert prepare_corpus(small).counts["documents"] == 50
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    assert prepare_corpus(small).counts["documents"] == 50, "what is built needs no more room"


def write_texts(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf8")
    return {"files": [str(path)]}


ENGLISH = "The old harbour had a light that burned all night, and the boats came home to it with their nets."
GERMAN = "Der alte Hafen hatte ein Licht, das die ganze Nacht brannte, und die Boote kamen mit ihren Netzen heim."


def test_other_languages_are_dropped_and_all_are_counted(tmp_path):
    source = write_texts(tmp_path / "a.jsonl", ENGLISH, GERMAN)
    counts = prepare_corpus(config(tmp_path, source, languages=["en"])).counts
    assert (counts["dropped"], counts["languages"]) == ({"language": 1}, {"de": 1, "en": 1})
    assert [document.text for document in read_documents(tmp_path / "out")] == [ENGLISH]


def test_what_a_test_set_has_is_cut_and_one_that_is_not_there_is_named(tmp_path, capsys):
    sets = tmp_path / "sets"
    sets.mkdir()
    declared = {"title": "T", "licence": "none", "citation": "none", "dataset": "a/b", "split": "test", "num_texts": 2}
    for name in ("here", "gone"):
        layout = {"files": [f"{name}.jsonl"], "format": "jsonl", "texts": ["{text}"]}
        (sets / f"{name}.json").write_text(json.dumps({**declared, "name": name, "layouts": [layout]}))
    write_texts(tmp_path / "here.jsonl", ENGLISH)
    long = ("Two. " * 40).strip()
    source = write_texts(tmp_path / "a.jsonl", f"One.\n\n{ENGLISH.upper()}\n\n{long}", f"{ENGLISH}\n\nToo much.")
    settings = {"evaluation_sets": str(sets), "evaluation_data": str(tmp_path)}
    counts = prepare_corpus(config(tmp_path, source, decontamination=settings)).counts
    assert counts["cut"] == {"here": 2}
    assert counts["dropped"] == {"contaminated": 1}
    assert counts["decontamination"]["not_checked"] == ["gone"]
    assert [document.text for document in read_documents(tmp_path / "out")] == [f"One.\n\n{long}"]
    card = (tmp_path / "out/DATA_CARD.md").read_text()
    assert "**Not checked**, because the sets were not there: gone" in card
    assert "THE OLD HARBOUR" in card
    assert "| here | 1 of 2 | 0 | 2 |" in card
    said = " ".join(capsys.readouterr().err.split())
    assert "decontamination: here (1 of 2 texts)" in said
    assert "not checked, because not there: gone" in said
    with pytest.raises(DataError, match=r"requires are not in .*: gone, here \(a part of it is\)"):
        prepare_corpus(config(tmp_path, source, decontamination={**settings, "require": True}))


def test_an_unknown_rule_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"quality\.gopher_nonsense: unknown key"):
        config(tmp_path, write_texts(tmp_path / "a.jsonl", ENGLISH), quality={"gopher_nonsense": 1})


def test_everything_at_once_is_in_the_card(tmp_path):
    other = "Nobody in that town would have believed the story. So she told it to the sea instead."
    source = write_texts(tmp_path / "a.jsonl", f"{ENGLISH} {other}", f"{ENGLISH.upper()} {other}", GERMAN, "Bad. " * 9)
    on = {"quality": {"gopher_few_words": 5}, "near_duplicates": {}, "cleaning": {}, "languages": ["en"]}
    manifest = prepare_corpus(config(tmp_path, source, **on))
    card = (tmp_path / "out/DATA_CARD.md").read_text()
    for word in ("gopher_", "## Near duplicates", "## Languages", "quality_tokens.svg", '"languages": ['):
        assert word in card
    assert all(f"({out.file})" in card for out in manifest.files(suffix=".svg"))


def test_a_source_without_a_usable_row_is_an_error_each_time(tmp_path, raw):
    """A source that was read to its end, and recorded, must not pass on the next try."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"body": "x"}\n{"text": 3}\n')
    both = config(tmp_path, {"name": "good", "files": [str(raw)]}, {"name": "bad", "files": [str(bad)]})
    for _ in range(2):
        with pytest.raises(DataError, match=f"bad has not one usable row.*\n  {bad}:1: no text under 'text'"):
            prepare_corpus(both)
    assert not both.output_dir.exists()


def test_a_kill_while_publishing_loses_nothing(tmp_path, raw, monkeypatch):
    """From the manifest to the rename: the same command only finishes what was begun."""
    from lumi import artifacts

    monkeypatch.setattr(stage_module, "_CHUNK_ROWS", 20)
    values = config(tmp_path, {"files": [str(raw)]}, shard_bytes=1000)
    prepare_corpus(values)
    whole = {path.name: path.read_bytes() for path in values.output_dir.iterdir() if path.name != "run_info.json"}
    real_rmtree, real_fsync = shutil.rmtree, artifacts._fsync

    def killed(*_, **__):
        raise KeyboardInterrupt

    def killed_at_the_folder(path):
        if path.is_dir():
            raise KeyboardInterrupt
        real_fsync(path)

    for where, name, act in ((shutil, "rmtree", killed), (artifacts, "_fsync", killed_at_the_folder)):
        real_rmtree(values.output_dir)
        monkeypatch.setattr(where, name, act)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(values)
        monkeypatch.setattr(shutil, "rmtree", real_rmtree)
        monkeypatch.setattr(artifacts, "_fsync", real_fsync)
        with monkeypatch.context() as patch:
            patch.setattr(stage_module, "_stage", killed)  # nothing is worked out again
            prepare_corpus(values)
        found = {path.name: path.read_bytes() for path in values.output_dir.iterdir() if path.name != "run_info.json"}
        assert found == whole
        assert not list(tmp_path.glob("*.partial-*"))


def test_a_language_that_is_no_code(tmp_path, raw):
    with pytest.raises(ConfigError, match="languages"):
        config(tmp_path, {"files": [str(raw)]}, languages=["English"])
