"""The loader's manners: its thread, its errors, what it calls the data sets."""

import shutil
import threading

import numpy as np
import pytest

from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.errors import ConfigError


def make(folders, **options):
    datasets = [ShardedTokenizedDataset(folder, "train") for folder in folders]
    sampler = WeightedMultiDatasetSampler([len(dataset) for dataset in datasets], None, seed=1)
    return BatchLoader(datasets, sampler, **{"batch_size": 4, **options})


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("lumi-loader")]


def test_the_reading_thread_ends_with_the_loader(packed):
    before = len(reading_threads())
    loader = make([packed])
    loader.next_batch()
    assert len(reading_threads()) == before + 1
    loader.close()
    assert len(reading_threads()) == before


def test_a_forgotten_loader_leaves_no_thread(packed):
    before = len(reading_threads())
    loader = make([packed])
    loader.next_batch()
    (thread,) = [t for t in reading_threads() if t.is_alive()][before:]
    del loader
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_an_error_while_reading_ahead_reaches_the_caller(packed, monkeypatch):
    loader = make([packed])

    def fail(*_):
        raise OSError("the disk went away")

    monkeypatch.setattr(loader.datasets[0], "rows", fail)
    with pytest.raises(OSError, match="the disk went away"):
        loader.next_batch()
    loader.close()


def test_rows_are_those_that_the_sampler_names(packed, packed_other):
    loader = make([packed, packed_other], batch_size=16)
    batch = loader.next_batch()
    for position, row in enumerate(batch):
        dataset, index = loader.sampler.sample(position)
        assert np.array_equal(row, loader.datasets[dataset].rows(np.array([index]))[0])
    assert set(loader.rows_drawn()) == {"packed", "packed_other"}
    assert sum(loader.rows_drawn().values()) == 16
    loader.close()


def test_data_sets_of_one_name_go_by_path(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "packed")
    loader = make([packed, tmp_path / "packed"])
    assert list(loader.rows_drawn()) == [str(packed), str(tmp_path / "packed")]
    loader.close()


def test_a_batch_must_be_shareable(packed):
    with pytest.raises(ConfigError, match="cannot be shared by 3 ranks"):
        make([packed], batch_size=4, world_size=3)


def test_rows_of_two_lengths_are_refused(packed, artifacts, tmp_path):
    from lumi.data import PackConfig, pack_dataset

    values = {"corpus_dir": str(artifacts / "corpus"), "tokenizer_path": str(artifacts / "tokenizer"),
              "output_dir": str(tmp_path / "packed"), "sequence_length": 16, "val_fraction": 0.2}  # fmt: skip
    pack_dataset(PackConfig.from_values(values, "test"))
    with pytest.raises(ConfigError, match="different row lengths"):
        make([packed, tmp_path / "packed"])  # of one name, too
