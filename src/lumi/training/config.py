"""The knobs of the Trainer that every recipe shares."""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.devices import DeviceName, DtypeName
from lumi.model.attention import AttentionName
from lumi.training.schedule import ScheduleConfig

ParallelName = Literal["ddp", "fsdp"]


class TrainingConfig(Config):
    """How a run is carried out; the fields in `not_identity` may change when a run is resumed."""

    not_identity: ClassVar[frozenset[str]] = frozenset({
        "micro_batch_size", "compile", "activation_checkpointing", "attention", "device", "save_steps",
        "save_total_limit", "eval_steps", "log_steps", "max_bad_steps", "peak_tflops", "parallel",
        "early_stopping_patience",
    })  # fmt: skip

    batch_size: int = Field(gt=0)
    """Rows in one optimiser step, over all ranks."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows in one forward pass of one rank; default: the most that fit on the card. Does not change the gradient."""
    parallel: ParallelName = "ddp"
    """Several ranks: ddp, each holds the whole model; fsdp, each holds a shard of weights, gradients, optimiser."""
    precision: DtypeName = "auto"
    """Type of activations and matmuls; auto: bf16 where the card supports it, else fp16; fp32 on a CPU."""
    attention: AttentionName = "auto"
    """auto: FlashAttention when installed, else PyTorch's kernels; plain: the formula, slow."""
    document_masking: bool = False
    """Attention stays inside each document of a packed row."""
    activation_checkpointing: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more time."""
    compile: bool | None = None
    """torch.compile; default: on CUDA only (on a CPU its first step costs more than it gives)."""
    deterministic: bool = False
    """Use deterministic kernels alone, so that a resumed run is bit for bit the uninterrupted one on CUDA too."""
    device: DeviceName = "auto"
    """auto: CUDA when there is a card."""
    seed: int = Field(default=0, ge=0)
    """Names every random choice: initial weights and data order."""
    save_steps: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; default: a tenth of max_steps."""
    save_total_limit: int | None = Field(default=None, gt=0)
    """Keep only this many newest step folders; default: all."""
    eval_steps: int | None = Field(default=None, gt=0)
    """Steps between validations; default: as save_steps."""
    early_stopping_patience: int | None = Field(default=None, gt=0)
    """Stop when the held-out loss has not fallen for this many validations; default: never."""
    eval_rows: int = Field(default=512, gt=0)
    """Held-out rows per data set in one validation (the first ones)."""
    log_steps: int = Field(default=10, gt=0)
    """Steps between two lines of metrics.jsonl."""
    max_bad_steps: int = Field(default=20, gt=0)
    """Stop after this many steps in a row with a loss or gradient that is not finite."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """The card's dense TFLOP/s in the compute type, for utilisation; default: known cards' datasheet figures."""

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must divide batch_size {self.batch_size}")
        return self

    def save_interval(self, schedule: ScheduleConfig) -> int:
        return self.save_steps or max(1, math.ceil(schedule.max_steps / 10))

    def eval_interval(self, schedule: ScheduleConfig) -> int:
        return self.eval_steps or self.save_interval(schedule)
