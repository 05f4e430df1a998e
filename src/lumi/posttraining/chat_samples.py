"""Answers to fixed questions during training, and what can be counted in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lumi.conversation import Message, Template, render
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

    def answers(self, model: Llama) -> list[Completion]:
        """Return the answer to each question."""
        prompts = [
            render([Message("user", question)], self.template, self.tokenizer, asks=True).ids.tolist()
            for question in self.questions
        ]
        return generate(model, self.tokenizer, prompts, self.settings)

    def __call__(self, model: Llama, step: int) -> Mapping[str, Any]:
        """Return ``samples``, question and answer of each, and ``generation``, the figures of all."""
        answers = self.answers(model)
        samples = [
            {"prompt": question, "text": answer.text.strip()}
            for question, answer in zip(self.questions, answers, strict=True)
        ]
        return {"samples": samples, "generation": figures_of(answers).to_json()}
