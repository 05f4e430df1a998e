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

import numpy as np
import torch

from lumi.errors import ConfigError, DataError
from lumi.inference.cache import SlotCache, cache_dtype, slot_bytes
from lumi.inference.cpu.decoder import CpuDecoder
from lumi.inference.decoder import Decoder, DecoderWeights, Span
from lumi.inference.request import Request
from lumi.inference.settings import GenerationConfig
from lumi.inference.slot import Slot
from lumi.inference.stepper import Pending, PlainStepper, Stepper
from lumi.model import Llama, ModelConfig, free_memory
from lumi.tokenizer import Tokenizer

_FILL_TOKENS = {"cpu": 256, "cuda": 8192}  # of prompts, in a step: what the others wait for
_WORTH_COPYING = 16  # tokens of a prefix
_SLOTS = {"cpu": 16, "cuda": 256}


def most_slots(config: ModelConfig, context: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many requests a device runs at once: what half of its free memory has room for, within reason."""
    room = free_memory(device) // 2 // slot_bytes(config, context, cache_dtype(dtype, device))
    return max(1, min(_SLOTS[device.type], room))


class Engine:
    """Answers requests with a model.

    Args:
        model: its weights are taken as they are now, adapters merged; it must not be trained meanwhile.
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
        if int8 and self.device.type != "cpu":
            raise ConfigError(
                "int8 weights are for a CPU, and the model is on a card", "leave int8 out, or add --device cpu"
            )
        weights = DecoderWeights.of(model)
        with_graphs = self.device.type == "cuda" and importlib.util.find_spec("triton") is not None
        slots = num_slots + with_graphs  # one is nobody's
        self._cache = SlotCache(
            model.config, slots, self.context, dtype=cache_dtype(weights.dtype, self.device), device=self.device
        )
        self._decoder: Decoder
        self._stepper: Stepper
        if with_graphs:
            from lumi.inference.card.decoder import CardDecoder
            from lumi.inference.card.graphs import GraphStepper

            self._decoder = CardDecoder(weights, self._cache)
            self._stepper = GraphStepper(weights, self._cache)
        else:
            on_cpu = self.device.type == "cpu"
            self._decoder = CpuDecoder(weights, self._cache, int8=int8) if on_cpu else Decoder(weights, self._cache)
            self._stepper = PlainStepper(self._decoder)
        self._slots = [Slot(index) for index in range(num_slots)]
        self._held = np.zeros((num_slots, self.context), dtype=np.int32)  # what slots hold, or will when filled
        self._held_length = np.zeros(num_slots, dtype=np.int64)  # tokens whose keys and values are there
        self._promised_length = np.zeros(num_slots, dtype=np.int64)  # and those that are on their way
        self._waiting: deque[Request] = deque()
        self._free = list(self._slots)
        self._filling: list[Slot] = []  # in the order in which they came
        self._writing: tuple[Slot, ...] = ()
        self._pending: deque[tuple[tuple[Slot, ...], list[Request], Pending]] = deque()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._slots) - len(self._free)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self.num_running

    def warm_up(self) -> None:
        """Compile and capture what steps need, so that no request waits for it; before the first request."""
        with torch.inference_mode():
            self._stepper.warm_up()

    def submit(self, prompt_ids: Sequence[int], settings: GenerationConfig) -> Request:
        """Add a request to those that wait.

        Raises:
            DataError: the prompt is empty, leaves no room for an answer, or an id is none of the vocabulary's.
        """
        request = self.check(prompt_ids, settings)
        self.enqueue(request)
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
            else:
                self._leave([slot for slot in self._slots if slot.request is request])

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Let every request come a step further; return those that got a token."""
        if self._waiting and self._free:
            self._admit()
        if self._filling:
            self._fill()
        if self._writing:
            requests = [slot.holder for slot in self._writing]
            self._pending.append((self._writing, requests, self._stepper.step(self._writing)))
            for slot in self._writing:
                slot.started += 1
            if any(slot.started == slot.holder.limit for slot in self._writing):
                self._writing = tuple(slot for slot in self._writing if slot.started < slot.holder.limit)
        moved = []
        while len(self._pending) > (self._stepper.lag if self._writing else 0):
            moved += self._settle(*self._pending.popleft())
        return list(dict.fromkeys(moved))  # two steps may have been settled

    def reset(self) -> None:
        """Cancel everything and forget what slots hold: the way to go on after a step that failed."""
        self._pending.clear()
        for request in [*self._waiting, *(slot.request for slot in self._slots if slot.request is not None)]:
            self.cancel(request)
        self.forget()

    def forget(self) -> None:
        """Let no prefix be taken over from what slots held until now."""
        free = [slot.index for slot in self._free]
        self._held_length[free] = self._promised_length[free] = 0

    def run(self) -> None:
        """Answer all that was submitted."""
        while not self.is_idle:
            self.step()

    def _admit(self) -> None:
        """Give free slots to those who have waited longest."""
        while self._free and self._waiting:
            request = self._waiting[0]
            slot = self._choose(request)
            if slot is None:
                return
            self._waiting.popleft()
            self._free.remove(slot)
            slot.request, slot.filled, slot.started = request, request.cached_tokens, 0
            ids = request.prompt_ids[:-1]
            self._held[slot.index, : len(ids)] = ids
            self._held_length[slot.index], self._promised_length[slot.index] = slot.filled, len(ids)
            self._filling.append(slot)

    def _choose(self, request: Request) -> Slot | None:
        """Return a free slot for a request, with as much of its prompt as some slot had.

        None where the next steps fill in more of it for somebody else: then it is worth waiting for.
        """
        ids = np.array(request.prompt_ids[:-1], dtype=np.int32)
        oldest = self._free[0]  # they come back in the order of time
        if len(ids) < _WORTH_COPYING:
            return oldest
        last = _WORTH_COPYING - 1  # what is worth copying has this token
        alike = np.flatnonzero((self._promised_length > last) & (self._held[:, last] == ids[last]))
        if not len(alike):
            return oldest
        differs = self._held[alike, : len(ids)] != ids
        common = np.where(differs.any(1), differs.argmax(1), len(ids))
        there = np.minimum(common, self._held_length[alike])
        best, length = int(alike[there.argmax()]), int(there.max())
        if int(np.minimum(common, self._promised_length[alike]).max()) >= length + _WORTH_COPYING:
            return None
        if length < _WORTH_COPYING:
            return oldest
        request.cached_tokens = length
        if self._slots[best] in self._free and 2 * length >= self._held_length[best]:
            return self._slots[best]  # most of what it holds is of use
        self._cache.copy(best, oldest.index, length)
        return oldest

    def _fill(self) -> None:
        """Bring prompts into the cache, oldest first, as many tokens as a step may take."""
        room = _FILL_TOKENS[self.device.type]
        spans: list[Span] = []
        for slot in self._filling:
            length = min(room, len(slot.holder.prompt_ids) - 1 - slot.filled)
            if length:
                spans.append(Span(slot.index, slot.filled, length))
                room -= length
        if spans:
            prompts = [self._held[span.slot, span.start : span.start + span.length] for span in spans]
            self._decoder.fill(torch.from_numpy(np.concatenate(prompts)).to(self.device), spans)
        for span in spans:
            self._held_length[span.slot] = self._slots[span.slot].filled = span.start + span.length
        ready = [slot for slot in self._filling if slot.is_full]
        if ready:
            self._stepper.begin(ready)
            self._filling = [slot for slot in self._filling if not slot.is_full]
            self._writing = (*self._writing, *ready)

    def _settle(self, slots: Sequence[Slot], requests: Sequence[Request], pending: Pending) -> list[Request]:
        """Hand out the tokens of a step; those whose request has ended meanwhile are nobody's."""
        tokens, logprobs = pending.wait()
        moved: list[Request] = []
        done: list[Slot] = []
        for place, request in enumerate(requests):
            if request.finish_reason is None:
                request.accept(tokens[place], logprobs[place] if logprobs is not None else None)
                moved.append(request)
                if request.finish_reason is not None:
                    done.append(slots[place])
        if done:
            self._leave(done)
        return moved

    def _leave(self, slots: Sequence[Slot]) -> None:
        """Give slots back; what they hold stays, for requests that begin alike."""
        for slot in slots:
            request = slot.holder
            if slot.is_full:
                held = (*request.prompt_ids, *request.token_ids[:-1])
                self._held[slot.index, : len(held)] = held
                self._held_length[slot.index] = len(held)
            self._promised_length[slot.index] = self._held_length[slot.index]
            slot.request = None
            self._free.append(slot)
        if any(slot in self._writing for slot in slots):
            self._writing = tuple(slot for slot in self._writing if slot.request is not None)
        self._filling = [slot for slot in self._filling if slot.request is not None]
