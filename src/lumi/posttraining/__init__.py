"""Post-training: conversations as data, SFT, adapters."""

from lumi.posttraining.sft_corpus import SftCorpusConfig, prepare_sft_corpus
from lumi.posttraining.sft_dataset import SFTDataset

__all__ = ["SFTDataset", "SftCorpusConfig", "prepare_sft_corpus"]
