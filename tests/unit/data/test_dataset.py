"""Reading packed rows."""

import json

import numpy as np
import pytest

from lumi.data import ShardedTokenizedDataset
from lumi.errors import DataError, IntegrityError


def test_any_rows_in_any_order(packed_other):
    dataset = ShardedTokenizedDataset(packed_other, "train")
    everything = np.concatenate(
        [np.load(path, allow_pickle=False) for path in sorted(packed_other.glob("train_*.npy"))]
    )
    assert len(dataset) == len(everything)
    wanted = np.random.default_rng(0).integers(0, len(dataset), 200)
    rows = dataset.rows(wanted)
    assert rows.dtype == np.uint16
    assert np.array_equal(rows, everything[wanted])
    assert dataset.rows(np.array([], dtype=np.int64)).shape == (0, 33)


def test_it_says_what_it_is(packed, artifacts):
    from lumi.tokenizer import Tokenizer

    dataset = ShardedTokenizedDataset(packed, "val")
    tokenizer = Tokenizer.load(dataset.tokenizer_path)
    assert (dataset.name, dataset.sequence_length, dataset.vocab_size) == ("packed", 32, tokenizer.vocab_size)
    assert dataset.tokenizer_sha256 == tokenizer.sha256
    assert dataset.counts == json.loads((packed / "manifest.json").read_text())["counts"]["val"]


def test_missing_and_incomplete_data_sets_are_named(tmp_path):
    with pytest.raises(DataError, match="no packed data at"):
        ShardedTokenizedDataset(tmp_path / "nothing", "train")
    (tmp_path / "half").mkdir()
    with pytest.raises(IntegrityError, match="incomplete") as caught:
        ShardedTokenizedDataset(tmp_path / "half", "train")
    assert "make reencode-dataset" in caught.value.way_out
