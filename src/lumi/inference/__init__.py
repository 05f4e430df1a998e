"""Inference: key/value cache, sampling, batched generation, incremental detokenisation."""

from lumi.inference.cache import StaticCache
from lumi.inference.command import GenerateConfig, run_generate
from lumi.inference.detokenizer import IncrementalDetokenizer
from lumi.inference.engine import Completion, Delta, GenerationConfig, generate, stream
from lumi.inference.sampling import probabilities, sample

__all__ = [
    "Completion", "Delta", "GenerateConfig", "GenerationConfig", "IncrementalDetokenizer",
    "StaticCache", "generate", "probabilities", "run_generate", "sample", "stream",
]  # fmt: skip
