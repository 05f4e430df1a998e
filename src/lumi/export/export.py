"""`lumi export`: a verified checkpoint in a folder of its own, in the form that another program reads.

    checkpoint --+-- hf ----> transformers, vLLM, SGLang (an adapter: PEFT)
                 +-- gguf --> llama.cpp, Ollama

The folder appears under its name once it is whole, or not at all. It has no manifest: it is for others.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from lumi.artifacts import publish
from lumi.config import Config
from lumi.errors import ConfigError
from lumi.export.gguf_adapter import write_gguf_adapter
from lumi.export.gguf_model import write_gguf_model
from lumi.export.source import read_adapter_source, read_model_source
from lumi.export.transformers_folder import write_peft_adapter, write_transformers_model
from lumi.progress import say

DtypeName = Literal["fp32", "bf16", "fp16", "f32", "f16", "q8_0"]
_TYPES: dict[str, tuple[DtypeName, ...]] = {"hf": ("fp32", "bf16", "fp16"), "gguf": ("f16", "f32", "q8_0")}


class ExportConfig(Config):
    """Write a checkpoint in the form that other programs read."""

    model_path: Path
    """Checkpoint folder, such as checkpoints/sft_industrial/tiny/final."""
    output_dir: Path
    """Where the files go; a new folder."""
    format: Literal["hf", "gguf"]
    """hf: transformers, vLLM, SGLang. gguf: llama.cpp, Ollama."""
    dtype: DtypeName | None = None
    """Type of the weights: of hf fp32 (default), bf16 or fp16; of gguf f16 (default), f32 or q8_0."""
    adapter: bool = False
    """Write the LoRA adapter alone, to be used beside its base."""
    base_path: Path | None = None
    """The model that the adapter was trained on; default: where it was then."""

    @property
    def weights_dtype(self) -> DtypeName:
        return self.dtype or _TYPES[self.format][0]

    @model_validator(mode="after")
    def _a_type_of_the_format(self) -> Self:
        allowed = [name for name in _TYPES[self.format] if not (self.adapter and name == "q8_0")]
        if self.weights_dtype not in allowed:
            what = f"an adapter as {self.format}" if self.adapter else self.format
            raise ValueError(f"dtype {self.dtype} is none of {what}: {', '.join(allowed)}")
        return self


def export(config: ExportConfig) -> Path:
    """Write the export; return its folder.

    Raises:
        ConfigError: the output folder holds something; no adapter is there; it is one that the format cannot hold.
        DataError: the checkpoint is an adapter, and a whole model was asked for.
        IntegrityError: the checkpoint is missing, incomplete, damaged, or not one of ours.
    """
    folder, dtype = config.output_dir.absolute(), config.weights_dtype
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{config.output_dir} holds something, which would be lost", "give another --output_dir")
    if config.adapter:
        adapter = read_adapter_source(config.model_path, config.base_path)
        with _new_folder(folder) as partial:
            write_adapter = write_gguf_adapter if config.format == "gguf" else write_peft_adapter
            use = write_adapter(adapter, dtype, partial)
    else:
        model = read_model_source(config.model_path)
        with _new_folder(folder) as partial:
            write_model = write_gguf_model if config.format == "gguf" else write_transformers_model
            use = write_model(model, dtype, partial)
    files = sorted(folder.iterdir())
    size = sum(path.stat().st_size for path in files)
    say(f"exported: {config.output_dir}, {size / 1e6:,.1f} MB: {', '.join(path.name for path in files)}")
    for program, command in use.items():
        say(f"{program}: {command.replace('{folder}', str(config.output_dir))}")
    return folder


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; it gets its name at the end, and goes where something went wrong."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        publish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
