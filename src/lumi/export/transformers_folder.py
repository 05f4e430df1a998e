"""Folders of transformers' form with nothing else in them: of a whole model, and of an adapter (PEFT)."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lumi.config import read_json_object
from lumi.export.source import AdapterSource, ModelSource
from lumi.model.pretrained import WEIGHTS
from lumi.model.tensor_file import save_tensors
from lumi.posttraining.adapter_files import ADAPTER
from lumi.progress import progress
from lumi.tokenizer.tokenizer import CHECKPOINT_MODEL
from lumi.tokenizer.transformers_files import TRANSFORMERS_FILES
from lumi.training.checkpoint import MODEL_CARD
from lumi.training.model_card import card_for_others

_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def write_transformers_model(model: ModelSource, dtype: str, folder: Path) -> dict[str, str]:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` load; return the command for each program."""
    _write_weights(model.weights, dtype, folder / WEIGHTS)
    named = str(_TORCH[dtype]).removeprefix("torch.")
    # torch_dtype and rope_theta are what transformers 4, and programs built on it, read
    settings = {"dtype": named, "torch_dtype": named, "rope_theta": model.shape.rope_theta}
    config = read_json_object(model.folder / "config.json") | settings
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf8")
    for file in ("generation_config.json", CHECKPOINT_MODEL, *TRANSFORMERS_FILES):
        shutil.copyfile(model.folder / file, folder / file)
    (folder / MODEL_CARD).write_bytes(card_for_others(model.folder))
    return {
        "transformers": 'AutoModelForCausalLM.from_pretrained("{folder}")',
        "vLLM": "vllm serve {folder}",
        "SGLang": "python -m sglang.launch_server --model-path {folder}",
    }


def write_peft_adapter(adapter: AdapterSource, dtype: str, folder: Path) -> dict[str, str]:
    """Write what `PeftModel.from_pretrained` puts on the base; return the command for each program."""
    from safetensors.torch import load_file

    source = adapter.folder / ADAPTER
    _write_weights(load_file(source / "adapter_model.safetensors"), dtype, folder / "adapter_model.safetensors")
    shutil.copyfile(source / "adapter_config.json", folder / "adapter_config.json")
    for file in (CHECKPOINT_MODEL, *TRANSFORMERS_FILES):
        shutil.copyfile(adapter.folder / file, folder / file)
    use = {
        "PEFT": f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{adapter.base.path}"), "{{folder}}")'
    }
    if adapter.row_ids or adapter.lora.use_dora:
        return use | {"vLLM, SGLang": "cannot apply trained rows of the embedding, or DoRA: export the merged model"}
    rank = max(8, 1 << (adapter.lora.r - 1).bit_length())
    return use | {
        "vLLM": f"vllm serve {adapter.base.path} --tokenizer {{folder}} --enable-lora --max-lora-rank {rank}"
        " --lora-modules NAME={folder}",
        "SGLang": f"python -m sglang.launch_server --model-path {adapter.base.path} --tokenizer-path {{folder}}"
        " --lora-paths NAME={folder}",
    }


def _write_weights(weights: Mapping[str, Tensor], dtype: str, path: Path) -> None:
    cast = {name: tensor.to(_TORCH[dtype]) for name, tensor in weights.items()}
    size = sum(tensor.nbytes for tensor in cast.values())
    with progress("export: writing", total=size, unit="MB", scale=1e6) as bar:
        save_tensors(cast, path, metadata={"format": "pt"})
        bar.advance(size)
