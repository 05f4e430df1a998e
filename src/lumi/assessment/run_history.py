"""How a measured model was trained, as far as its checkpoint still tells: the numbers that advice rests on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lumi.artifacts import MANIFEST, sha256_file
from lumi.config import read_json_object
from lumi.errors import ConfigError
from lumi.evaluation.results import Subject
from lumi.model.pretrained import WEIGHTS
from lumi.training.checkpoint import STATE
from lumi.training.metrics import METRICS, read_metrics

_LAST_LINES = 5  # of the log, whose mean is the training loss: single lines jump


@dataclass(frozen=True)
class RunHistory:
    """run.json and the metrics of one checkpoint."""

    checkpoint: Path
    run: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]

    @property
    def is_tuned(self) -> bool:
        """Whether it began with another model (SFT, DPO)."""
        return "base" in self.run

    @property
    def learns_preferences(self) -> bool:
        return any("val_preference_accuracy" in record for record in self.metrics)

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.run.get("config", {})
        return found

    @property
    def tokens(self) -> int:
        return int(self.run["tokens"])

    @property
    def parameters(self) -> int:
        return int(self.run["parameters"]["total"])

    @property
    def tokens_per_step(self) -> float:
        return self.tokens / max(int(self.run["step"]), 1)

    @property
    def training_loss(self) -> float | None:
        """Mean over the last lines of the log."""
        losses = [record["loss"] for record in self.metrics if record.get("loss") is not None]
        return fmean(losses[-_LAST_LINES:]) if losses else None

    @property
    def held_out_losses(self) -> list[tuple[int, float]]:
        """Step and loss of each validation, averaged over the data sets."""
        return [(r["step"], fmean(r["val_loss"].values())) for r in self.metrics if r.get("val_loss")]

    @property
    def epochs(self) -> Mapping[str, float]:
        """How often each data set was gone through."""
        found: Mapping[str, float] = next((r["epochs"] for r in reversed(self.metrics) if r.get("epochs")), {})
        return found

    @property
    def bad_steps(self) -> int:
        """Steps whose loss or gradient was not finite."""
        return max((int(record.get("bad_steps", 0)) for record in self.metrics), default=0)

    @property
    def spikes(self) -> list[int]:
        """Steps at which the loss stood out."""
        return [int(record["step"]) for record in self.metrics if record.get("spike")]


def read_run_history(subject: Subject) -> RunHistory | str:
    """Return how a model was trained, or why that is not known (it was made elsewhere, moved, or replaced)."""
    checkpoint = Path(subject.path)
    if not (checkpoint / "run.json").is_file() or not (checkpoint / MANIFEST).is_file():
        return f"{subject.path} has no record of its training here"
    if sha256_file(checkpoint / MANIFEST) != subject.sha256:
        return f"{subject.path} is not the model that was measured any more"
    return _read(checkpoint) or f"the record of {subject.path} cannot be read"


def pretraining_of(history: RunHistory) -> RunHistory | None:
    """Return the run that a tuned model came from in the end, or the run itself; None where it is gone."""
    seen = {history.checkpoint}
    while history.is_tuned:
        base = history.run["base"]
        checkpoint = Path(base["path"])
        if checkpoint in seen or _weights_sha256(checkpoint) != base["weights_sha256"]:
            return None
        found = _read(checkpoint)
        if found is None:
            return None
        seen.add(checkpoint)
        history = found
    return history


def _weights_sha256(checkpoint: Path) -> str | None:
    """Return the sha256 that a checkpoint's manifest names for its weights; None where there is none."""
    try:
        outputs = read_json_object(checkpoint / MANIFEST)["outputs"]
        return next((str(out["sha256"]) for out in outputs if out["file"] == WEIGHTS), None)
    except (ConfigError, KeyError, TypeError):
        return None


def _read(checkpoint: Path) -> RunHistory | None:
    log = checkpoint / STATE / METRICS
    try:
        run = read_json_object(checkpoint / "run.json")
        metrics = tuple(read_metrics(log)) if log.is_file() else ()
    except (ConfigError, OSError, ValueError):
        return None
    return RunHistory(checkpoint, run, metrics) if {"tokens", "parameters", "step"} <= set(run) else None
