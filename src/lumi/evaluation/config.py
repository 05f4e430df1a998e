"""What to measure, on what, and how."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.devices import DeviceName, DtypeName

TaskName = Literal[
    "boolq", "hellaswag", "lambada", "arc_easy", "arc_challenge", "piqa", "winogrande", "openbookqa"
]  # fmt: skip
TextMode = Literal["stream", "documents"]
ALL_TASKS: tuple[TaskName, ...] = (
    "boolq", "hellaswag", "lambada", "arc_easy", "arc_challenge", "piqa", "winogrande", "openbookqa",
)  # fmt: skip


class EvaluateConfig(Config):
    """Measure a model: how well it predicts text, tasks with right and wrong answers, and what it writes."""

    not_identity: ClassVar[frozenset[str]] = frozenset(
        {
            *("model_path", "tokenizer_path", "data_dirs", "data_dir", "evaluation_sets", "text_files", "output_dir"),
            *("batch_size", "device", "fresh", "tasks", "text_modes", "prompts", "stages"),
        }
    )

    model_path: Path | None = None
    """Checkpoint folder, such as checkpoints/pretrain/tiny/final; or any causal model of transformers, a folder or a
    name on the hub, such as gpt2. Default: the newest final/ in checkpoints/."""
    tokenizer_path: Path | None = None
    """The checkpoint has its tokenizer; when one is given, it must be the same."""
    output_dir: Path = Path("evaluation_results")
    """Results go into a folder of the model's name below this one."""
    data_dirs: tuple[Path, ...] = ()
    """Packed data whose held-out rows are scored; default, without text_files: those the model was trained on."""
    text_files: tuple[Path, ...] = ()
    """Text (UTF-8, or JSON lines with a `text`, compressed or not); default: WikiText-2, where data_dir has it."""
    text_modes: tuple[TextMode, ...] = ("stream", "documents")
    """A text as one stream with a sliding window, or each document on its own as lm-eval does it, or both."""
    tasks: tuple[TaskName, ...] = ALL_TASKS
    """Tasks of lm-eval; none: leave them out."""
    data_dir: Path = Path("data/evaluation")
    """Where test sets lie; those that are not there come from the hub."""
    evaluation_sets: Path = Path("config/evaluation")
    """Which forms the files of test sets may have."""
    max_rows: int | None = Field(default=None, gt=0)
    """Take only the first rows of each task; default: all."""
    window: int | None = Field(default=None, gt=1)
    """Tokens the model sees at once in a text; default: its context."""
    stride: int | None = Field(default=None, gt=0)
    """How far the window moves over a stream; default: half of it."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Score only the first tokens of each text; default: all."""
    baselines: bool = True
    """Measure xz -9 and a token trigram on the same held-out text."""
    trigram_tokens: int = Field(default=20_000_000, gt=0)
    """The trigram is trained on at most this many training tokens."""
    prompts: Path | None = Path("config/smoke_prompts.json")
    """Prompts by category, which the model continues, or answers once it was tuned; None: leave that out."""
    max_new_tokens: int = Field(default=100, gt=0)
    """Length of each of these texts, at most."""
    seed: int = 0
    """Of their random draws."""
    stages: bool = True
    """Ask the models that this one came from the same questions."""
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
        if self.text_files and not self.text_modes:
            raise ValueError("text_files without text_modes: choose stream, documents, or both")
        return self
