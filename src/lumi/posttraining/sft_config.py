"""A run of supervised fine-tuning as one strict config: `config/sft_training/*.json`."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lumi.posttraining.tuning import TuningConfig


class SftConfig(TuningConfig):
    """Teach a base model to answer, with LoRA adapters or all of its weights; the same command again resumes."""

    alone: ClassVar[tuple[str, ...]] = ("method", "packing", "neftune_alpha")

    model_path: Path
    """The model to begin with: final/ of a pretraining run."""
    data_dirs: tuple[Path, ...] = Field(min_length=1)
    """Conversations (02_prepare_sft_corpus.py), all of one template."""
    packing: bool = True
    """Several conversations to a row, attention kept inside each; else one a row, the rest padding."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """Noise on the embeddings in training (NEFTune; 5 is usual); default: none."""
