"""Adapters on disk, in PEFT's format: `PeftModel.from_pretrained` on the base in transformers reads them as they are.

adapter/  adapter_config.json  adapter_model.safetensors  base.json (which weights they belong to)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file
from torch import Tensor

from lumi.artifacts import read_manifest
from lumi.config import read_json_object
from lumi.errors import IntegrityError
from lumi.model import Llama
from lumi.model.lora import LoraConfig, adapter_parameters
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.model.tensor_file import save_tensors

ADAPTER = "adapter"
_PREFIX = "base_model.model."
_OF_ROWS = {
    "model.embed_tokens.rows": "model.embed_tokens.token_adapter.trainable_tokens_delta",
    "lm_head.rows": "lm_head.token_adapter.trainable_tokens_delta",
}


@dataclass(frozen=True)
class Base:
    """The model that an adapter belongs to."""

    path: Path
    weights_sha256: str

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """Describe a checkpoint as a base.

        Raises:
            IntegrityError: it is not complete.
        """
        manifest = read_manifest(checkpoint, CHECKPOINT, "check --model_path, or train it first")
        weights = manifest.sha256_of(WEIGHTS)
        if weights is None:
            raise IntegrityError(
                f"{checkpoint} holds an adapter, not a whole model",
                f"use final/ of its run, or merge it: lumi merge --checkpoint {checkpoint} --output_dir DIR",
            )
        return cls(checkpoint, weights)

    def require(self, expected_sha256: str, where: Path) -> None:
        """Check that this is the base of an adapter.

        Raises:
            IntegrityError: the adapter was trained on other weights.
        """
        if self.weights_sha256 != expected_sha256:
            raise IntegrityError(
                f"the adapter in {where} was trained on other weights (sha256 {expected_sha256[:12]}) than"
                f" {self.path} holds ({self.weights_sha256[:12]})",
                "give the base that it was trained on",
            )


def write_adapter(
    weights: Mapping[str, Tensor],
    config: LoraConfig,
    row_ids: tuple[int, ...],
    base: Base,
    folder: Path,
    *,
    quantized: bool = False,
) -> list[str]:
    """Write what is trained (by our names, float32, on the CPU) below a checkpoint folder; return the files.

    ``quantized``: beside it the base's matrices stood in four bits.
    """
    (folder / ADAPTER).mkdir(exist_ok=True)
    tensors = {_PREFIX + _peft_name(name): tensor.contiguous() for name, tensor in weights.items()}
    save_tensors(tensors, folder / ADAPTER / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(folder / ADAPTER / "adapter_config.json", _peft_config(config, row_ids, base))
    beside = {"path": str(base.path), "weights_sha256": base.weights_sha256, "quantized": quantized}
    _write_json(folder / ADAPTER / "base.json", beside)
    return [f"{ADAPTER}/{file}" for file in ("adapter_model.safetensors", "adapter_config.json", "base.json")]


def read_adapter(model: Llama, folder: Path) -> None:
    """Put the adapter of a checkpoint into a model that has room for it (`add_lora`).

    Raises:
        IntegrityError: it is of another shape.
    """
    path = folder / ADAPTER / "adapter_model.safetensors"
    found = load_file(path)
    names = {_PREFIX + _peft_name(name): parameter for name, parameter in adapter_parameters(model).items()}
    expected = {name: tuple(parameter.shape) for name, parameter in names.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if expected != shapes:
        name = next(n for n in sorted({*expected, *shapes}) if expected.get(n) != shapes.get(n))
        raise IntegrityError(
            f"{path} is of another shape: {name} is {shapes.get(name)}, the config asks for {expected.get(name)}",
            "use the config that the adapter was made with",
        )
    for name, parameter in names.items():
        parameter.data.copy_(found[name])


def read_adapter_config(folder: Path) -> tuple[LoraConfig, tuple[int, ...]]:
    """Return what the adapter of a checkpoint is like, and which rows it trains whole."""
    path = folder / ADAPTER / "adapter_config.json"
    data = read_json_object(path)
    values = {
        "r": data["r"], "alpha": data["lora_alpha"], "dropout": data["lora_dropout"],
        "targets": data["target_modules"], "use_rslora": data["use_rslora"], "use_dora": data["use_dora"],
    }  # fmt: skip
    rows = data["trainable_token_indices"] or {}
    return LoraConfig.from_values(values, str(path)), tuple(rows.get("embed_tokens", ()))


def read_base(folder: Path) -> Base:
    """Return what the adapter of a checkpoint was trained on."""
    data = read_json_object(folder / ADAPTER / "base.json")
    return Base(Path(data["path"]), data["weights_sha256"])


def is_quantized(folder: Path) -> bool:
    """Return whether the adapter of a checkpoint was trained beside matrices in four bits."""
    return bool(read_json_object(folder / ADAPTER / "base.json")["quantized"])


def our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file of PEFT's by the names of our parameters."""
    rows = {peft: name for name, peft in _OF_ROWS.items()}
    plain = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    return {
        rows.get(name, name.replace(".lora_magnitude_vector", ".magnitude")): tensor for name, tensor in plain.items()
    }


def _peft_name(name: str) -> str:
    return _OF_ROWS.get(name, name.replace(".magnitude", ".lora_magnitude_vector"))


def _peft_config(config: LoraConfig, row_ids: tuple[int, ...], base: Base) -> dict[str, Any]:
    rows = {"embed_tokens": sorted(row_ids), "lm_head": sorted(row_ids)}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.path),
        "inference_mode": True,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(config.targets),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "trainable_token_indices": rows if row_ids else None,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf8")
