"""Batched generation: prompts of different length in one batch, each answered as if it were alone.

    prompts -> <s> + ids, left-padded -> one forward over all of them -> sample -> forward of one column -> ...

Every random number is named by (seed, row, token), so an answer depends neither on the batch size nor on the
rows beside it. Shapes: B rows, T columns, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from lumi.config import Config
from lumi.errors import DataError
from lumi.inference.cache import StaticCache
from lumi.inference.detokenizer import IncrementalDetokenizer
from lumi.inference.sampling import penalize_repetition, sample
from lumi.model import Llama
from lumi.randomness import unit_interval
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer

FinishReason = Literal["stop", "length"]
Prompt = str | Sequence[int]  # a text, which begins a document, or the ids themselves


class GenerationConfig(Config):
    """How text is continued."""

    max_new_tokens: int = Field(default=128, gt=0)
    """Tokens to write at most; the model's context may end an answer earlier."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the most likely token each time; 1 samples from the model's own distribution."""
    top_k: int | None = Field(default=None, gt=0)
    """Sample from the k most likely tokens only."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1: tokens seen before become less likely."""
    stop_ids: tuple[int, ...] = (EOS_ID,)
    """Token ids that end an answer."""
    seed: int = 0
    """The same seed gives the same answers."""
    batch_size: int = Field(default=32, gt=0)
    """Prompts answered at once; does not change the answers."""


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


@dataclass(frozen=True, slots=True)
class _Token:
    row: int
    id: int
    finish_reason: FinishReason | None


def generate(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig | None = None
) -> list[Completion]:
    """Answer every prompt, in order.

    Raises:
        DataError: a prompt does not fit into the model's context.
    """
    config = config or GenerationConfig()
    encoded = encode_prompts(model, tokenizer, prompts)
    tokens: list[list[int]] = [[] for _ in prompts]
    reasons: dict[int, FinishReason] = {}
    for token in _decode_all(model, encoded, config):
        if token.finish_reason != "stop":
            tokens[token.row].append(token.id)
        if token.finish_reason is not None:
            reasons[token.row] = token.finish_reason
    return [
        Completion(
            prompt if isinstance(prompt, str) else tokenizer.decode(prompt),
            tokenizer.decode(ids),
            tuple(ids),
            reasons[row],
            len(encoded[row]),
        )
        for row, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True))
    ]


def stream(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: GenerationConfig | None = None
) -> Iterator[Delta]:
    """Answer every prompt bit by bit; the bits of one answer, joined, are the text that `generate` gives.

    Raises:
        DataError: at once, when a prompt does not fit into the model's context.
    """
    return _deltas(model, tokenizer, encode_prompts(model, tokenizer, prompts), config or GenerationConfig())


def _deltas(model: Llama, tokenizer: Tokenizer, encoded: list[list[int]], config: GenerationConfig) -> Iterator[Delta]:
    detokenizers = [IncrementalDetokenizer(tokenizer) for _ in encoded]
    for token in _decode_all(model, encoded, config):
        text = "" if token.finish_reason == "stop" else detokenizers[token.row].push(token.id)
        if token.finish_reason is not None:
            text += detokenizers[token.row].finish()
        if text or token.finish_reason:
            yield Delta(token.row, text, token.finish_reason)


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


def _decode_all(model: Llama, encoded: list[list[int]], config: GenerationConfig) -> Iterator[_Token]:
    for first in range(0, len(encoded), config.batch_size):
        yield from _decode_batch(model, encoded[first : first + config.batch_size], config, first)


@torch.inference_mode()
def _decode_batch(model: Llama, prompts: list[list[int]], config: GenerationConfig, first: int) -> Iterator[_Token]:
    """Yield the tokens of one batch as they are decided; ``first`` is the number of its first prompt."""
    device = model.lm_head.weight.device
    lengths = [len(ids) for ids in prompts]
    longest = max(lengths)
    limits = [min(config.max_new_tokens, model.config.sequence_length - length) for length in lengths]
    padding_B = torch.tensor([longest - length for length in lengths], device=device)
    tokens_BT = torch.tensor([[PAD_ID] * (longest - len(ids)) + ids for ids in prompts], device=device)
    positions_BT = (torch.arange(longest, device=device) - padding_B.unsqueeze(1)).clamp(min=0)
    seen_BV = torch.zeros(len(prompts), model.config.vocab_size, dtype=torch.bool, device=device)
    for row, ids in enumerate(prompts):
        seen_BV[row, ids] = True
    cache = StaticCache(model.config, longest + max(limits), padding_B, dtype=model.compute_dtype)
    running = set(range(len(prompts)))
    for step in range(max(limits)):
        hidden_BTD = model.hidden(tokens_BT, positions_BT=positions_BT, cache=cache)
        logits_BV = model.lm_head(hidden_BTD[:, -1]).float()
        chosen_B = sample(
            penalize_repetition(logits_BV, seen_BV, config.repetition_penalty),
            _uniforms(config, first, len(prompts), step).to(device),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        seen_BV.scatter_(1, chosen_B.unsqueeze(1), True)
        chosen = chosen_B.tolist()
        for row in sorted(running):
            reason: FinishReason | None = None
            if chosen[row] in config.stop_ids:
                reason = "stop"
            elif step + 1 == limits[row]:
                reason = "length"
            if reason is not None:
                running.discard(row)
            yield _Token(first + row, chosen[row], reason)
        if not running:
            return
        tokens_BT = chosen_B.unsqueeze(1)
        # a finished row only keeps its place; its position must not run out of the table
        positions_BT = (positions_BT[:, -1:] + 1).clamp(max=model.config.sequence_length - 1)


def _uniforms(config: GenerationConfig, first: int, rows: int, step: int) -> torch.Tensor:
    if config.temperature == 0.0:
        return torch.zeros(rows, dtype=torch.float64)
    draws = [unit_interval(config.seed, "sampling", f"{first + row}/{step}".encode()) for row in range(rows)]
    return torch.tensor(draws, dtype=torch.float64)
