"""Pretraining: the recipe that wires data, model, objective and Trainer."""

from lumi.pretraining.config import PretrainConfig
from lumi.pretraining.recipe import pretrain

__all__ = ["PretrainConfig", "pretrain"]
