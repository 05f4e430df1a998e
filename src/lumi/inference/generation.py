"""Prompts in, answers out: the engine for callers who have all of their prompts at hand.

Prompt number i draws with seed + i, so an answer depends neither on the batch size nor on the prompts beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lumi.errors import DataError
from lumi.inference.engine import Engine
from lumi.inference.request import FinishReason, Request
from lumi.inference.settings import GenerationConfig
from lumi.model import Llama
from lumi.tokenizer import BOS_ID, Tokenizer

Prompt = str | Sequence[int]  # a text, which begins a document, or the ids themselves


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished answer; ``token_ids`` are without the end token."""

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The next bit of the answer to prompt number ``index``; the last one carries the reason of its end."""

    index: int
    text: str
    finish_reason: FinishReason | None = None


def generate(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig | None = None
) -> list[Completion]:
    """Answer every prompt, in order.

    Raises:
        DataError: a prompt does not fit into the model's context.
    """
    engine, requests = _submit(model, tokenizer, prompts, config or GenerationConfig())
    if engine is not None:
        engine.run()
    return [
        Completion(
            prompt if isinstance(prompt, str) else tokenizer.decode(prompt),
            request.text,
            tuple(request.token_ids),
            request.finish_reason or "cancelled",
            len(request.prompt_ids),
        )
        for prompt, request in zip(prompts, requests, strict=True)
    ]


def stream(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig | None = None
) -> Iterator[Delta]:
    """Answer every prompt bit by bit; the bits of one answer, joined, are the text that `generate` gives.

    Raises:
        DataError: at once, when a prompt does not fit into the model's context.
    """
    engine, requests = _submit(model, tokenizer, prompts, config or GenerationConfig())
    return _deltas(engine, requests) if engine is not None else iter(())


def _deltas(engine: Engine, requests: Sequence[Request]) -> Iterator[Delta]:
    index_of = {id(request): index for index, request in enumerate(requests)}
    read = [0] * len(requests)
    while not engine.is_idle:
        for request in engine.step():
            index = index_of[id(request)]
            text, read[index] = request.text_since(read[index])
            if text or request.finish_reason:
                yield Delta(index, text, request.finish_reason)


def _submit(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig
) -> tuple[Engine | None, list[Request]]:
    """Return an engine with just the room that the prompts need, and its requests."""
    encoded = encode_prompts(model, tokenizer, prompts)
    if not encoded:
        return None, []
    engine = Engine(
        model,
        tokenizer,
        num_slots=min(config.batch_size, len(encoded)),
        context=max(map(len, encoded)) + config.max_new_tokens,
    )
    return engine, [
        engine.submit(ids, config.model_copy(update={"seed": config.seed + number}))
        for number, ids in enumerate(encoded)
    ]


def encode_prompts(model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the ids of each prompt: of a text, ``<s>`` and its own.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    context = model.config.sequence_length
    encoded = [[BOS_ID, *tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    for number, ids in enumerate(encoded):
        if len(ids) >= context:
            raise DataError(
                f"prompt {number + 1} has {len(ids):,} tokens with its <s>, the model's context is {context:,}:"
                " there is no room for an answer",
                f"shorten it to at most {context - 1:,} tokens, or use a model with a longer context",
            )
    return encoded
