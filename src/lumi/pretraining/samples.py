"""Sample texts during training: the same prompts each time, so that one can watch the model learn."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumi.inference import GenerationConfig, generate
from lumi.model import Llama
from lumi.tokenizer import Tokenizer


class SampleTexts:
    """Continues fixed prompts; the random draws are named by the step.

    Args:
        tokenizer: the model's.
        prompts: an empty one begins a document.
        max_new_tokens: of each text.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[str], max_new_tokens: int) -> None:
        self.tokenizer, self.prompts, self.max_new_tokens = tokenizer, prompts, max_new_tokens

    def __call__(self, model: Llama, step: int) -> Mapping[str, Any]:
        """Return ``samples``: ``prompt`` and ``text`` of each."""
        config = GenerationConfig(max_new_tokens=self.max_new_tokens, seed=step)
        completions = generate(model, self.tokenizer, self.prompts, config)
        return {"samples": [{"prompt": one.prompt, "text": one.text} for one in completions]}
