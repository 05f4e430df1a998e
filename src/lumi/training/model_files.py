"""What of a model goes into a checkpoint, and in which files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lumi.conversation import Template
from lumi.conversation.chat_template import add_chat_template
from lumi.model import ModelConfig
from lumi.model.pretrained import write_model
from lumi.tokenizer import EOS_ID, Tokenizer
from lumi.training.checkpoint import link_checkpoint
from lumi.training.model_card import ensure_model_card


class ModelFiles(Protocol):
    """Writes what a stage's checkpoints hold of the model, and what its run ends with."""

    def holds(self, name: str) -> bool:
        """Say whether a parameter goes into checkpoints."""
        ...

    def write(self, weights: Mapping[str, Tensor], folder: Path) -> list[str]:
        """Write these parameters, on the CPU, and what goes with them into a folder; return the files' names."""
        ...

    def finish(self, checkpoint: Path, final: Path) -> None:
        """Make ``final/`` of a run's last checkpoint; nothing happens where that was done."""
        ...


class WholeModel:
    """All weights, as transformers reads them, with tokenizer and, once it can chat, its template."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, template: Template | None = None) -> None:
        self.config, self.tokenizer, self.template = config, tokenizer, template

    def holds(self, name: str) -> bool:
        """A tied head is the embedding, and left out, as transformers does."""
        return not (self.config.tie_embeddings and name == "lm_head.weight")

    def write(self, weights: Mapping[str, Tensor], folder: Path) -> list[str]:
        stop_ids = self.template.stop_ids if self.template else (EOS_ID,)
        return [*write_model(self.config, weights, folder, stop_ids), *self.write_words(folder)]

    def write_words(self, folder: Path) -> list[str]:
        """Write tokenizer and template alone."""
        files = self.tokenizer.export(folder)
        if self.template is not None:
            add_chat_template(folder, self.template)
            files.append(self.template.write(folder))
        return files

    def finish(self, checkpoint: Path, final: Path) -> None:
        link_checkpoint(checkpoint, final)
        ensure_model_card(final)
