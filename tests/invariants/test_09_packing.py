"""Invariants 9 and 10: packing loses nothing, and no document is in both splits."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.corpora import PLAIN

from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.data import PackConfig, ShardedTokenizedDataset, pack_dataset
from lumi.data import packing as packing_module
from lumi.errors import DataError
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer

pytestmark = pytest.mark.usefixtures("no_pictures")

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2581\ufeff\u2028\u2029"),
    min_size=1,
    max_size=120,
)


def pack(folder, tokenizer, texts, **changes):
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf8")
    source = {"name": "s", "kind": "jsonl", "files": [str(folder / "in.jsonl")], "licence": "none"}
    corpus = {
        "name": "c",
        "sources": [source],
        **PLAIN,
        "output_dir": str(folder / "corpus"),
        "num_workers": 1,
        "fresh": True,
        "shard_bytes": 400,
    }
    prepare_corpus(CorpusConfig.from_values(corpus, "test"))
    values = {
        "corpus_dir": corpus["output_dir"],
        "tokenizer_path": str(tokenizer),
        "output_dir": str(folder / "packed"),
        "sequence_length": 16,
        "val_fraction": 0.4,
        "num_workers": 1,
        "fresh": True,
    }
    return pack_dataset(PackConfig.from_values(values | changes, "test"))


def documents(folder, tokenizer, split):
    return [tokenizer.decode(ids) for ids in ShardedTokenizedDataset(folder / "packed", split).documents()]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])
@given(texts=st.lists(TEXT.map(lambda t: t.strip()).filter(bool), min_size=1, max_size=12, unique=True))
def test_unpacking_returns_the_documents(artifacts, tmp_path_factory, texts):
    """Documents of one token up to many rows."""
    folder = tmp_path_factory.mktemp("pack")
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    anchors = [f"anchor {number} stands in one of the splits" for number in range(12)]
    manifest = pack(folder, artifacts / "tokenizer", texts + anchors)
    back = {split: documents(folder, tokenizer, split) for split in ("train", "val")}
    kept = sorted(set(texts + anchors))
    assert sorted(back["train"] + back["val"]) == kept
    assert not set(back["train"]) & set(back["val"])
    assert sum(manifest.counts[s]["text_bytes"] for s in back) == sum(len(text.encode()) for text in kept)


def test_rows_overlap_by_one_token_and_every_token_is_a_target_once(packed):
    for split in ("train", "val"):
        dataset = ShardedTokenizedDataset(packed, split)
        rows = dataset.rows(np.arange(len(dataset)))
        assert np.array_equal(rows[1:, 0], rows[:-1, -1])
        stream = np.concatenate([rows[0, :1], rows[:, 1:].ravel()])
        assert (rows[:-1] != PAD_ID).all()
        assert (stream != PAD_ID).sum() == dataset.counts["tokens"]
        assert stream[0] == BOS_ID
        assert (stream == BOS_ID).sum() == dataset.counts["documents"]


def test_every_document_is_framed(packed_other):
    dataset = ShardedTokenizedDataset(packed_other, "train")
    rows = dataset.rows(np.arange(len(dataset)))
    stream = np.concatenate([rows[0, :1], rows[:, 1:].ravel()])
    ends = np.flatnonzero(stream == EOS_ID)
    assert len(ends) == dataset.counts["documents"]
    assert set(stream[ends[:-1] + 1]) == {BOS_ID}


def test_several_row_shards_hold_the_rows_of_one(artifacts, tmp_path, monkeypatch):
    texts = [f"document {number} has some words in it" for number in range(40)]
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
        pack(tmp_path / name, artifacts / "tokenizer", texts)
        monkeypatch.setattr(packing_module, "_SHARD_BYTES", 200)
    one, many = (ShardedTokenizedDataset(tmp_path / name / "packed", "train") for name in ("one", "many"))
    assert len(many._shards) > 5
    order = np.random.default_rng(0).permutation(len(one))
    assert np.array_equal(one.rows(order), many.rows(order))
    assert [d.tolist() for d in one.documents()] == [d.tolist() for d in many.documents()]


def test_adding_documents_moves_none(artifacts, tmp_path):
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    texts = [f"document number {number}" for number in range(60)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pack(tmp_path / "a", artifacts / "tokenizer", texts[:30])
    pack(tmp_path / "b", artifacts / "tokenizer", texts[::-1])
    for split in ("train", "val"):
        assert set(documents(tmp_path / "a", tokenizer, split)) <= set(documents(tmp_path / "b", tokenizer, split))


@pytest.mark.parametrize("budget", [1, 17, 100, 333])
def test_a_token_budget_is_kept_exactly(artifacts, tmp_path, budget):
    manifest = pack(tmp_path, artifacts / "tokenizer", [f"document number {n}" for n in range(60)], max_tokens=budget)
    dataset = ShardedTokenizedDataset(tmp_path / "packed", "train")
    rows = dataset.rows(np.arange(len(dataset)))
    if len(rows):
        stream = np.concatenate([rows[0, :1], rows[:, 1:].ravel()])
        assert (stream != PAD_ID).sum() == budget
    assert manifest.counts["train"]["tokens"] == budget


def test_an_empty_split_is_an_error_with_the_way_out(artifacts, tmp_path):
    with pytest.raises(DataError, match="val split is empty") as caught:
        pack(tmp_path, artifacts / "tokenizer", ["the only document"], val_fraction=0.001)
    assert "--val_fraction" in str(caught.value)
