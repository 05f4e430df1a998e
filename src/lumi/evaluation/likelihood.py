"""How likely continuations of prompts are: what multiple choice and the last word of a text are scored by.

Continuations of one prompt share one row, each seeing the prompt and itself alone, so that the prompt is worked out
once; and the head runs only at the places that are asked for:

    prompt prompt prompt | first | second second | third        positions 0 1 2 | 3 | 3 4 | 3
                       *                 *                      "*": where a prediction is read

The last token of a continuation is only ever a target. Shapes: B rows, T columns, N predictions.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from lumi.errors import DataError
from lumi.evaluation.language_model import LanguageModel
from lumi.progress import progress

_PAD = 0  # any id: nothing looks at it
_BATCH_TOKENS = {"cpu": 2**12, "cuda": 2**16}  # columns in one forward pass, padding included


class Request(NamedTuple):
    """A prompt and one continuation, as ids; neither is empty."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """Log-probability of a continuation in nats, and whether greedy decoding would give it."""

    log_prob: float
    greedy: bool


@dataclass
class _Row:
    """One prompt with its continuations, laid out."""

    prompt: tuple[int, ...]
    tokens: list[int]
    positions: list[int]
    branches: list[int] = field(default_factory=list)  # 0: prompt, else number of the continuation
    places: list[int] = field(default_factory=list)  # columns that predict
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # the request that each prediction belongs to

    @classmethod
    def of(cls, prompt: tuple[int, ...]) -> "_Row":
        return cls(prompt, list(prompt), list(range(len(prompt))), [0] * len(prompt))

    def add(self, continuation: Sequence[int], owner: int) -> None:
        start, branch = len(self.prompt), max(self.branches) + 1
        self.places += [start - 1, *range(len(self.tokens), len(self.tokens) + len(continuation) - 1)]
        self.targets += continuation
        self.owners += [owner] * len(continuation)
        self.tokens += continuation[:-1]
        self.positions += range(start, start + len(continuation) - 1)
        self.branches += [branch] * (len(continuation) - 1)

    @property
    def branching(self) -> bool:
        return len({branch for branch in self.branches if branch}) > 1


def fit(request: Request, context: int) -> tuple[Request, bool]:
    """Cut the beginning of a prompt that does not fit, and say whether that was needed.

    As lm-eval does: the last ``context`` inputs are kept; one token of prompt always stays.

    Raises:
        DataError: the continuation alone is longer than the context.
    """
    prompt, continuation = request
    if len(continuation) > context:
        raise DataError(
            f"an answer has {len(continuation):,} tokens, the model's context is {context:,}",
            "use a model with a longer context, or leave this task out (--tasks)",
        )
    room = context + 1 - len(continuation)
    return (request, False) if len(prompt) <= room else (Request(prompt[-room:], continuation), True)


def score_continuations(
    model: LanguageModel, requests: Sequence[Request], *, batch_tokens: int | None = None, label: str = "scoring"
) -> list[Likelihood]:
    """Return the likelihood of each continuation, in order; equal requests are worked out once.

    Raises:
        DataError: a continuation that does not fit, or a model that gives no number.
    """
    unique = list(dict.fromkeys(requests))
    rows = _rows(model, unique)
    totals = [0.0] * len(unique)
    greedy = [True] * len(unique)
    with progress(label, total=sum(len(row.tokens) for row in rows), unit="tokens") as bar:
        for batch in _batches(rows, batch_tokens or _BATCH_TOKENS[model.device.type]):
            values, firsts = _predict(model, batch)
            owners = [owner for row in batch for owner in row.owners]
            for owner, value, first in zip(owners, values, firsts, strict=True):
                totals[owner] += value
                greedy[owner] &= first
            bar.advance(sum(len(row.tokens) for row in batch))
    found = dict(zip(unique, map(Likelihood, totals, greedy), strict=True))
    if wrong := next((one for one in totals if one != one or one == float("-inf")), None):
        raise DataError(f"{label}: the model's log-probability is {wrong}", "its weights are broken; use another model")
    return [found[request] for request in requests]


def _rows(model: LanguageModel, requests: Sequence[Request]) -> list[_Row]:
    """Lay requests out, those of one prompt together; the longest rows come first, so that memory shows at once."""
    prompts: dict[tuple[int, ...], list[_Row]] = defaultdict(list)
    for owner, request in enumerate(requests):
        (prompt, continuation), _ = fit(request, model.context)
        if not prompts[prompt] or not model.branches:
            prompts[prompt].append(_Row.of(prompt))
        prompts[prompt][-1].add(continuation, owner)
    rows = [row for group in prompts.values() for row in group]
    return sorted(rows, key=lambda row: (row.branching, len(row.tokens)), reverse=True)


def _batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    for row in rows:
        full = batch and len(batch[0].tokens) * (len(batch) + 1) > batch_tokens
        if full or (batch and row.branching != batch[0].branching):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def _predict(model: LanguageModel, batch: Sequence[_Row]) -> tuple[list[float], list[bool]]:
    longest = max(len(row.tokens) for row in batch)

    def padded(values: Sequence[list[int]], pad: int) -> torch.Tensor:
        return torch.tensor([one + [pad] * (longest - len(one)) for one in values], device=model.device)

    tokens_BT = padded([row.tokens for row in batch], _PAD)
    lines = [number for number, row in enumerate(batch) for _ in row.places]
    places = (
        torch.tensor(lines, device=model.device),
        torch.tensor([place for row in batch for place in row.places], device=model.device),
    )
    targets = torch.tensor([target for row in batch for target in row.targets], device=model.device)
    if not batch[0].branching:
        values, greedy = model.predict(tokens_BT, places, targets)
        return values.double().tolist(), greedy.tolist()
    positions_BT = padded([row.positions for row in batch], 0)
    branches_BT = padded([row.branches for row in batch], 0)
    causal_TT = torch.ones(longest, longest, dtype=torch.bool, device=model.device).tril()
    seen_B1TT = (branches_BT.unsqueeze(1) == 0) | (branches_BT.unsqueeze(1) == branches_BT.unsqueeze(2))
    mask_B1TT = (seen_B1TT & causal_TT).unsqueeze(1)
    values, greedy = model.predict(tokens_BT, places, targets, positions_BT=positions_BT, mask=mask_B1TT)
    return values.double().tolist(), greedy.tolist()
