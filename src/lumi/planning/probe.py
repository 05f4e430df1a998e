"""A few real training steps on random rows: what speed and memory are on this machine."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lumi.data import BatchLoader
from lumi.errors import ConfigError
from lumi.model import choose_device, create_model
from lumi.planning.config import PlanConfig
from lumi.progress import progress
from lumi.tokenizer import BOS_ID
from lumi.training import CausalLMObjective, ModelFiles, Ranks, RunFolder, Trainer
from lumi.training.metrics import memory_bytes

_WARM_UP_STEPS = 3  # the first one compiles
_STEPS = 20
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Measurement:
    """What the probe saw; ``peak_bytes`` is what torch held on a card, or the whole process on a CPU."""

    tokens_per_second: float
    peak_bytes: int
    num_steps: int
    on_card: bool


class _RandomRows:
    """Stands in for a loader: the same random rows at every step."""

    def __init__(self, rows: int, length: int, vocab_size: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.rows = draw.integers(16, vocab_size, (rows, length + 1), dtype=np.uint16)
        self.sequence_length = self.tokens_per_row = length
        self.documents_per_row = int((self.rows == BOS_ID).sum(1).max()) + 1

    def next_batch(self) -> Any:
        return self.rows

    def close(self) -> None: ...


def probe(config: PlanConfig, *, micro_batch_size: int, recompute: bool) -> Measurement:
    """Train one rank's share of a batch for some steps; nothing is written.

    Raises:
        ConfigError: the steps need more memory than there is.
    """
    training = config.training.model_copy(update={"activation_checkpointing": recompute, "parallel": "ddp"})
    device = choose_device(training.device)
    on_card = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_card else 0
    rows = _RandomRows(config.rows_per_rank, config.model.sequence_length, config.model.vocab_size, training.seed)
    try:
        trainer = Trainer(
            model=create_model(config.model, seed=training.seed, attention=training.attention).to(device),
            objective=CausalLMObjective(
                documents_per_row=rows.documents_per_row if training.document_masking else None
            ),
            loader=cast(BatchLoader, rows),
            files=cast(ModelFiles, None),  # they make checkpoints, and there are none
            optimizer=config.optimizer,
            schedule=config.schedule,
            training=training,
            ranks=Ranks(0, 1, device),
            run=RunFolder(Path("unused"), {}, {}),
            micro_batch_size=micro_batch_size,
        )
        num_steps, seconds = _time_steps(trainer, device)
        trainer.close()
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"a micro-batch of {micro_batch_size} rows does not fit beside what else is on {device}",
            "end other programs on the card, or give a smaller --micro_batch_size",
        ) from None
    tokens = config.rows_per_rank * config.model.sequence_length * num_steps
    return Measurement(tokens / seconds, memory_bytes(device) - before, num_steps, on_card)


def _time_steps(trainer: Trainer, device: torch.device) -> tuple[int, float]:
    """Return how many steps were timed, and their seconds."""
    with progress("probe", total=_WARM_UP_STEPS + _STEPS, unit="steps") as bar:

        def run(num_steps: int) -> float:
            _wait_for(device)
            started = time.perf_counter()
            for _ in range(num_steps):
                trainer.train_step()
                bar.advance()
            _wait_for(device)
            return time.perf_counter() - started

        started = time.perf_counter()
        for _ in range(_WARM_UP_STEPS):
            last = run(1)
            if time.perf_counter() - started > _LIMIT_SECONDS:
                break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        num_steps = max(1, min(_STEPS, int(_LIMIT_SECONDS / last)))
        bar.expect(bar.done + num_steps)
        return num_steps, run(num_steps)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
