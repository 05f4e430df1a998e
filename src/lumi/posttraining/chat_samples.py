"""Answers to fixed questions during training, and what can be counted in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumi.conversation import Message, Template, render
from lumi.errors import ConfigError
from lumi.evaluation.generation_checks import figures_of
from lumi.inference import Completion, GenerationConfig, generate
from lumi.model import Llama
from lumi.tokenizer import Tokenizer


class ChatSamples:
    """Asks a model the same questions each time, with the same random draws.

    Args:
        tokenizer: the model's.
        template: how questions are written down.
        questions: one or more.
        max_new_tokens: of each answer.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, questions: Sequence[str], max_new_tokens: int) -> None:
        self.tokenizer, self.template, self.questions = tokenizer, template, questions
        self.settings = GenerationConfig(
            max_new_tokens=max_new_tokens, temperature=0.7, stop_ids=template.stop_ids, seed=0
        )

    def prompts(self) -> list[list[int]]:
        """Return the questions as the model reads them.

        Raises:
            DataError: one is empty.
        """
        return [
            render([Message("user", question)], self.template, self.tokenizer, asks=True).ids.tolist()
            for question in self.questions
        ]

    def require_room(self, context: int) -> None:
        """Check before a run what would end it at its first validation.

        Raises:
            ConfigError: a question is empty, or leaves no room for an answer.
        """
        for question, prompt in zip(self.questions, self.prompts(), strict=True):
            if len(prompt) >= context:
                raise ConfigError(
                    f"the sample prompt {question:.40}... has {len(prompt):,} tokens, the model's context {context:,}",
                    "give shorter --sample_prompts",
                )

    def answers(self, model: Llama) -> list[Completion]:
        """Return the answer to each question."""
        return generate(model, self.tokenizer, self.prompts(), self.settings)

    def __call__(self, model: Llama, step: int) -> Mapping[str, Any]:
        """Return ``samples``, question and answer of each, and ``generation``, the figures of all."""
        answers = self.answers(model)
        samples = [
            {"prompt": question, "text": answer.text.strip()}
            for question, answer in zip(self.questions, answers, strict=True)
        ]
        return {"samples": samples, "generation": figures_of(answers).to_json()}
