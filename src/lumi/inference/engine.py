"""The engine: many requests at once, joining and leaving between steps, each answered as if it were alone.

    submit -> waiting -> a slot of the cache, the longest beginning that some slot holds taken over
           -> the rest of the prompt filled in, a chunk a step -> one token a step -> finished, or cancelled

A step fills chunks of prompts and draws one token for every request whose prompt is in. The last token of a prompt
is fed like a drawn one, so that there is one place where tokens are drawn. A slot keeps what it held when its
request leaves: that is the cache of prefixes.

The engine belongs to one thread; `lumi.serving` gives it one.
"""

import importlib.util
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lumi.errors import ConfigError, DataError
from lumi.inference.cache import SlotCache, slot_bytes
from lumi.inference.decoder import Decoder, DecoderWeights, Dense, Int8, Span
from lumi.inference.request import Request
from lumi.inference.settings import GenerationConfig
from lumi.inference.stepper import Pending, PlainStepper, Row, Stepper
from lumi.model import Llama, ModelConfig, free_memory
from lumi.tokenizer import Tokenizer

_FILL_TOKENS = {"cpu": 256, "cuda": 4096}  # of prompts, in a step: what the others wait for
_WORTH_COPYING = 16  # tokens of a prefix
_SLOTS = {"cpu": 16, "cuda": 256}


