"""Inference: the engine with its cache of slots, sampling, incremental detokenisation, generation, chat."""

from lumi.inference.command import GenerateConfig, run_generate
from lumi.inference.detokenizer import IncrementalDetokenizer
from lumi.inference.engine import Engine, most_slots
from lumi.inference.generation import Completion, Delta, generate, stream
from lumi.inference.request import FinishReason, Request, TokenLogprobs
from lumi.inference.settings import GenerationConfig

__all__ = [
    "Completion", "Delta", "Engine", "FinishReason", "GenerateConfig", "GenerationConfig", "IncrementalDetokenizer",
    "Request", "TokenLogprobs", "generate", "most_slots", "run_generate", "stream",
]  # fmt: skip
