"""Whole steps as CUDA graphs: the host names slots, everything else stands on the device.

    begin: settings, uniform draws, counts, last token and length of a slot  ->  tables on the device
    step:  slots of the rows -> graph of the next larger size (kernels of `lumi.inference.card.kernels`) -> tokens

Rows of a graph beyond those that are asked for work on a slot that nobody has. While the device draws a token, the
host still reads the one before.

Shapes: B rows, S slots, C positions of a slot, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumi.inference.cache import SlotCache
from lumi.inference.card.decoder import Buffers, decode, draw
from lumi.inference.decoder import DecoderWeights
from lumi.inference.request import TokenLogprobs
from lumi.inference.sampling import sampling_row
from lumi.inference.slot import Slot
from lumi.inference.stepper import Drawn, bias_of, count_prompt, draws

_EAGER_STEPS = 4  # of a size, before a graph of it is worth its making


def sizes(most: int) -> list[int]:
    """Return the numbers of rows for which there are graphs."""
    found = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    while found[-1] < most:
        found.append(2 * found[-1])
    return [size for size in found if size < most] + [most]


class GraphStepper:
    """Decodes on a CUDA card.

    Args:
        weights: of the model.
        cache: with one slot more than there are requests.
    """

    lag = 1

    def __init__(self, weights: DecoderWeights, cache: SlotCache) -> None:
        self.weights, self.cache = weights, cache
        config, device = weights.config, weights.head_VD.device
        self._device, self._nobody = device, cache.num_slots - 1
        self._sizes = sizes(self._nobody)
        slots, capacity, vocab = cache.num_slots, cache.capacity, config.vocab_size
        self._last_S = torch.zeros(slots, dtype=torch.int32, device=device)
        self._lengths_S = torch.zeros(slots, dtype=torch.int32, device=device)
        self._settings_S8 = torch.zeros(slots, 8, device=device)
        self._uniforms_SC = torch.zeros(slots, capacity, device=device)
        self._counts_SV = torch.zeros(slots, vocab, dtype=torch.int16, device=device)
        self._bias_SV = torch.zeros(slots, vocab, device=device)
        most = self._sizes[-1]
        self._slots_B = torch.full((most,), self._nobody, dtype=torch.int32, device=device)
        self._chosen_B = torch.zeros(most, dtype=torch.int32, device=device)
        self._logits_BV = torch.zeros(most, vocab, device=device)
        self._buffers = Buffers.of(weights, most)
        self._slots: Sequence[Slot] = ()  # those in _slots_B
        self._places_N = torch.zeros(0, dtype=torch.int64, device=device)
        self._asked: dict[int, int] = {}  # places among them, and how many log-probabilities each wants
        self._graphs: dict[int, Any] = {}
        self._uses: dict[int, int] = {}

    def warm_up(self) -> None:
        """Make the graphs of all sizes, so that no request waits for it."""
        self._name_slots((), self._sizes[-1])
        for size in self._sizes:
            self._launch(size)
            self._capture(size)

    def begin(self, slots: Sequence[Slot]) -> None:
        vocab = self.weights.config.vocab_size
        settings = np.zeros((len(slots), 8), dtype=np.float32)
        uniforms = np.zeros((len(slots), self.cache.capacity), dtype=np.float32)
        for place, slot in enumerate(slots):
            request, one = slot.holder, slot.holder.settings
            settings[place] = (*sampling_row(one), one.adjusts_logits)
            if one.temperature > 0:
                uniforms[place, slot.position : slot.position + request.limit] = draws(one.seed, request.limit)
        places = self._send(np.array([slot.index for slot in slots], dtype=np.int64))
        self._settings_S8[places] = self._send(settings)
        self._uniforms_SC[places] = self._send(uniforms)
        self._last_S[places] = self._send(np.array([slot.holder.prompt_ids[-1] for slot in slots], dtype=np.int32))
        self._lengths_S[places] = self._send(np.array([slot.position for slot in slots], dtype=np.int32))
        for slot in slots:
            if slot.holder.settings.adjusts_logits:
                self._counts_SV[slot.index] = self._send(count_prompt(slot.holder, vocab))
                self._bias_SV[slot.index] = self._send(bias_of(slot.holder, vocab))

    def step(self, slots: Sequence[Slot]) -> "_Started":
        size = next(size for size in self._sizes if size >= len(slots))
        if slots is not self._slots:
            self._slots = slots
            self._name_slots(tuple(slot.index for slot in slots), size)
            self._asked = {
                place: count for place, slot in enumerate(slots) if (count := slot.holder.settings.logprobs) is not None
            }
            self._places_N = self._send(np.array(list(self._asked), dtype=np.int64))
        if (graph := self._graphs.get(size)) is not None:
            graph.replay()
        else:
            self._launch(size)
            self._uses[size] = self._uses.get(size, 0) + 1
            if self._uses[size] == _EAGER_STEPS:
                self._capture(size)
        tokens = self._fetch(self._chosen_B[: len(slots)])
        logprobs = None
        if self._asked:
            log_probs_NV = self._logits_BV[self._places_N].log_softmax(-1)
            chosen_N1 = self._chosen_B[self._places_N].long().unsqueeze(1)
            likeliest = log_probs_NV.topk(min(max(1, *self._asked.values()), log_probs_NV.shape[1]))
            parts = (log_probs_NV.gather(1, chosen_N1), likeliest.values, likeliest.indices)
            logprobs = self._fetch(torch.cat([part.double() for part in parts], 1))
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Started(tokens, self._asked, logprobs, done)

    def _send(self, values: NDArray[Any]) -> Tensor:
        """Copy to the device without waiting for what it does."""
        return torch.from_numpy(values).pin_memory().to(self._device, non_blocking=True)

    @staticmethod
    def _fetch(values: Tensor) -> Tensor:
        """Begin to copy from the device; what is returned is there once the step is done."""
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)

    def _name_slots(self, slots: tuple[int, ...], size: int) -> None:
        self._slots_B[:size] = self._send(np.array(slots + (self._nobody,) * (size - len(slots)), dtype=np.int32))

    def _capture(self, size: int) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._launch(size)
        self._graphs[size] = graph

    def _launch(self, size: int) -> None:
        """Run the kernels of one step for the first rows."""
        slots_B = self._slots_B[:size]
        decode(self.weights, self.cache, self._buffers, slots_B, self._last_S, self._lengths_S, self._logits_BV)
        draw(
            self._logits_BV, slots_B, self._last_S, self._lengths_S, self._settings_S8, self._uniforms_SC,
            self._counts_SV, self._bias_SV, self._chosen_B, self._nobody, self.weights.config.d_model,
        )  # fmt: skip


class _Started(NamedTuple):
    tokens: Tensor
    asked: dict[int, int]
    logprobs: Tensor | None  # [asked, 1 + N + N]: of the chosen token, of the likeliest, their ids
    done: torch.cuda.Event

    def wait(self) -> Drawn:
        self.done.synchronize()
        tokens: list[int] = self.tokens.tolist()
        if self.logprobs is None:
            return Drawn(tokens, None)
        found: list[TokenLogprobs | None] = [None] * len(tokens)
        for (place, count), values in zip(self.asked.items(), self.logprobs.tolist(), strict=True):
            most = (len(values) - 1) // 2
            likeliest = zip(map(int, values[1 + most : 1 + most + count]), values[1 : 1 + count], strict=True)
            found[place] = TokenLogprobs(tokens[place], values[0], tuple(likeliest))
        return Drawn(tokens, found)
