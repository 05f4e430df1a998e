"""The one frozen tokenizer: training, encoding, hash, report, transformers export."""

from lumi.tokenizer.ids import BOS_ID, EOS_ID, IM_END_ID, IM_START_ID, NUM_CONTROL, NUM_RESERVED, PAD_ID, UNK_ID
from lumi.tokenizer.reset import ResetConfig, reset_tokenizer
from lumi.tokenizer.tokenizer import Tokenizer, require_same_tokenizer
from lumi.tokenizer.training import TokenizerConfig, train_tokenizer

__all__ = [
    "BOS_ID", "EOS_ID", "IM_END_ID", "IM_START_ID", "NUM_CONTROL", "NUM_RESERVED", "PAD_ID", "UNK_ID", "ResetConfig",
    "Tokenizer", "TokenizerConfig", "require_same_tokenizer", "reset_tokenizer", "train_tokenizer",
]  # fmt: skip
