"""Post-training: conversations and preferences as data, SFT, DPO, adapters."""

from lumi.posttraining.dpo import dpo
from lumi.posttraining.dpo_config import DpoConfig
from lumi.posttraining.dpo_corpus import DpoCorpusConfig, prepare_dpo_corpus
from lumi.posttraining.merge import MergeConfig, merge
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.sft import sft
from lumi.posttraining.sft_config import SftConfig
from lumi.posttraining.sft_corpus import SftCorpusConfig, prepare_sft_corpus
from lumi.posttraining.sft_dataset import SFTDataset

__all__ = [
    "DpoConfig", "DpoCorpusConfig", "MergeConfig", "PreferenceDataset", "SFTDataset", "SftConfig", "SftCorpusConfig",
    "dpo", "merge", "prepare_dpo_corpus", "prepare_sft_corpus", "sft",
]  # fmt: skip
