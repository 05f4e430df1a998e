"""Inference: the engine with its cache of slots, sampling, incremental detokenisation, generation, chat.

What needs torch is imported when it is first asked for: `lumi chat --url` talks to a server and starts without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lumi.inference.detokenizer import IncrementalDetokenizer
from lumi.inference.request import FinishReason, Request, TokenLogprobs
from lumi.inference.settings import GenerationConfig

if TYPE_CHECKING:
    from lumi.inference.command import GenerateConfig, run_generate
    from lumi.inference.engine import Engine, most_slots
    from lumi.inference.generation import Completion, Delta, generate, stream
else:  # a type checker that saw it would take any name for one of ours
    _MODULES = {
        "GenerateConfig": "command", "run_generate": "command",
        "Engine": "engine", "most_slots": "engine",
        "Completion": "generation", "Delta": "generation", "generate": "generation", "stream": "generation",
    }  # fmt: skip

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "Completion", "Delta", "Engine", "FinishReason", "GenerateConfig", "GenerationConfig", "IncrementalDetokenizer",
    "Request", "TokenLogprobs", "generate", "most_slots", "run_generate", "stream",
]  # fmt: skip
