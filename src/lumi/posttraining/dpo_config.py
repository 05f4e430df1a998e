"""A run of preference tuning as one strict config: `config/dpo_training/*.json`."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.posttraining.preference_losses import WITHOUT_REFERENCE, LossName, LossSettings
from lumi.posttraining.tuning import TuningConfig


class DpoConfig(TuningConfig):
    """Teach a tuned model which answers are preferred; the same command again resumes."""

    not_identity: ClassVar[frozenset[str]] = TuningConfig.not_identity | {"reference"}
    alone: ClassVar[tuple[str, ...]] = ("method", "loss", "beta", "label_smoothing", "gamma", "nll_weight")
    fixed: ClassVar[tuple[str, ...]] = (*TuningConfig.fixed, *alone)  # losses of another kind cannot be compared

    model_path: Path
    """The model to begin with, which is also the reference: final/ of an SFT run."""
    data_dirs: tuple[Path, ...] = Field(min_length=1)
    """Preferences (02_prepare_dpo_corpus.py), all of the model's template."""
    loss: LossName = "sigmoid"
    """sigmoid (DPO), ipo, hinge, robust (for swapped labels), simpo and orpo (both without a reference)."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to leave the reference; usual: 0.1, for simpo 2."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """robust: share of pairs whose sides are taken to be swapped."""
    gamma: float = Field(default=0.5, ge=0)
    """simpo: the gap that is wanted."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Add this much of the chosen answers' mean loss a token."""
    reference: Literal["stored", "live"] = "stored"
    """stored: the reference's log-probabilities are worked out once, beside the data; live: at every step, by the
    model without its adapters, or by a frozen copy (method full, where validation measures the distance from it
    anyway)."""

    @model_validator(mode="after")
    def _without_effect(self) -> Self:
        if self.label_smoothing and self.loss != "robust":
            raise ValueError(f"label_smoothing belongs to loss robust, not to {self.loss}")
        if self.gamma != type(self).model_fields["gamma"].default and self.loss != "simpo":
            raise ValueError(f"gamma belongs to loss simpo, not to {self.loss}")
        if self.reference == "live" and not self.needs_reference:
            raise ValueError(f"loss {self.loss} has no reference that could be live")
        return self

    @property
    def needs_reference(self) -> bool:
        return self.loss not in WITHOUT_REFERENCE

    @property
    def numbers(self) -> LossSettings:
        return LossSettings(self.beta, self.label_smoothing, self.gamma)
