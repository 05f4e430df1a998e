"""Evaluation: perplexity, tasks and texts with a stated protocol, and comparisons of models."""

from lumi.evaluation.config import EvaluateConfig
from lumi.evaluation.evaluate import evaluate
from lumi.evaluation.results import RESULTS, Evaluation, Measurement

__all__ = ["RESULTS", "EvaluateConfig", "Evaluation", "Measurement", "evaluate"]
