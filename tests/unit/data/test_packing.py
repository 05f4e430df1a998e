"""Packing, beyond invariants 9, 10 and 14: hand-made corpora, budgets, packing again, refusals."""

import json

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.artifacts import Workspace
from lumi.config import Config
from lumi.data import PackConfig, ReencodeConfig, ShardedTokenizedDataset, pack_dataset, reencode_dataset
from lumi.errors import ConfigError, DataError, IntegrityError, TokenizerMissing
from lumi.tokenizer import PAD_ID, Tokenizer, TokenizerConfig, train_tokenizer


def make_corpus(folder, shards):
    """Publish texts as a corpus, as they are (the real stage would drop empty ones)."""
    with Workspace(folder, "corpus", Config(), [], fresh=True) as work:
        work.open()
        for number, texts in enumerate(shards):
            lines = [
                {"id": f"{number}.{n}", "text": text, "source": "test", "metadata": {}} for n, text in enumerate(texts)
            ]
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            (work.path / f"shard_{number:05d}.jsonl.zst").write_bytes(zstandard.compress(data))
            work.record(f"shard_{number:05d}.jsonl.zst", rows=len(texts))
        size = sum(len(text.encode()) for texts in shards for text in texts)
        work.publish(counts={"documents": sum(map(len, shards)), "bytes": size}, versions={})
    return folder


def pack_config(artifacts, corpus, output_dir, **changes):
    values = {"corpus_dir": str(corpus), "tokenizer_path": str(artifacts / "tokenizer"), "output_dir": str(output_dir),
              "sequence_length": 8, "val_fraction": 0.5, "num_workers": 1}  # fmt: skip
    return PackConfig.from_values(values | changes, "test")


def texts_of(tokenizer, folder, split):
    # keep_control: a frame left in place would show
    return [tokenizer.decode(ids, keep_control=True) for ids in ShardedTokenizedDataset(folder, split).documents()]


ANCHORS = [f"anchor {number}" for number in range(16)]  # so many that neither split is empty


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=st.lists(
        st.lists(st.sampled_from(["", "a", "\n", " ", "word " * 20]) | st.text("ab \n\U0001f600", max_size=40)),
        min_size=1,
        max_size=3,
    ),
    rows_per_shard=st.integers(1, 5),
)
def test_empty_short_and_long_documents_come_back_in_order(artifacts, tmp_path_factory, shards, rows_per_shard):
    root = tmp_path_factory.mktemp("pack")
    corpus = make_corpus(root / "corpus", [*shards, ANCHORS])
    manifest = pack_dataset(pack_config(artifacts, corpus, root / "packed", rows_per_shard=rows_per_shard))
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    back = {split: texts_of(tokenizer, root / "packed", split) for split in ("train", "val")}
    given_texts = [text for texts in [*shards, ANCHORS] for text in texts]
    for split, texts in back.items():
        mine = set(texts)
        assert texts == [text for text in given_texts if text in mine]  # in the order of the corpus
        assert manifest.counts[split]["documents"] == len(texts)
        assert manifest.counts[split]["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert not set(back["train"]) & set(back["val"])
    assert all(out.rows <= rows_per_shard for out in manifest.outputs)


def test_only_rows_stay_behind(artifacts, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS[:8], ANCHORS[8:]])
    manifest = pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed"))
    files = {path.name for path in (tmp_path / "packed").iterdir()}
    assert files == {"train_00000.npy", "val_00000.npy", "manifest.json", "run_info.json"}
    assert [out.file for out in manifest.outputs] == ["train_00000.npy", "val_00000.npy"]
    assert not list(tmp_path.glob("*.partial-*"))


@pytest.mark.parametrize("budget", [2, 9, 40])
def test_a_budget_ends_the_training_split_alone(artifacts, tmp_path, budget):
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS])
    whole = pack_dataset(pack_config(artifacts, corpus, tmp_path / "whole"))
    cut = pack_dataset(pack_config(artifacts, corpus, tmp_path / "cut", max_tokens=budget))
    assert cut.counts["train"]["tokens"] == budget
    dataset = ShardedTokenizedDataset(tmp_path / "cut", "train")
    rows = dataset.rows(np.arange(len(dataset)))
    assert 1 + (rows[:, 1:] != PAD_ID).sum() == budget
    assert cut.counts["val"] == whole.counts["val"]
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    kept, all_of_them = (texts_of(tokenizer, tmp_path / name, "train") for name in ("cut", "whole"))
    assert kept[:-1] == all_of_them[: len(kept) - 1]
    assert all_of_them[len(kept) - 1].startswith(kept[-1])
    assert cut.counts["train"]["documents"] == len(kept)
    assert cut.counts["train"]["text_bytes"] == sum(len(text.encode()) for text in kept)


