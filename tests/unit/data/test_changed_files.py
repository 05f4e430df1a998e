"""Data that change under a run: found, named, and never read as something else."""

import os
import shutil

import numpy as np
import pytest

from lumi.data import ShardedTokenizedDataset
from lumi.errors import IntegrityError


@pytest.fixture
def copy(packed, tmp_path):
    folder = shutil.copytree(packed, tmp_path / "copy")
    os.utime(next(folder.glob("train_*.npy")), ns=(0, 0))
    return folder


def test_an_untouched_file_is_fine_and_so_are_new_times(copy):
    dataset = ShardedTokenizedDataset(copy, "train")
    dataset.require_unchanged()
    os.utime(next(copy.glob("train_*.npy")))
    dataset.require_unchanged()


def test_a_byte_written_into_a_file(copy):
    dataset = ShardedTokenizedDataset(copy, "train")
    path = next(copy.glob("train_*.npy"))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(IntegrityError, match=f"{path.name} was changed while it was in use"):
        dataset.require_unchanged()


def test_a_file_that_was_cut_short(copy):
    dataset = ShardedTokenizedDataset(copy, "train")
    path = next(copy.glob("train_*.npy"))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(IntegrityError, match="shorter"):
        dataset.rows(np.array([len(dataset) - 1]))


def test_a_file_that_was_replaced_is_read_as_it_was(copy):
    dataset = ShardedTokenizedDataset(copy, "train")
    before = dataset.rows(np.arange(len(dataset)))
    path = next(copy.glob("train_*.npy"))
    path.unlink()
    path.write_bytes(b"something else")
    assert np.array_equal(dataset.rows(np.arange(len(dataset))), before)


def test_any_order_of_rows_is_the_one_that_was_asked_for(packed):
    dataset = ShardedTokenizedDataset(packed, "train")
    whole = dataset.rows(np.arange(len(dataset)))
    asked = np.random.default_rng(0).integers(0, len(dataset), 200)
    assert np.array_equal(dataset.rows(asked), whole[asked])
    assert dataset.rows(np.array([], dtype=np.int64)).shape == (0, whole.shape[1])
