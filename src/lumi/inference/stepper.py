"""One new token for each of some slots: the part of decoding that is exchanged for another device.

`PlainStepper` is plain torch, and what the others are checked against.

Shapes: B slots, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumi.inference.decoder import Decoder, Span
from lumi.inference.request import Request, TokenLogprobs
from lumi.inference.sampling import PROMPTED, Sampling, adjust
from lumi.inference.slot import Slot
from lumi.randomness import generator


class Drawn(NamedTuple):
    """What a step has drawn, for each slot."""

    tokens: list[int]
    logprobs: Sequence[TokenLogprobs | None] | None  # None: nobody asked


class Pending(Protocol):
    """A step that has been started."""

    def wait(self) -> Drawn:
        """Return what it has drawn."""
        ...


class Stepper(Protocol):
    """Draws the next tokens."""

    lag: int
    """Steps that are started before the tokens of the first one are read."""

    def warm_up(self) -> None:
        """Do beforehand what else the first steps would wait for."""
        ...

    def begin(self, slots: Sequence[Slot]) -> None:
        """Take note of requests whose prompts have come in."""
        ...

    def step(self, slots: Sequence[Slot]) -> Pending:
        """Draw one token for each slot; the same sequence again means the same slots."""
        ...


def draws(settings_seed: int, count: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each token of an answer, a function of the seed and the token's place alone."""
    return generator(settings_seed, "sampling").random(count)


def count_prompt(request: Request, vocab_size: int) -> NDArray[np.int16]:
    """Return the counts with which an answer begins, [V]; see `adjust`."""
    counts_V = np.zeros(vocab_size, dtype=np.int16)
    counts_V[list(request.prompt_ids)] = PROMPTED
    return counts_V


def bias_of(request: Request, vocab_size: int) -> NDArray[np.float32]:
    """Return what is added to the logits, [V]."""
    bias_V = np.zeros(vocab_size, dtype=np.float32)
    for token, bias in request.settings.logit_bias.items():
        bias_V[token] = bias
    return bias_V


@dataclass(slots=True)
class _Adjustment:
    counts_V: Tensor
    bias_V: Tensor


class PlainStepper:
    """Runs the decoder and the sampling as they stand in `decoder` and `sampling`."""

    lag = 0

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._device = decoder.device
        self._slots: Sequence[Slot] = ()  # whose settings are in _sampling
        self._sampling: Sampling
        self._draws: dict[int, NDArray[np.float64]] = {}
        self._adjustments: dict[int, _Adjustment] = {}

    def warm_up(self) -> None:
        self._decoder.warm_up()

    def begin(self, slots: Sequence[Slot]) -> None:
        vocab_size = self._decoder.config.vocab_size
        for slot in slots:
            request, settings = slot.holder, slot.holder.settings
            self._draws.pop(slot.index, None)
            self._adjustments.pop(slot.index, None)
            if settings.temperature > 0:
                self._draws[slot.index] = draws(settings.seed, request.limit)
            if settings.adjusts_logits:
                self._adjustments[slot.index] = _Adjustment(
                    torch.from_numpy(count_prompt(request, vocab_size)).to(self._device),
                    torch.from_numpy(bias_of(request, vocab_size)).to(self._device),
                )

    def step(self, slots: Sequence[Slot]) -> "_Done":
        tokens_B = torch.tensor([_last(slot.holder) for slot in slots], device=self._device)
        logits_BV = self._decoder.logits(tokens_B, [Span(slot.index, slot.position, 1) for slot in slots])
        chosen_B = self._sample(logits_BV, slots)
        chosen = chosen_B.tolist()
        for slot, token in zip(slots, chosen, strict=True):
            if (adjustment := self._adjustments.get(slot.index)) is not None:
                count = int(adjustment.counts_V[token])
                adjustment.counts_V[token] = count + (count % PROMPTED < PROMPTED - 1)
        return _Done(Drawn(chosen, _logprobs(logits_BV, chosen_B, slots)))

    def _sample(self, logits_BV: Tensor, slots: Sequence[Slot]) -> Tensor:
        if slots is not self._slots:
            self._slots = slots
            self._sampling = Sampling.of([slot.holder.settings for slot in slots], self._device)
        if self._adjustments:
            logits_BV = logits_BV.clone()  # the model's own are asked for afterwards
        for place, slot in enumerate(slots):
            if (adjustment := self._adjustments.get(slot.index)) is not None:
                here = slice(place, place + 1)
                own = Sampling(*(values_B[here] for values_B in self._sampling))
                counts_1V, bias_1V = adjustment.counts_V.unsqueeze(0), adjustment.bias_V.unsqueeze(0)
                logits_BV[here] = adjust(logits_BV[here], counts_1V, bias_1V, own)
        uniforms = [self._draws[slot.index][slot.started] if slot.index in self._draws else 0.0 for slot in slots]
        uniform_B = torch.tensor(uniforms, dtype=torch.float64, device=self._device)
        return self._decoder.sample(logits_BV, uniform_B, self._sampling)


class _Done(NamedTuple):
    drawn: Drawn

    def wait(self) -> Drawn:
        return self.drawn


def _last(request: Request) -> int:
    return request.token_ids[-1] if request.token_ids else request.prompt_ids[-1]


def _logprobs(logits_BV: Tensor, chosen_B: Tensor, slots: Sequence[Slot]) -> Sequence[TokenLogprobs | None] | None:
    """Report log-probabilities to those who asked, by the logits as the model gave them."""
    asked = {place: count for place, slot in enumerate(slots) if (count := slot.holder.settings.logprobs) is not None}
    if not asked:
        return None
    out: list[TokenLogprobs | None] = [None] * len(slots)
    for place, count in asked.items():
        log_probs_V = logits_BV[place].log_softmax(-1)
        likeliest = log_probs_V.topk(min(count, len(log_probs_V)))
        token = int(chosen_B[place])
        pairs = tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        out[place] = TokenLogprobs(token, float(log_probs_V[token]), pairs)
    return out
