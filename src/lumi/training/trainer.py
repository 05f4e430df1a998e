"""The Trainer: time, data and checkpoints. It knows no loss and no stage.

    fetch micro-batches -> count over ranks -> forward, backward each -> clip -> rate = f(step) -> step

Every micro-batch's summed loss is divided by the *global* count, so micro-batch size, accumulation and world
size do not change the gradient. Nothing in a step waits for the device: counts, norms and the decision to skip
a bad step stay there, and the host looks at them only when it logs.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from lumi.data import BatchLoader
from lumi.errors import LumiError
from lumi.model import Llama, choose_dtype, training_flops_per_token
from lumi.progress import Bar, progress, say
from lumi.randomness import seed_global_generators
from lumi.training.best import is_best, validations_since_best
from lumi.training.cards import peak_flops
from lumi.training.checkpoint import StoredState, TrainingState
from lumi.training.config import TrainingConfig
from lumi.training.distributed import Ranks
from lumi.training.interruption import Interruption
from lumi.training.loss_scale import LossScale
from lumi.training.metrics import MetricsLog, card_temperature, memory_bytes
from lumi.training.model_files import ModelFiles
from lumi.training.objective import LossModule, Objective
from lumi.training.optimizer import (
    OptimizerConfig,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    step_unless_bad,
)
from lumi.training.parallel import parallelize
from lumi.training.random_state import rng_state, set_rng_state
from lumi.training.saver import CheckpointSaver, Moment, RunFolder
from lumi.training.schedule import ScheduleConfig, learning_rate_factor
from lumi.training.snapshot import HostCopies
from lumi.training.spikes import is_spike, recent_losses
from lumi.training.status import RunStatus
from lumi.training.tally import Tally

Validate = Callable[[Llama], Mapping[str, Mapping[str, float]]]


class Sampler(Protocol):
    """Writes sample texts during training."""

    def __call__(self, model: Llama, step: int) -> Mapping[str, Any]:
        """Return what goes into the log: ``samples``, with ``prompt`` and ``text`` of each, and figures of them."""
        ...


class Trainer:
    """Carries out one run.

    Args:
        model: float32 weights, on the ranks' device.
        objective: what is minimised.
        loader: gives this rank's share of each global batch, and knows its position.
        files: writes what checkpoints hold of the model.
        optimizer: see `OptimizerConfig`.
        schedule: see `ScheduleConfig`; its steps are those of the present data phase.
        training: see `TrainingConfig`.
        ranks: this process's place.
        run: where checkpoints and metrics go.
        micro_batch_size: rows in one forward pass of one rank.
        validate: figures on held-out data, each by data set (``val_loss`` is one), measured at validations by all
            ranks together.
        sampler: sample texts, written at validations, by all ranks together.
        validate_first: also before the first step, where the model has learned something already.

    Raises:
        ConfigError: shards were asked for, and there is one process only.
    """

    def __init__(
        self,
        *,
        model: Llama,
        objective: Objective,
        loader: BatchLoader,
        files: ModelFiles,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        training: TrainingConfig,
        ranks: Ranks,
        run: RunFolder,
        micro_batch_size: int | None = None,
        validate: Validate | None = None,
        sampler: Sampler | None = None,
        validate_first: bool = False,
    ) -> None:
        self.model, self.objective, self.loader, self.files = model, objective, loader, files
        self.optimizer_config, self.schedule, self.config = optimizer, schedule, training
        self.ranks, self.run, self.validate, self.sampler = ranks, run, validate, sampler
        self.validate_first = validate_first
        self.micro_batch_size = micro_batch_size
        device = ranks.device
        model.compute_dtype = choose_dtype(training.precision, device)
        model.checkpoint_activations = training.activation_checkpointing
        self.scale = LossScale(enabled=model.compute_dtype == torch.float16, device=device)
        compiled = device.type == "cuda" if training.compile is None else training.compile
        # fp32 is asked for by name; the compiler's advice to round its products to TF32 is no news for the user
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        self.parallel = parallelize(LossModule(model, objective), ranks, training.parallel, compiled=compiled)
        self.optimizer = make_optimizer(self.parallel.parameters, optimizer)
        self.step = 0
        self.phase_start = 0  # the step at which the present data phase began
        self.tokens = 0
        self.stopped_early = False
        self.tally = Tally(device, len(objective.metrics))
        self.metrics = MetricsLog(run.path if ranks.is_first else None)
        self.copies = HostCopies(device)
        self.saver = CheckpointSaver(run, files, ranks, training.save_total_limit)
        self._peak_flops = peak_flops(device, training.peak_tflops)
        frozen = not all(parameter.requires_grad for parameter in model.parameters())
        self._flops_per_token = training_flops_per_token(model.config, loader.sequence_length, frozen=frozen)

    @property
    def last_step(self) -> int:
        return self.phase_start + self.schedule.max_steps

    @property
    def _is_over(self) -> bool:
        return self.stopped_early or self.step >= self.last_step

    def fit(self) -> None:
        """Train to the last step, saving, validating and logging on the way.

        Raises:
            SystemExit: 130 or 143 after an interruption, once the step is finished and saved.
            LumiError: too many bad steps in a row; the last checkpoint cannot be saved.
        """
        self._status = RunStatus(
            self.run.path.name, self.phase_start, self.last_step, self.ranks.world_size, _device_name(self.ranks.device)
        )
        self._tell("training")
        self._start_clock()
        first = self.step
        try:
            with Interruption() as interruption, self._progress() as bar:
                if self.validate_first and self.step == 0:
                    self._validate()
                while not self._is_over:
                    self.train_step()
                    if self.step == first + 1:  # the optimiser's state is there now
                        self.copies.reserve(self._tensors())
                    if self._due(self.config.log_steps):
                        self._log(bar)
                    if self._due(self.config.eval_interval(self.schedule)):
                        self._validate()
                    stop, retry = self.ranks.hosts.any(interruption.requested, self.saver.wants_retry)
                    bar.advance()
                    if stop or self._is_over:
                        break
                    if self._due(self.config.save_interval(self.schedule)) or retry:
                        self.save()
            self.saver.save_last(self._take)
        except BaseException:
            self._tell("failed")
            raise
        if not self._is_over:
            self._tell("interrupted")
            if self.ranks.is_first:
                say(f"stopped after step {self.step}, saved; the same command continues from there")
            raise SystemExit(interruption.exit_code or 143)
        if self.ranks.is_first:
            self.files.finish(self.run.step_folder(self.step), self.run.path / "final")
        self._tell("finished")
        self.ranks.barrier()

    def train_step(self) -> None:
        """Make one optimiser step."""
        rows = self._to_device(self.loader.next_batch())
        micro_batches = torch.split(rows, self.micro_batch_size or len(rows))
        count = self.ranks.sum(self.objective.count(rows)).float()

        total = torch.zeros(1 + len(self.objective.metrics), device=self.ranks.device)
        # both wrappers average over ranks; the sum is wanted
        factor = self.scale.scale * self.ranks.world_size / count.clamp(min=1)
        for index, micro_batch in enumerate(micro_batches):
            with self.parallel.accumulating(last=index == len(micro_batches) - 1):
                loss, metrics = self.parallel.module(micro_batch)
                (loss * factor).backward()
            total += torch.cat([loss.detach().view(1), metrics])
        total, metrics = self.ranks.sum(total).tensor_split([1])
        total = total.squeeze(0)

        gradients = self.parallel.gradients()
        norm = self.parallel.norm(gradients) / self.scale.scale
        bad = ~(torch.isfinite(norm) & torch.isfinite(total))
        clip = (self.optimizer_config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, clip / self.scale.scale)

        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.copies.let_finish()
        step_unless_bad(self.optimizer, bad)
        self.parallel.clear_gradients()

        self.tally.add(total, metrics, count, norm, bad, self.scale.at_fault(bad))
        self.scale.update(bad)
        self.step += 1
        self.tokens += self.config.batch_size * self.loader.tokens_per_row

    def learning_rate(self) -> float:
        """Return the rate of the step about to be made."""
        factor = learning_rate_factor(self.step - self.phase_start, self.schedule)
        return self.optimizer_config.learning_rate * factor

    def _to_device(self, rows: Any) -> Tensor:
        batch = torch.from_numpy(rows.astype("int64"))
        if self.ranks.device.type == "cuda":
            batch = batch.pin_memory().to(self.ranks.device, non_blocking=True)
        return batch

    def _due(self, interval: int) -> bool:
        return self.step % interval == 0 or self.step == self.last_step

    def _progress(self) -> AbstractContextManager[Any]:
        if not self.ranks.is_first:
            return nullcontext(_Silent())
        return progress("train", total=self.last_step, unit="steps", start=self.step)

    def _start_clock(self) -> None:
        self._clock, self._clock_step = time.monotonic(), self.step

    def _tell(self, state: Any) -> None:
        if self.ranks.is_first:
            self._status.write(self.run.path, self.step, state)

    def _log(self, bar: Bar) -> None:
        line, metrics = self.tally.take()
        seconds, steps = time.monotonic() - self._clock, self.step - self._clock_step
        self._start_clock()
        rate = steps * self.config.batch_size * self.loader.tokens_per_row / max(seconds, 1e-9)
        flops = rate * self._flops_per_token
        loss = line["loss_sum"] / max(line["count_sum"], 1)
        peak = self._peak_flops
        record = {
            "step": self.step,
            "loss": _finite(loss) if line["count_sum"] else None,
            **{
                name: _finite(value / max(line["count_sum"], 1))
                for name, value in zip(self.objective.metrics, metrics, strict=True)
            },
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": _finite(line["norm"]),
            "tokens": self.tokens,
            "tokens_per_second": rate,
            "flops_per_second": flops,
            "utilisation": flops / (peak * self.ranks.world_size) if peak else None,
            "memory_bytes": memory_bytes(self.ranks.device),
            "temperature": card_temperature(self.ranks.device),
            "seconds": seconds,
            "bad_steps": int(line["bad_total"]),
            "mix": self.loader.rows_drawn(),
            "epochs": self.loader.epochs(),
        }
        if is_spike(recent_losses(self.metrics.records), loss):
            record["spike"] = True
            if self.ranks.is_first:
                say(f"WARNING: loss spike at step {self.step}: {loss:.3f}, gradient norm {line['norm']:.2f}")
        self.metrics.write(record)
        self._tell("training")
        bar.advance(0, note=f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        with self.ranks.together():
            self.loader.require_unchanged()
            if line["bad_in_row"] >= self.config.max_bad_steps:
                raise LumiError(
                    f"{int(line['bad_in_row'])} steps in a row had a loss or gradient that is not finite"
                    f" (at step {self.step})",
                    "resume from an older checkpoint with a lower --learning_rate, or with --precision fp32",
                )

    def _validate(self) -> None:
        with self.parallel.whole_model() as model:
            if self.validate is not None:
                found = {name: dict(figures) for name, figures in self.validate(model).items()}
                self.metrics.write({"step": self.step, **found})
            if self.sampler is not None:
                self.metrics.write({"step": self.step, **self.sampler(model, self.step)})
        patience = self.config.early_stopping_patience
        if patience is not None and validations_since_best(self.metrics.records, self.phase_start) >= patience:
            self.stopped_early = True
            if self.ranks.is_first:
                say(f"stopped early: the held-out loss has not fallen for {patience} validations")
        self._start_clock()  # validation is no training time

    def save(self) -> None:
        """Begin to write ``step_N``; training goes on meanwhile."""
        self.saver.save(self._take())
        self._start_clock()

    def _tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint copies from the device, by the names that `Moment` reads."""
        whole = self.parallel.whole_weights(self.files.holds)
        if not self.ranks.is_first:
            whole = {}
        # every rank's optimiser where it is in shards, else the first one's
        optimizer: dict[str, Tensor] = {}
        if self.ranks.is_first or self._shard_rows() is not None:
            optimizer = optimizer_tensors(self.parallel.parameters, self.optimizer)
        # scalars that the next step overwrites are copied on the device first
        scalars = {name: value.clone() for name, value in (self.tally.tensors() | self.scale.tensors()).items()}
        return {
            f"{kind}.{name}": tensor
            for kind, tensors in (("weights", whole), ("optimizer", optimizer), ("progress", scalars))
            for name, tensor in tensors.items()
        }

    def _shard_rows(self) -> dict[str, tuple[int, int] | None] | None:
        """Return which rows of the optimiser's tensors this rank holds; None: all of them whole."""
        rows = {name: self.parallel.rows_of(name) for name in self.parallel.parameters}
        if None in rows.values():
            return None
        return {
            f"{kind}.{name}": None if kind == "step" else where
            for name, where in rows.items()
            for kind in self.optimizer.state[self.parallel.parameters[name]]
        }

    def _take(self) -> Moment:
        self.saver.wait()  # its buffers are needed
        state = TrainingState(
            progress={
                "step": self.step,
                "phase_start": self.phase_start,
                "tokens": self.tokens,
                "world_size": self.ranks.world_size,
                "micro_batch_size": self.micro_batch_size,
                "stopped_early": self.stopped_early,
                "loader": self.loader.state_dict(),
            },
            optimizer={},
            rng=rng_state(),
            metrics=list(self.metrics.records),
            rows=self._shard_rows(),
        )
        return Moment(
            state, self.copies.take(self._tensors()), is_best=is_best(self.metrics.records, self.step, self.phase_start)
        )

    def load_state(self, state: StoredState) -> None:
        """Continue exactly where `state` was taken; with other ranks, as near to it as can be."""
        self.load_optimizer(state)
        done = state.progress
        self.phase_start, self.tokens = done["phase_start"], done["tokens"]
        self.loader.load_state_dict(done["loader"])
        self.tally.load(done)
        rng = state.rng(self.ranks.rank)
        if rng is not None and done["world_size"] == self.ranks.world_size:
            set_rng_state(rng)
            return
        seed_global_generators(self.config.seed, self.ranks.rank, self.step)
        if self.ranks.is_first:
            say(
                f"the checkpoint was written by {done['world_size']} ranks, there are {self.ranks.world_size}: the data"
                " go on in their order, random generators are drawn anew from seed, step and rank"
            )

    def load_optimizer(self, state: StoredState) -> None:
        """Take over step, optimiser, loss scale and metrics: what a new data phase keeps."""

        def read(kind: str, name: str) -> Tensor:
            return state.optimizer(f"{kind}.{name}", self.parallel.rows_of(name) if kind != "step" else None)

        load_optimizer_tensors(self.parallel.parameters, self.optimizer, read)
        self.scale.load(state.progress)
        self.step = self.phase_start = state.progress["step"]
        self.tokens = state.progress["tokens"]
        self.metrics.restore(state.metrics)

    def close(self) -> None:
        """Let go of threads and files."""
        self.saver.close()
        self.metrics.close()
        self.loader.close()


class _Silent:
    """The progress bar of the ranks that print nothing."""

    def advance(self, amount: float = 1, note: str | None = None) -> None: ...


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
