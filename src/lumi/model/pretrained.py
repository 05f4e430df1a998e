"""Models on disk: the folder that `AutoModelForCausalLM.from_pretrained` and vLLM load as it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lumi.artifacts import verify
from lumi.config import read_json_object
from lumi.errors import DataError, IntegrityError
from lumi.model.attention import choose_attention
from lumi.model.config import ModelConfig
from lumi.model.llama import Llama
from lumi.model.tensor_file import save_tensors
from lumi.tokenizer.ids import BOS_ID, PAD_ID

WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint"


def write_model(config: ModelConfig, weights: Mapping[str, Tensor], folder: Path, stop_ids: Sequence[int]) -> list[str]:
    """Write config, generation config and weights (float32, on the CPU) into a folder; return the file names."""
    generation = {"bos_token_id": BOS_ID, "eos_token_id": [*stop_ids], "pad_token_id": PAD_ID, "do_sample": True}
    (folder / "config.json").write_text(json.dumps(config.to_transformers(), indent=1) + "\n", encoding="utf8")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n", encoding="utf8")
    save_tensors(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return ["config.json", "generation_config.json", WEIGHTS]


def model_name(folder: Path, num_folders: int = 2) -> str:
    """Return what people call a model: the last folders of its path; ``final`` says nothing and is left out."""
    parts = folder.resolve().parts[1:]
    if parts[-1:] == ("final",):
        parts = parts[:-1] or parts
    return "/".join(parts[-num_folders:])


def weights(model: Llama) -> dict[str, Tensor]:
    """Return the parameters by transformers' names, on the CPU; a tied head is left out, as transformers does."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.state_dict().items()
        if not (model.config.tie_embeddings and name == "lm_head.weight")
    }


def set_weights(model: Llama, found: dict[str, Tensor], where: Path) -> None:
    """Copy weights into a model.

    Raises:
        IntegrityError: a name is missing or too much, or a shape differs.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in weights(model).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if expected != shapes:
        name = next(n for n in sorted({*expected, *shapes}) if expected.get(n) != shapes.get(n))
        raise IntegrityError(
            f"{where} is of another shape: {name} is {shapes.get(name)}, the model needs {expected.get(name)}",
            "use the config that the checkpoint was made with",
        )
    model.load_state_dict(found, strict=not model.config.tie_embeddings)


def read_model_config(folder: Path) -> ModelConfig:
    """Read the shape of a model from its folder."""
    path = folder / "config.json"
    return ModelConfig.from_transformers(read_json_object(path), str(path))


def read_stop_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids of the tokens that end a text, as a model's folder names them; none where it does not."""
    path = folder / "generation_config.json"
    named = read_json_object(path).get("eos_token_id", []) if path.is_file() else []
    return tuple(named) if isinstance(named, list) else (named,)


def load_model(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
    """Load a checkpoint folder for inference, after hashing it against its manifest.

    Raises:
        DataError: no such folder.
        IntegrityError: incomplete or damaged.
    """
    if not folder.is_dir():
        raise DataError(f"no model at {folder}", "check --model_path; `make pretrain-tiny` trains one")
    verify(folder, CHECKPOINT, "use another checkpoint (step_N or final), or train again")
    if not (folder / WEIGHTS).is_file():
        raise DataError(
            f"{folder} holds an adapter, not a whole model",
            f"use final/ of its run, or merge it: lumi merge --checkpoint {folder} --output_dir DIR",
        )
    model = Llama(read_model_config(folder))
    set_weights(model, load_file(folder / WEIGHTS), folder)
    model.use_attention(choose_attention("auto")[1])
    model.compute_dtype = dtype
    for parameter in model.parameters():  # not model.to(dtype): the rotary table stays in float32
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()
