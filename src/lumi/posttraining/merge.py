"""From an adapter to a whole model: W + scaling B A in float32, checked against the two side by side."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from lumi.artifacts import FORMAT_VERSION, MANIFEST, Manifest, complete, describe_file, manifest_key, package_versions
from lumi.config import Config
from lumi.conversation import read_template
from lumi.errors import ConfigError, IntegrityError
from lumi.model import Llama, choose_attention, read_model_config
from lumi.model.lora import LoraConfig, LoraLinear, add_lora, merged_weights
from lumi.model.pretrained import CHECKPOINT, WEIGHTS, set_weights
from lumi.model.qlora import QuantizedLoraLinear, require_bitsandbytes
from lumi.posttraining.adapter_files import (
    ADAPTER,
    Base,
    is_quantized,
    read_adapter,
    read_adapter_config,
    read_base,
    write_adapter,
)
from lumi.progress import say
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel, verify_checkpoint
from lumi.training.checkpoint import MODEL_CARD, begin_checkpoint, partial_folder
from lumi.training.model_card import ensure_model_card

_BOUND = 1e-4  # largest difference of a logit, as a share of the largest one; float32 gives some 1e-6


class MergeConfig(Config):
    """Make a whole model of a LoRA checkpoint (any step_N, or best)."""

    checkpoint: Path
    """The folder with adapter/ in it."""
    model_path: Path | None = Field(default=None)
    """The model that it was trained on; default: where it was then."""
    output_dir: Path
    """Where the whole model goes."""


class AdapterFiles:
    """Checkpoints of adapters; the run ends with the merged model (see `ModelFiles`)."""

    def __init__(
        self, base: Base, lora: LoraConfig, row_ids: tuple[int, ...], words: WholeModel, *, quantized: bool = False
    ) -> None:
        self.base, self.lora, self.row_ids, self.words, self.quantized = base, lora, row_ids, words, quantized

    def holds(self, name: str) -> bool:
        return any(part in name for part in ("lora_A.", "lora_B.", ".magnitude")) or name.endswith(".rows")

    def write(self, weights: Mapping[str, Tensor], folder: Path) -> list[str]:
        files = write_adapter(weights, self.lora, self.row_ids, self.base, folder, quantized=self.quantized)
        return [*files, *self.words.write_words(folder)]

    def finish(self, checkpoint: Path, final: Path) -> None:
        write_merged(checkpoint, self.base, final)
        ensure_model_card(final)


def merge(config: MergeConfig) -> None:
    """Merge, or find it merged.

    Raises:
        ConfigError: the checkpoint holds no adapter.
        IntegrityError: something is damaged, or the base is another one.
    """
    verify_checkpoint(config.checkpoint)
    if not (config.checkpoint / ADAPTER).is_dir():
        raise ConfigError(f"{config.checkpoint} holds no adapter", "it is a whole model already")
    recorded = read_base(config.checkpoint)
    if config.model_path is None and not recorded.path.is_dir():
        raise ConfigError(
            f"the model that the adapter was trained on stood at {recorded.path}, and is not there",
            "give it: --model_path",
        )
    base = Base.of(config.model_path or recorded.path)
    base.require(recorded.weights_sha256, config.checkpoint)
    write_merged(config.checkpoint, base, config.output_dir)
    ensure_model_card(config.output_dir)
    say(f"merged: {config.output_dir}")


def write_merged(checkpoint: Path, base: Base, final: Path) -> None:
    """Write a checkpoint that has the merged model beside all that the adapter's has; or find it there.

    Raises:
        ConfigError: the folder holds something else.
        IntegrityError: the merged model's logits are not the adapted one's.
    """
    manifest = verify_checkpoint(checkpoint)
    of_adapter = {out.file: out.sha256 for out in manifest.files(prefix=f"{ADAPTER}/")}
    if (final.exists() and not final.is_dir()) or (final.is_dir() and any(final.iterdir())):
        there = verify_checkpoint(final) if (final / MANIFEST).is_file() else None
        if there is None or not there.config.get("merged") or final.resolve() == base.path.resolve():
            raise ConfigError(f"{final} holds something else, which would be lost", "give another --output_dir")
        if {out.file: out.sha256 for out in there.files(prefix=f"{ADAPTER}/")} == of_adapter:
            return
    verify_checkpoint(base.path)
    weights, difference = merged(checkpoint, base)
    partial = partial_folder(final)
    begin_checkpoint(final)
    shutil.copytree(checkpoint, partial, dirs_exist_ok=True)
    (partial / MANIFEST).unlink()
    (partial / MODEL_CARD).unlink(missing_ok=True)  # it tells of the folder that was copied
    config = read_model_config(base.path)
    whole = WholeModel(config, Tokenizer.load(checkpoint), read_template(checkpoint))
    files = {out.file for out in manifest.outputs} | set(whole.write(weights, partial))
    identity = {**manifest.config, "merged": True}
    new = Manifest(
        kind=CHECKPOINT,
        format_version=FORMAT_VERSION,
        key=manifest_key(CHECKPOINT, identity, ()),
        config=identity,
        inputs=(),
        outputs=tuple(describe_file(partial, file) for file in sorted(files)),
        counts=manifest.counts,
        versions=package_versions("torch", "safetensors"),
    )
    complete(partial, final, new)
    say(f"merged in float32; largest difference of a logit: {difference:.1e}")


def merged(checkpoint: Path, base: Base) -> tuple[dict[str, Tensor], float]:
    """Return the merged weights, and the largest difference of a logit between them and the adapted model.

    Raises:
        IntegrityError: it is above what rounding explains.
    """
    weights = load_file(base.path / WEIGHTS)
    adapted = load_adapted(checkpoint, base)
    found = merged_weights(adapted, weights)
    plain = _plain(base, found)
    draw = torch.Generator().manual_seed(0)
    length = min(128, plain.config.sequence_length)
    tokens_BT = torch.randint(0, plain.config.vocab_size, (4, length), generator=draw)
    _, row_ids = read_adapter_config(checkpoint)
    if row_ids:  # every second token is one whose row was trained
        tokens_BT[:, ::2] = torch.tensor(row_ids)[torch.arange(tokens_BT[:, ::2].shape[1]) % len(row_ids)]
    with torch.inference_mode():
        logits = plain(tokens_BT)
        difference = float((logits - adapted.eval()(tokens_BT)).abs().max())
        bound = _BOUND * max(1.0, float(logits.abs().max()))
    if not difference <= bound:
        raise IntegrityError(
            f"{checkpoint}: the merged model's logits differ from the adapted one's by {difference:.1e}, more than"
            f" rounding explains ({bound:.0e})",
            "use the adapter beside its base",
        )
    return found, difference


def load_adapted(checkpoint: Path, base: Base) -> Llama:
    """Return base and adapter of a checkpoint as one model, float32, on the CPU."""
    model = _plain(base, load_file(base.path / WEIGHTS))
    lora, row_ids = read_adapter_config(checkpoint)
    add_lora(model, lora, row_ids, layer_class=adapted_layer(quantized=is_quantized(checkpoint)))
    read_adapter(model, checkpoint)
    return model


def adapted_layer(*, quantized: bool) -> type[LoraLinear]:
    """Return what an adapted matrix is.

    Raises:
        ConfigError: four bits are asked for, and bitsandbytes is not there.
    """
    if not quantized:
        return LoraLinear
    require_bitsandbytes()
    return QuantizedLoraLinear


def _plain(base: Base, weights: dict[str, Any]) -> Llama:
    model = Llama(read_model_config(base.path))
    set_weights(model, weights, base.path)
    model.use_attention(choose_attention("auto")[1])
    return model.eval()