def most_slots(config: ModelConfig, context: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many requests a device runs at once: what half of its free memory has room for, within reason."""
    room = free_memory(device) // 2 // slot_bytes(config, context, dtype)
    return max(1, min(_SLOTS[device.type], room))


@dataclass(slots=True)
class _Slot:
    """A place in the cache and who has it."""

    index: int
    request: Request | None = None
    filled: int = 0  # tokens of the prompt whose keys and values are there
    started: int = 0  # tokens of the answer that were asked for
    left_at: int = 0  # when it was last given back

    @property
    def is_full(self) -> bool:
        return self.request is not None and self.filled == len(self.request.prompt_ids) - 1


class Engine:
    """Answers requests with a model.

    Args:
        model: its weights are copied, adapters merged.
        tokenizer: the model's.
        num_slots: requests that run at once; others wait.
        context: tokens of prompt and answer, at most the model's own context, which is the default.
        int8: keep the matrices in int8, on a CPU: fewer bytes to read, other roundings.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        *,
        num_slots: int = 8,
        context: int | None = None,
        int8: bool = False,
    ) -> None:
        self.tokenizer, self.config = tokenizer, model.config
        self.context = min(context or model.config.sequence_length, model.config.sequence_length)
        self.device = model.lm_head.weight.device
        weights = DecoderWeights.of(model)
        if int8 and self.device.type != "cpu":
            raise ConfigError("int8 weights are for a CPU, and the model is on a card", "leave int8 out, or use a CPU")
        with_graphs = self.device.type == "cuda" and importlib.util.find_spec("triton") is not None
        slots = num_slots + with_graphs  # one is nobody's
        self._cache = SlotCache(model.config, slots, self.context, dtype=weights.dtype, device=self.device)
        self._decoder = Decoder(weights, self._cache, Int8 if int8 else Dense)
        self._stepper: Stepper = PlainStepper(self._decoder)
        if with_graphs:
            from lumi.inference.graphs import GraphStepper

            self._stepper = GraphStepper(weights, self._cache)
        self._slots = [_Slot(index) for index in range(num_slots)]
        self._held = np.zeros((num_slots, self.context), dtype=np.int32)  # tokens whose keys and values are there
        self._held_length = np.zeros(num_slots, dtype=np.int64)
        self._waiting: deque[Request] = deque()
        self._pending: deque[tuple[list[Row], Pending]] = deque()
        self._clock = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return sum(slot.request is not None for slot in self._slots)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and self.num_running == 0

    def warm_up(self) -> None:
        """Compile and capture what steps need, so that no request waits for it; only a card has something to do."""
        with torch.inference_mode():
            self._stepper.warm_up()

    def submit(self, prompt_ids: Sequence[int], settings: GenerationConfig) -> Request:
        """Add a request to those that wait.

        Raises:
            DataError: the prompt is empty, leaves no room for an answer, or an id is none of the vocabulary's.
        """
        request = self.check(prompt_ids, settings)
        self._waiting.append(request)
        return request

    def check(self, prompt_ids: Sequence[int], settings: GenerationConfig) -> Request:
        """Return the request that `submit` would add; from any thread.

        Raises:
            DataError: as `submit`.
        """
        if len(prompt_ids) >= self.context:
            raise DataError(
                f"the prompt has {len(prompt_ids):,} tokens, the context is {self.context:,}: there is no room for"
                " an answer",
                f"shorten it to at most {self.context - 1:,} tokens, or use a model with a longer context",
            )
        unknown = [i for i in (*prompt_ids, *settings.logit_bias) if not 0 <= i < self.config.vocab_size]
        if unknown or not prompt_ids:
            raise DataError(
                f"token {unknown[0]} is none of the model's" if unknown else "the prompt has no token",
                f"give ids from 0 to {self.config.vocab_size - 1:,}" if unknown else "begin it with <s>",
            )
        return Request.of(prompt_ids, settings, self.context, self.tokenizer)

    def enqueue(self, request: Request) -> None:
        """Add a request that `check` made."""
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request where it is; its slot is free at once."""
        if request.finish_reason is None:
            request.finish("cancelled")
            if request in self._waiting:
                self._waiting.remove(request)
            for slot in self._slots:
                if slot.request is request:
                    self._free(slot)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Let every request come a step further; return those that got a token."""
        self._admit()
        self._fill()
        rows = [
            Row(slot.index, slot.filled + slot.started, slot.request)
            for slot in self._slots
            if slot.request is not None and slot.is_full and slot.started < slot.request.limit
        ]
        if rows:
            self._pending.append((rows, self._stepper.step(rows)))
            for row in rows:
                self._slots[row.slot].started += 1
        moved = []
        while len(self._pending) > (self._stepper.lag if rows else 0):
            moved += self._settle(*self._pending.popleft())
        return moved

    def forget(self) -> None:
        """Let no prefix be taken over from what slots held until now."""
        self._held_length[:] = [slot.filled if slot.request is not None else 0 for slot in self._slots]

    def run(self) -> None:
        """Answer all that was submitted."""
        while not self.is_idle:
            self.step()

    def _admit(self) -> None:
        """Give free slots to those who have waited longest."""
        free = [slot for slot in self._slots if slot.request is None]
        while free and self._waiting:
            request = self._waiting.popleft()
            slot = self._choose(request, free)
            free.remove(slot)
            slot.request, slot.started = request, 0
            slot.filled = request.cached_tokens
            self._held_length[slot.index] = slot.filled
            if slot.is_full:
                self._stepper.begin([Row(slot.index, slot.filled, request)])

    def _choose(self, request: Request, free: Sequence[_Slot]) -> _Slot:
        """Return the free slot for a request, with as much of its prompt as some slot had."""
        ids = np.array(request.prompt_ids[:-1], dtype=np.int32)
        differs = self._held[:, : len(ids)] != ids
        common = np.where(differs.any(1), differs.argmax(1), len(ids)) if len(ids) else np.zeros(len(differs), int)
        common = np.minimum(common, self._held_length)
        best = int(common.argmax())
        length = int(common[best])
        oldest = min(free, key=lambda slot: (slot.left_at, slot.index))
        if length < _WORTH_COPYING:
            return oldest
        request.cached_tokens = length
        if self._slots[best] in free and 2 * length >= self._held_length[best]:
            return self._slots[best]  # most of what it holds is of use
        self._cache.copy(best, oldest.index, length)
        self._held[oldest.index, :length] = ids[:length]
        return oldest

    def _fill(self) -> None:
        """Bring prompts into the cache, oldest first, as many tokens as a step may take."""
        room = _FILL_TOKENS[self.device.type]
        spans: list[Span] = []
        tokens: list[int] = []
        filled: list[_Slot] = []
        for slot in self._slots:
            if slot.request is None or slot.is_full or room == 0:
                continue
            prompt = slot.request.prompt_ids
            count = min(room, len(prompt) - 1 - slot.filled)
            spans.append(Span(slot.index, slot.filled, count))
            tokens += prompt[slot.filled : slot.filled + count]
            room -= count
            filled.append(slot)
        if not spans:
            return
        self._decoder.fill(torch.tensor(tokens, device=self.device), spans)
        for slot, span in zip(filled, spans, strict=True):
            end = span.start + span.length
            assert slot.request is not None
            self._held[slot.index, span.start : end] = slot.request.prompt_ids[span.start : end]
            self._held_length[slot.index] = slot.filled = end
        self._stepper.begin([Row(slot.index, slot.filled, slot.request) for slot in filled if slot.is_full])  # type: ignore[arg-type]

    def _settle(self, rows: Sequence[Row], pending: Pending) -> list[Request]:
        """Hand out the tokens of a step; those whose request has ended meanwhile are nobody's."""
        drawn = pending.wait()
        moved = []
        for row, token, logprobs in zip(rows, drawn.tokens, drawn.logprobs, strict=True):
            request = row.request
            if request.finish_reason is None:
                request.accept(token, logprobs)
                moved.append(request)
                if request.finish_reason is not None:
                    self._free(self._slots[row.slot])
        return moved

    def _free(self, slot: _Slot) -> None:
        """Give a slot back; what it holds stays, for a request that begins alike."""
        request = slot.request
        assert request is not None
        if slot.is_full:
            held = (*request.prompt_ids, *request.token_ids[:-1])
            self._held[slot.index, : len(held)] = held
            self._held_length[slot.index] = len(held)
        self._clock += 1
        slot.request, slot.left_at = None, self._clock
