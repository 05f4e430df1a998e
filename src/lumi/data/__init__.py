"""Packed data: packing, mixes with token budgets, reading, sampling, batching."""

from lumi.data.dataset import Rows, ShardedTokenizedDataset
from lumi.data.loader import BatchLoader
from lumi.data.mix import MixConfig, prepare_mix
from lumi.data.packing import PackConfig, ReencodeConfig, pack_dataset, reencode_dataset
from lumi.data.sampler import WeightedMultiDatasetSampler

__all__ = [
    "BatchLoader", "MixConfig", "PackConfig", "ReencodeConfig", "Rows", "ShardedTokenizedDataset",
    "WeightedMultiDatasetSampler", "pack_dataset", "prepare_mix", "reencode_dataset",
]  # fmt: skip
