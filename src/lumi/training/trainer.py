"""The Trainer: time, data and checkpoints. It knows no loss and no stage.

    fetch micro-batches -> count over ranks -> forward, backward each -> clip -> rate = f(step) -> step

Every micro-batch's summed loss is divided by the *global* count, so micro-batch size, accumulation and world
size do not change the gradient. Nothing in a step waits for the device: counts, norms and the decision to skip
a bad step stay there, and the host looks at them only when it logs.
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lumi.data import BatchLoader
from lumi.errors import LumiError
from lumi.model import Llama, choose_dtype, training_flops_per_token
from lumi.progress import Bar, progress, say
from lumi.tokenizer import Tokenizer
from lumi.training.checkpoint import (
    TrainingState,
    drop_old_checkpoints,
    link_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from lumi.training.config import TrainingConfig
from lumi.training.distributed import Ranks
from lumi.training.interruption import Interruption
from lumi.training.loss_scale import LossScale
from lumi.training.metrics import MetricsLog, peak_flops
from lumi.training.objective import LossModule, Objective
from lumi.training.optimizer import (
    OptimizerConfig,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    step_unless_bad,
)
from lumi.training.schedule import ScheduleConfig, learning_rate_factor

Validate = Callable[[Llama], Mapping[str, float]]


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its things, and what identifies it."""

    path: Path
    identity: dict[str, Any]  # decides what the run produces; goes into each checkpoint's manifest
    description: dict[str, Any]  # run.json, less step and tokens


