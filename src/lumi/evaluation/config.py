"""What to measure, on what, and how."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.model import DeviceName, DtypeName


class EvaluateConfig(Config):
    """Measure a checkpoint: perplexity and bits per byte on held-out rows and on plain text files."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {"model_path", "tokenizer_path", "data_dirs", "text_files", "output_dir", "batch_size", "device", "fresh"}
    )

    model_path: Path
    """Checkpoint folder, such as checkpoints/pretrain/tiny/final."""
    tokenizer_path: Path | None = None
    """The checkpoint has its tokenizer; when one is given, it must be the same."""
    output_dir: Path | None = None
    """Where results.json and results.md go; default: evaluation_results/<model>."""
    data_dirs: tuple[Path, ...] = ()
    """Packed data whose held-out rows are scored; default, without text_files: those the model was trained on."""
    text_files: tuple[Path, ...] = ()
    """Plain UTF-8 text, such as WikiText-2's raw test file; scored with a sliding window."""
    window: int | None = Field(default=None, gt=1)
    """Tokens the model sees at once in a text file; default: its context."""
    stride: int | None = Field(default=None, gt=0)
    """How far the window moves; default: half of it. Each token has at least window - stride tokens before it."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Score only the first tokens of each text; default: all."""
    baselines: bool = True
    """Measure xz -9 and a token trigram on the same held-out text."""
    trigram_tokens: int = Field(default=20_000_000, gt=0)
    """The trigram is trained on at most this many training tokens."""
    batch_size: int = Field(default=8, gt=0)
    """Windows in one forward pass; does not change the figures."""
    device: DeviceName = "auto"
    """Where to compute."""
    dtype: DtypeName = "fp32"
    """Type to compute in; losses are summed in float64 whatever it is."""
    fresh: bool = False
    """Measure again although the results of these inputs are there."""

    @model_validator(mode="after")
    def _stride_within_window(self) -> Self:
        if self.stride is not None and self.window is not None and self.stride > self.window:
            raise ValueError(f"stride {self.stride} is longer than window {self.window}: tokens would be skipped")
        return self
