"""A plan is asked for with the config of the run itself, and the card that it shall run on."""

from typing import Self

from pydantic import Field, model_validator

from lumi.pretraining import PretrainConfig


class PlanConfig(PretrainConfig):
    """Say what a pretraining run will cost: parameters, tokens, memory by part, hours, disk. Data need not exist."""

    card: str | None = None
    """Card to reckon with, such as "RTX 4090"; default: that of this machine, else its CPU."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of one card in GiB; default: the card's."""
    num_gpus: int = Field(default=1, gt=0)
    """Cards that share the run."""
    probe: bool = False
    """Measure speed and memory with 20 training steps on random rows here (fewer, where they take over a minute)."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """Known training speed of one card; default: by the probe, else estimated."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.training.batch_size % self.num_gpus:
            raise ValueError(f"num_gpus {self.num_gpus} must divide batch_size {self.training.batch_size}")
        if self.probe and (self.card or self.memory_gb or self.tokens_per_second):
            raise ValueError("probe measures this machine: it excludes card, memory_gb and tokens_per_second")
        if self.probe and self.num_gpus > 1 and self.training.parallel == "fsdp":
            raise ValueError("probe measures one card with the whole model: it excludes fsdp over several")
        return self

    @property
    def rows_per_rank(self) -> int:
        """Rows of one card in one optimiser step."""
        return self.training.batch_size // self.num_gpus
