"""What the config of every training stage has: data, optimiser, schedule, engine, the run's folder."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.training.config import TrainingConfig
from lumi.training.optimizer import OptimizerConfig
from lumi.training.schedule import ScheduleConfig


class RunConfig(Config):
    """A training run; the same command again resumes."""

    not_identity: ClassVar[frozenset[str]] = frozenset({
        "description", "output_dir", "resume_from_checkpoint", "fresh", "data_dirs", "tokenizer_path",
    })  # fmt: skip

    fixed: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of settings that a checkpoint is of one piece with: no resume changes them."""

    description: str = ""
    """What this run is; for readers of the file."""
    name: str = Field(min_length=1)
    """Name of the model."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    training: TrainingConfig
    data_dirs: tuple[Path, ...] = Field(min_length=1)
    """Data sets."""
    data_weights: tuple[float, ...] | None = None
    """Share of rows of each data set, in the order of data_dirs; default: their sizes."""
    tokenizer_path: Path | None = None
    """The tokenizer whose sha256 the data must carry; default: the one that the data name."""
    output_dir: Path
    """The run's folder: step_N/, final/, metrics.jsonl, tensorboard/."""
    resume_from_checkpoint: Path | None = None
    """Continue this checkpoint; with other data than it was trained on, as a new data phase."""
    fresh: bool = False
    """Start anew although there is a run; the old one is set aside."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if self.data_weights is not None and len(self.data_weights) != len(self.data_dirs):
            raise ValueError(f"data_weights has {len(self.data_weights)} values for {len(self.data_dirs)} data_dirs")
        if self.fresh and self.resume_from_checkpoint:
            raise ValueError("fresh and resume_from_checkpoint exclude each other")
        return self

    def settings(self) -> dict[str, Any]:
        """Return what must be equal for a run to be resumed on its own: flat ``section.key`` names."""
        flat: dict[str, Any] = {}
        for name, value in self.identity().items():
            if isinstance(value, dict):
                flat |= {f"{name}.{key}": v for key, v in value.items()}
        flat.pop("schedule.max_steps")  # a longer run is a continuation
        return flat
