"""Invariant 14: each stage twice gives identical bytes, whatever the worker count and the interruptions."""

import json

import pytest
from tests.corpora import PLAIN
from tests.training_runs import config as training_config

from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.corpus import stage as corpus_stage
from lumi.data import PackConfig, pack_dataset
from lumi.data import packing as packing_stage
from lumi.pretraining import pretrain

NOT_HASHED = "run_info.json"


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != NOT_HASHED
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Rows with duplicates, broken ones and ones that rules drop."""
    folder = tmp_path_factory.mktemp("raw")
    rows = [json.dumps({"text": f"Text {n % 250}: " + "word " * (n % 17)}) for n in range(400)]
    rows[7], rows[300] = "{broken", '{"no": "text"}'
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "a.jsonl"


def corpus_config(raw, output_dir, workers):
    source = {"name": "s", "kind": "jsonl", "files": [str(raw)], "licence": "none"}
    values = {"name": "c", "sources": [source], **PLAIN, "output_dir": str(output_dir), "num_workers": workers,
              "shard_bytes": 4000, "min_characters": 12}  # fmt: skip
    return CorpusConfig.from_values(values, "test")


def pack_config(root, corpus, output_dir, workers):
    values = {"corpus_dir": str(corpus), "tokenizer_path": str(root / "tokenizer"), "output_dir": str(output_dir),
              "num_workers": workers, "sequence_length": 32, "val_fraction": 0.2}  # fmt: skip
    return PackConfig.from_values(values, "test")


def dies_after(calls, original):
    count = {"left": calls}

    def call(*args, **kwargs):
        if count["left"] == 0:
            raise KeyboardInterrupt
        count["left"] -= 1
        return original(*args, **kwargs)

    return call


def test_corpus(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_stage, "_CHUNK_BYTES", 3000)
    prepare_corpus(corpus_config(raw, tmp_path / "one", 1))
    prepare_corpus(corpus_config(raw, tmp_path / "two", 2))
    expected = contents(tmp_path / "one")
    assert sum("shard_" in name for name in expected) >= 3
    assert expected == contents(tmp_path / "two")


def test_packing(raw, artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(packing_stage, "_CHUNK_BYTES", 1500)
    monkeypatch.setattr(packing_stage, "_BYTES_WORTH_A_WORKER", 1)
    prepare_corpus(corpus_config(raw, tmp_path / "corpus", 1))
    pack_dataset(pack_config(artifacts, tmp_path / "corpus", tmp_path / "one", 1))
    pack_dataset(pack_config(artifacts, tmp_path / "corpus", tmp_path / "two", 2))
    expected = contents(tmp_path / "one")
    assert expected == contents(tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(packing_stage.Workspace, "record", dies_after(3, packing_stage.Workspace.record))
        with pytest.raises(KeyboardInterrupt):
            pack_dataset(pack_config(artifacts, tmp_path / "corpus", tmp_path / "cut", 1))
    pack_dataset(pack_config(artifacts, tmp_path / "corpus", tmp_path / "cut", 3))
    assert contents(tmp_path / "cut") == expected


def test_training(packed, tmp_path):
    for name in ("one", "two"):
        pretrain(training_config([packed], tmp_path / name))
    for file in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/state.json"):
        assert (tmp_path / "one/final" / file).read_bytes() == (tmp_path / "two/final" / file).read_bytes()
