"""Post-training: conversations as data, SFT, adapters."""

from lumi.posttraining.merge import MergeConfig, merge
from lumi.posttraining.sft import sft
from lumi.posttraining.sft_config import SftConfig
from lumi.posttraining.sft_corpus import SftCorpusConfig, prepare_sft_corpus
from lumi.posttraining.sft_dataset import SFTDataset

__all__ = ["MergeConfig", "SFTDataset", "SftConfig", "SftCorpusConfig", "merge", "prepare_sft_corpus", "sft"]
