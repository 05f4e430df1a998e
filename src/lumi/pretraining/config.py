"""A pretraining run as one strict config: `config/tiny.json` and its brothers."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from lumi.model import ModelConfig
from lumi.training import RunConfig


class PretrainConfig(RunConfig):
    """Train a model from scratch on packed data; the same command again resumes."""

    not_identity: ClassVar[frozenset[str]] = RunConfig.not_identity | {"sample_prompts", "sample_tokens"}

    model: ModelConfig
    data_dirs: tuple[Path, ...] = Field(min_length=1)
    """Packed data sets (03_pack_dataset.py)."""
    sample_prompts: tuple[str, ...] = ("The",)
    """Continued at each validation, to watch the model learn; none: no samples. An empty one begins a document."""
    sample_tokens: int = Field(default=40, gt=0)
    """Length of these samples."""
