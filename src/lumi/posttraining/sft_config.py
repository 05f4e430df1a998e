"""A run of supervised fine-tuning as one strict config: `config/sft_training/*.json`."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lumi.model.lora import LoraConfig
from lumi.training import RunConfig

QUESTIONS = (
    "What is the capital of France?",
    "Explain in one sentence what a river is.",
    "Write a short poem about the sea.",
    "Why do people sleep?",
    "Give me three tips for learning a language.",
    "Who was Isaac Newton?",
    "Hello! How are you today?",
    "What is 2 + 2?",
)


class SftConfig(RunConfig):
    """Teach a base model to answer, with LoRA adapters or all of its weights; the same command again resumes."""

    not_identity: ClassVar[frozenset[str]] = RunConfig.not_identity | {
        "model_path",
        "sample_prompts",
        "sample_tokens",
        "use_trl_trainer",
    }

    fixed: ClassVar[tuple[str, ...]] = ("method", "lora.")

    model_path: Path
    """The model to begin with: final/ of a pretraining run."""
    data_dirs: tuple[Path, ...] = Field(min_length=1)
    """Conversations (02_prepare_sft_corpus.py), all of one template."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """lora: small matrices beside the frozen ones; qlora: those in four bits (bitsandbytes); full: all weights."""
    lora: LoraConfig = LoraConfig()
    packing: bool = True
    """Several conversations to a row, attention kept inside each; else one a row, the rest padding."""
    neftune_alpha: float | None = Field(default=None, gt=0)
    """Noise on the embeddings in training (NEFTune; 5 is usual); default: none."""
    sample_prompts: tuple[Annotated[str, Field(pattern=r"\S")], ...] = QUESTIONS
    """Asked at each validation; none: no samples."""
    sample_tokens: int = Field(default=100, gt=0)
    """Longest answer of these samples."""

    use_trl_trainer: bool = False
    """Train with TRL's SFTTrainer in place of our engine; one process, no resume."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.method == "qlora" and (self.use_trl_trainer or self.lora.use_dora):
            raise ValueError("method qlora goes neither with use_trl_trainer nor with lora.use_dora")
        if self.use_trl_trainer and (self.resume_from_checkpoint or self.fresh):
            raise ValueError("use_trl_trainer begins in a new folder: it goes with neither resume nor fresh")
        return self

    def settings(self) -> dict[str, Any]:
        chosen = {"method": self.method, "packing": self.packing, "neftune_alpha": self.neftune_alpha}
        flat = {**super().settings(), **chosen}
        return flat if self.method != "full" else {k: v for k, v in flat.items() if not k.startswith("lora.")}
