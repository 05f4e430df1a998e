"""Packed data: packing, reading, mixing, batching."""

from lumi.data.dataset import ShardedTokenizedDataset
from lumi.data.loader import BatchLoader
from lumi.data.packing import PackConfig, ReencodeConfig, pack_dataset, reencode_dataset
from lumi.data.sampler import WeightedMultiDatasetSampler

__all__ = [
    "BatchLoader", "PackConfig", "ReencodeConfig", "ShardedTokenizedDataset", "WeightedMultiDatasetSampler",
    "pack_dataset", "reencode_dataset",
]  # fmt: skip
