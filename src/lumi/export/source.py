"""What is exported, read from a checkpoint after every byte of it was hashed."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lumi.artifacts import verify
from lumi.conversation import Template, read_template
from lumi.errors import ConfigError, DataError
from lumi.model import ModelConfig, read_model_config
from lumi.model.lora import LoraConfig
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.posttraining.adapter_files import (
    ADAPTER,
    Base,
    our_names,
    read_adapter_config,
    read_base,
)
from lumi.training import read_run

_WAY_OUT = (
    "give a finished checkpoint of Lumi (step_N, best or final); for models of others, llama.cpp has a converter"
    " of its own (convert_hf_to_gguf.py)"
)


@dataclass(frozen=True)
class Words:
    """How a checkpoint's texts become ids: its tokenizer's files, and once it can chat, its template."""

    folder: Path
    name: str
    template: Template | None

    @property
    def chat_template(self) -> str:
        """The Jinja template as the checkpoint has it; empty for a base model."""
        settings = json.loads((self.folder / "tokenizer_config.json").read_text(encoding="utf8"))
        template: str = settings.get("chat_template", "")
        return template


@dataclass(frozen=True)
class ModelSource:
    """A whole model."""

    words: Words
    shape: ModelConfig
    weights: dict[str, Tensor]

    @property
    def folder(self) -> Path:
        return self.words.folder


@dataclass(frozen=True)
class AdapterSource:
    """An adapter, by the names of our parameters, and where its base should be."""

    words: Words
    lora: LoraConfig
    row_ids: tuple[int, ...]
    weights: dict[str, Tensor]
    base: Base

    @property
    def folder(self) -> Path:
        return self.words.folder

    def read_base(self) -> ModelSource:
        """Read the model that it was trained on.

        Raises:
            ConfigError: it is not there.
            IntegrityError: it is another one, or damaged.
        """
        if not self.base.path.is_dir():
            raise ConfigError(
                f"the model that the adapter was trained on stood at {self.base.path}, and is not there",
                "give it: --base_path",
            )
        Base.of(self.base.path).require(self.base.weights_sha256, self.folder)
        return read_model_source(self.base.path)


def read_model_source(folder: Path) -> ModelSource:
    """Read a whole model.

    Raises:
        DataError: the checkpoint holds an adapter alone.
        IntegrityError: it is missing, incomplete, damaged, or not one of ours.
    """
    from safetensors.torch import load_file

    verify(folder, CHECKPOINT, _WAY_OUT)
    if not (folder / WEIGHTS).is_file():
        raise DataError(
            f"{folder} holds an adapter, not a whole model",
            f"export it as one: --adapter; or merge it: lumi merge --checkpoint {folder} --output_dir DIR",
        )
    return ModelSource(_read_words(folder), read_model_config(folder), load_file(folder / WEIGHTS))


def read_adapter_source(folder: Path, base_path: Path | None) -> AdapterSource:
    """Read the adapter of a checkpoint; ``base_path``: where its base is, None for where it was.

    Raises:
        ConfigError: the checkpoint holds none.
        IntegrityError: it is missing, incomplete, damaged, or not one of ours.
    """
    from safetensors.torch import load_file

    verify(folder, CHECKPOINT, _WAY_OUT)
    if not (folder / ADAPTER).is_dir():
        raise ConfigError(f"{folder} holds no adapter", "it is a whole model: export it without --adapter")
    lora, row_ids = read_adapter_config(folder)
    recorded = read_base(folder)
    base = Base(base_path or recorded.path, recorded.weights_sha256)
    weights = our_names(load_file(folder / ADAPTER / "adapter_model.safetensors"))
    return AdapterSource(_read_words(folder), lora, row_ids, weights, base)


def _read_words(folder: Path) -> Words:
    name = read_run(folder).get("config", {}).get("name") or folder.absolute().parent.name
    return Words(folder, name, read_template(folder))