def test_packed_twice_is_up_to_date_and_other_settings_are_refused(artifacts, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS])
    first = pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed"))
    written = (tmp_path / "packed" / "train_00000.npy").stat().st_mtime_ns
    assert pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed", num_workers=2)) == first
    assert (tmp_path / "packed" / "train_00000.npy").stat().st_mtime_ns == written
    with pytest.raises(IntegrityError, match="sequence_length") as caught:
        pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed", sequence_length=16))
    assert "--fresh" in caught.value.way_out
    again = pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed", sequence_length=16, fresh=True))
    assert again.config["sequence_length"] == 16


@pytest.fixture
def second_tokenizer(artifacts, tmp_path):
    values = {"corpus_dirs": [str(artifacts / "corpus")], "output_dir": str(tmp_path / "second"), "vocab_size": 340}
    train_tokenizer(TokenizerConfig.from_values(values, "test"))
    return tmp_path / "second"


def test_reencoding_keeps_settings_and_documents(artifacts, second_tokenizer, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS])
    before = pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed", seed=5))
    old = texts_of(Tokenizer.load(artifacts / "tokenizer"), tmp_path / "packed", "train")
    after = reencode_dataset(ReencodeConfig(data_dir=tmp_path / "packed", tokenizer_path=second_tokenizer))
    assert after.config == before.config
    assert ShardedTokenizedDataset(tmp_path / "packed", "train").vocab_size == 340
    assert texts_of(Tokenizer.load(second_tokenizer), tmp_path / "packed", "train") == old


def test_reencoding_mends_a_damaged_data_set(artifacts, tmp_path):
    """Errors about damaged rows name this command, so it must work on them."""
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS])
    pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed"))
    rows = (tmp_path / "packed" / "train_00000.npy").read_bytes()
    (tmp_path / "packed" / "train_00000.npy").write_bytes(rows[:-1] + b"\x07")
    with pytest.raises(IntegrityError, match=r"train_00000\.npy is damaged") as caught:
        ShardedTokenizedDataset(tmp_path / "packed", "train")
    assert "make reencode-dataset" in caught.value.way_out
    reencode_dataset(ReencodeConfig(data_dir=tmp_path / "packed", tokenizer_path=artifacts / "tokenizer"))
    assert (tmp_path / "packed" / "train_00000.npy").read_bytes() == rows


def test_what_cannot_be_packed_is_refused_with_the_way_out(artifacts, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [ANCHORS])
    with pytest.raises(TokenizerMissing, match="No tokenizer found") as missing:
        pack_dataset(pack_config(artifacts, corpus, tmp_path / "packed", tokenizer_path=str(tmp_path / "none")))
    assert "make tokenizer-train-mix" in missing.value.way_out
    with pytest.raises(DataError, match="has no document"):
        pack_dataset(pack_config(artifacts, make_corpus(tmp_path / "empty", []), tmp_path / "packed"))
    with pytest.raises(IntegrityError, match="does not exist"):
        pack_dataset(pack_config(artifacts, tmp_path / "nowhere", tmp_path / "packed"))
    with pytest.raises(DataError, match="train split is empty"):
        pack_dataset(pack_config(artifacts, make_corpus(tmp_path / "one", [["x"]]), tmp_path / "p", val_fraction=0.999))
    for key, value in (("sequence_length", 1), ("val_fraction", 0.0), ("val_fraction", 1.0), ("max_tokens", 0)):
        with pytest.raises(ConfigError, match=key):
            pack_config(artifacts, corpus, tmp_path / "packed", **{key: value})


def test_the_split_is_a_fair_draw(artifacts, tmp_path):
    texts = [f"document {number}" for number in range(2000)]
    manifest = pack_dataset(
        pack_config(artifacts, make_corpus(tmp_path / "corpus", [texts]), tmp_path / "packed", val_fraction=0.1)
    )
    assert manifest.counts["val"]["documents"] == pytest.approx(200, abs=5 * np.sqrt(2000 * 0.1 * 0.9))
