"""Invariant 14 for the corpus, in full: whatever the workers, wherever it was interrupted, the bytes are the same."""

import json
from functools import partial

import pytest
from tests.corpora import PLAIN

from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.corpus import stage as corpus_stage
from lumi.corpus.outcome import outcomes_of

WORDS = ("fox", "caf\u00e9", "\u4e2d\u6587", "line\nbreak", "tail  \n", "\u2581")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two sources that share documents; rows that are broken, dropped by a rule, and beyond a budget."""
    folder = tmp_path_factory.mktemp("raw")
    for name, numbers in (("a", range(300)), ("b", range(200, 500))):
        texts = [f"Text {n}: " + f"{WORDS[n % 6]} " * (n % 19) for n in range(220)]
        rows = [json.dumps({"text": texts[n % 220], "n": n}) for n in numbers]
        rows[5], rows[170] = "{broken", '{"no": "text"}'
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def build(raw, output_dir, workers, judge=outcomes_of):
    sources = [
        {"name": name, "kind": "jsonl", "files": [str(raw / f"{name}.jsonl")], "licence": "none"} for name in "ab"
    ]
    sources[0]["max_bytes"] = 9000
    values = {"name": "c", "sources": sources, **PLAIN, "output_dir": str(output_dir), "num_workers": workers,
              "shard_bytes": 4000, "min_characters": 12}  # fmt: skip
    return prepare_corpus(CorpusConfig.from_values(values, "test"), judge)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run_info.json"  # time, host, command
    }


def _judge(judged, rows, **how):
    judged.extend(rows)
    return outcomes_of(rows, **how)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(corpus_stage, "_CHUNK_BYTES", 700)


@pytest.fixture
def expected(raw, tmp_path, small_chunks):
    manifest = build(raw, tmp_path / "expected", 1)
    assert len(manifest.files(prefix="shard_")) >= 4
    assert len(manifest.files(prefix="rejected/")) == 2
    assert {"broken_row", "exact_duplicate", "too_short"} <= set(manifest.counts["dropped"])
    return contents(tmp_path / "expected")


@pytest.mark.parametrize("workers", [2, 3])
def test_whatever_the_number_of_workers(raw, tmp_path, expected, workers):
    build(raw, tmp_path / "other", workers)
    assert contents(tmp_path / "other") == expected


def test_wherever_the_source_is_cut_into_chunks(raw, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(corpus_stage, "_CHUNK_BYTES", 10**6)
    build(raw, tmp_path / "other", 1)
    assert contents(tmp_path / "other") == expected


def test_wherever_it_was_interrupted(raw, tmp_path, no_pictures, expected, monkeypatch):
    record = corpus_stage.Workspace.record
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(corpus_stage.Workspace, "record", lambda *args, **kwargs: calls.append(record(*args, **kwargs)))
        build(raw, tmp_path / "counted", 1)
    assert sum("staged/" in call.file for call in calls) >= 6 * 5  # several segments
    for survived in {*range(0, len(calls), 3), len(calls) - 1}:
        out = tmp_path / f"cut{survived}"
        left = survived

        def dies(work, file, *args, **kwargs):
            nonlocal left
            if left == 0:
                (work.path / file).write_bytes(b"half")  # written in part, and never recorded
                raise KeyboardInterrupt
            left -= 1
            return record(work, file, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(corpus_stage.Workspace, "record", dies)
            with pytest.raises(KeyboardInterrupt):
                build(raw, out, 1)
        assert not out.exists()
        (unfinished,) = tmp_path.glob(f"cut{survived}.partial-*")
        finished = [call.file for call in calls[:survived]]
        times = {name: (unfinished / name).stat().st_mtime_ns for name in finished if name.startswith("shard_")}
        judged: list[object] = []
        build(raw, out, 1, judge=partial(_judge, judged))
        assert contents(out) == expected
        assert {name: (out / name).stat().st_mtime_ns for name in times} == times, "a finished shard was written again"
        segments = sum(_is_segment(name) for name in finished)
        assert (not judged) == (segments == sum(_is_segment(call.file) for call in calls)), "judged again"


def _is_segment(file):
    return file.startswith("staged/") and file.endswith(".json")