class Trainer:
    """Carries out one run.

    Args:
        model: float32 weights, on the ranks' device.
        objective: what is minimised.
        loader: gives this rank's share of each global batch, and knows its position.
        tokenizer: copied into every checkpoint.
        optimizer: see `OptimizerConfig`.
        schedule: see `ScheduleConfig`; its steps are those of the present data phase.
        training: see `TrainingConfig`.
        ranks: this process's place.
        run: where checkpoints and metrics go.
        validate: losses on held-out data by name, measured at validations.
    """

    def __init__(
        self,
        *,
        model: Llama,
        objective: Objective,
        loader: BatchLoader,
        tokenizer: Tokenizer,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        training: TrainingConfig,
        ranks: Ranks,
        run: RunFolder,
        validate: Validate | None = None,
    ) -> None:
        self.model, self.objective, self.loader, self.tokenizer = model, objective, loader, tokenizer
        self.optimizer_config, self.schedule, self.config = optimizer, schedule, training
        self.ranks, self.run, self.validate = ranks, run, validate
        device = ranks.device
        model.compute_dtype = choose_dtype(training.precision, device)
        model.checkpoint_activations = training.activation_checkpointing
        self.optimizer = make_optimizer(model, optimizer)
        self.scale = LossScale(enabled=model.compute_dtype == torch.float16, device=device)
        self.module = self._wrap(LossModule(model, objective))
        self.step = 0
        self.phase_start = 0  # the step at which the present data phase began
        self.tokens = 0
        self.metrics = MetricsLog(run.path if ranks.is_first else None)
        self.history: list[dict[str, Any]] = []
        self._loss_sum, self._count_sum, self._bad_in_row, self._bad_total, self._norm = (
            torch.zeros((), device=device) for _ in range(5)
        )
        self._peak_flops = peak_flops(device, training.peak_tflops)

    def _wrap(self, module: LossModule) -> nn.Module:
        wrapped: nn.Module = module
        if self.ranks.world_size > 1:
            devices = [self.ranks.device.index] if self.ranks.device.type == "cuda" else None
            wrapped = nn.parallel.DistributedDataParallel(wrapped, device_ids=devices)
        compiled = self.ranks.device.type == "cuda" if self.config.compile is None else self.config.compile
        # fp32 is asked for by name; the compiler's advice to round its products to TF32 is no news for the user
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        return torch.compile(wrapped, dynamic=False) if compiled else wrapped  # type: ignore[return-value]

    @property
    def last_step(self) -> int:
        return self.phase_start + self.schedule.max_steps

    def fit(self) -> None:
        """Train to the last step, saving, validating and logging on the way.

        Raises:
            SystemExit: 130 or 143 after an interruption, once the step is finished and saved.
            LumiError: too many bad steps in a row.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._clock = time.monotonic()
        self._clock_step = self.step
        with Interruption() as interruption, self._progress() as bar:
            while self.step < self.last_step:
                self.train_step()
                stop = self.ranks.any(interruption.requested)
                if self._due(self.config.log_steps) or stop:
                    self._log(bar)
                if self.validate is not None and self._due(self.config.eval_interval(self.schedule)):
                    self._validate()
                if self._due(self.config.save_interval(self.schedule)) or stop:
                    self.save()
                bar.advance()
                if stop:
                    break
        if self.step < self.last_step:
            say(f"stopped after step {self.step}, saved; the same command continues from there")
            self.close()
            raise SystemExit(interruption.exit_code)
        if self.ranks.is_first:
            link_checkpoint(self.run.path / f"step_{self.step}", self.run.path / "final")
        self.ranks.barrier()

    def train_step(self) -> None:
        """Make one optimiser step."""
        rows = self._to_device(self.loader.next_batch())
        micro_batches = torch.split(rows, self.config.micro_batch_size or len(rows))
        count = self.ranks.sum(self.objective.count(rows)).float()

        total = torch.zeros((), device=self.ranks.device)
        # DDP averages over ranks; the sum is wanted
        factor = self.scale.scale * self.ranks.world_size / count.clamp(min=1)
        for index, micro_batch in enumerate(micro_batches):
            with self._gradient_sync(last=index == len(micro_batches) - 1):
                loss = self.module(micro_batch)
                (loss * factor).backward()
            total += loss.detach()

        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / self.scale.scale
        bad = ~(torch.isfinite(norm) & torch.isfinite(self.ranks.sum(total.clone())))
        clip = (self.optimizer_config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, clip / self.scale.scale)

        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        step_unless_bad(self.optimizer, bad)
        self.optimizer.zero_grad(set_to_none=True)

        self.scale.update(bad)
        self._loss_sum += torch.where(bad, torch.zeros_like(total), total)
        self._count_sum += torch.where(bad, torch.zeros_like(count), count)
        self._norm = norm
        if not self.scale.enabled:  # fp16's search for its loss scale is no fault
            self._bad_in_row = torch.where(bad, self._bad_in_row + 1, torch.zeros_like(self._bad_in_row))
            self._bad_total += bad
        self.step += 1
        self.tokens += rows.shape[0] * self.ranks.world_size * (rows.shape[1] - 1)

    def learning_rate(self) -> float:
        """Return the rate of the step about to be made."""
        factor = learning_rate_factor(self.step - self.phase_start, self.schedule)
        return self.optimizer_config.learning_rate * factor

    def _to_device(self, rows: Any) -> Tensor:
        batch = torch.from_numpy(rows.astype("int64"))
        if self.ranks.device.type == "cuda":
            batch = batch.pin_memory().to(self.ranks.device, non_blocking=True)
        return batch

    def _gradient_sync(self, *, last: bool) -> Any:
        from contextlib import nullcontext

        inner = getattr(self.module, "_orig_mod", self.module)
        if last or not isinstance(inner, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return inner.no_sync()

    def _due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.last_step

    def _progress(self) -> Any:
        from contextlib import nullcontext

        if not self.ranks.is_first:
            return nullcontext(_Silent())
        return progress("train", total=self.last_step, unit="steps", start=self.step)

    def _log(self, bar: Bar) -> None:
        totals = torch.stack([self.ranks.sum(self._loss_sum), self._count_sum, self._norm, self._bad_in_row])
        loss_sum, count, norm, bad_in_row = totals.tolist()
        now = time.monotonic()
        seconds, steps = now - self._clock, self.step - self._clock_step
        self._clock, self._clock_step = now, self.step
        self._loss_sum.zero_()
        self._count_sum.zero_()
        row_length = self.model.config.sequence_length
        rate = steps * self.config.batch_size * self.loader.sequence_length / max(seconds, 1e-9)
        flops = rate * training_flops_per_token(self.model.config, min(row_length, self.loader.sequence_length))
        loss = loss_sum / max(count, 1)
        peak = self._peak_flops
        self.metrics.write(
            {
                "step": self.step,
                "loss": loss if loss == loss and abs(loss) != float("inf") else None,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "grad_norm": norm if norm == norm and abs(norm) != float("inf") else None,
                "tokens": self.tokens,
                "tokens_per_second": rate,
                "flops_per_second": flops,
                "utilisation": flops / (peak * self.ranks.world_size) if peak else None,
                "memory_bytes": _memory_bytes(self.ranks.device),
                "seconds": seconds,
                "bad_steps": int(self._bad_total.item()),
                "mix": self.loader.rows_drawn(),
            }
        )
        bar.advance(0, note=f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        if bad_in_row >= self.config.max_bad_steps:
            self.close()
            raise LumiError(
                f"{int(bad_in_row)} steps in a row had a loss or gradient that is not finite (at step {self.step})",
                "resume from an older checkpoint with a lower --learning_rate, or with --precision fp32",
            )

    def _validate(self) -> None:
        assert self.validate is not None
        self.model.eval()
        losses = dict(self.validate(self.model))
        self.model.train()
        self.metrics.write({"step": self.step, "val_loss": losses})
        self._clock, self._clock_step = time.monotonic(), self.step  # validation is no training time

    def state(self) -> TrainingState:
        """Return what an exact resume needs."""
        progress_ = {
            "step": self.step,
            "phase_start": self.phase_start,
            "tokens": self.tokens,
            "loader": self.loader.state_dict(),
            "loss_scale": self.scale.state_dict(),
            "bad_in_row": self._bad_in_row.item(),
            "bad_total": self._bad_total.item(),
            # of the steps since the last logged line, so that the next line is the uninterrupted run's
            "loss_sum": self._loss_sum.item(),
            "count_sum": self._count_sum.item(),
        }
        return TrainingState(
            progress_, optimizer_tensors(self.model, self.optimizer), rng_state(), self.metrics.records
        )

    def load_state(self, state: TrainingState) -> None:
        """Continue exactly where `state` was taken."""
        self.load_optimizer(state)
        done = state.progress
        self.phase_start, self.tokens = done["phase_start"], done["tokens"]
        self.loader.load_state_dict(done["loader"])
        self._loss_sum.fill_(done["loss_sum"])
        self._count_sum.fill_(done["count_sum"])
        self._bad_in_row.fill_(done["bad_in_row"])
        self._bad_total.fill_(done["bad_total"])
        set_rng_state(state.rng)

    def load_optimizer(self, state: TrainingState) -> None:
        """Take over step, optimiser, loss scale and metrics: what a new data phase keeps."""
        load_optimizer_tensors(self.model, self.optimizer, state.optimizer)
        self.scale.load_state_dict(state.progress["loss_scale"])
        self.step = self.phase_start = state.progress["step"]
        self.tokens = state.progress["tokens"]
        self.metrics.restore(state.metrics)

    def save(self) -> None:
        """Write ``step_N``, then drop what the limit no longer allows."""
        state = self.state()
        if self.ranks.is_first:
            run = {**self.run.description, "step": self.step, "tokens": self.tokens}
            folder = self.run.path / f"step_{self.step}"
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_checkpoint(folder, self.model, self.tokenizer, state, run, self.run.identity)
            except OSError as error:  # a full disk must not end hours of training; older checkpoints stay
                say(f"WARNING: {folder} could not be saved: {os.strerror(error.errno or 0)}; training goes on")
                if self.step == self.last_step:
                    raise
            else:
                drop_old_checkpoints(self.run.path, self.config.save_total_limit)
        self.ranks.barrier()
        self._clock, self._clock_step = time.monotonic(), self.step

    def close(self) -> None:
        """Let go of threads and files."""
        self.metrics.close()
        self.loader.close()


class _Silent:
    """The progress bar of the ranks that print nothing."""

    def advance(self, amount: float = 1, note: str | None = None) -> None: ...


def _memory_bytes(device: torch.device) -> int:
    """Return the highest memory use so far: allocated by torch on a card, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
