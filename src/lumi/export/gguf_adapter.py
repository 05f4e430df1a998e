"""A LoRA adapter as a GGUF file: W + scale B A, where llama.cpp takes scale = alpha / (columns of B).

Rows of embedding and head that were trained whole are a product as well, exactly: with K rows, their differences from
the base's rows are one factor, and a matrix that picks the token's row the other.

Shapes: R rank, O outputs, K trained rows, D d_model, V vocabulary.
"""

from pathlib import Path

import torch
from torch import Tensor

from lumi.errors import ConfigError
from lumi.export.gguf_file import gguf_name, new_writer, reorder_rows, write_tensors
from lumi.export.modelfile import modelfile
from lumi.export.source import AdapterSource, ModelSource


def write_gguf_adapter(adapter: AdapterSource, dtype: str, folder: Path) -> dict[str, str]:
    """Write ``adapter-DTYPE.gguf``, ``Modelfile`` and the chat template, which the base may lack.

    Raises:
        ConfigError: llama.cpp cannot apply such an adapter; or the base is not there.
        IntegrityError: the base is another one, or damaged.
    """
    if adapter.lora.use_dora:
        raise ConfigError(f"{adapter.folder} holds a DoRA adapter, which llama.cpp does not have", _merged(adapter))
    base = adapter.read_base()
    if adapter.row_ids and base.shape.tie_embeddings:
        raise ConfigError(
            f"{adapter.folder} trains rows of the embedding of a model whose head is the embedding: llama.cpp cannot"
            " apply that as an adapter",
            _merged(adapter),
        )
    file = f"adapter-{dtype}.gguf"
    writer = new_writer(folder / file, adapter.words.name)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    alpha = adapter.lora.scaling * adapter.lora.r  # rsLoRA's too
    writer.add_float32("adapter.lora.alpha", alpha)
    write_tensors(writer, {**_matrices(adapter, base), **_rows(adapter, base, alpha)}, dtype)
    text = modelfile("BASE.gguf", adapter.words.template, base.shape.sequence_length, adapter=file)
    (folder / "Modelfile").write_text(text, encoding="utf8")
    (folder / "chat_template.jinja").write_text(adapter.words.chat_template, encoding="utf8")
    here = f"--lora {{folder}}/{file} --jinja --chat-template-file {{folder}}/chat_template.jinja"
    return {
        "its base": f"lumi export --model_path {adapter.base.path} --format gguf --output_dir DIR",
        "llama.cpp": f"llama-cli -m BASE.gguf {here} -cnv",
        "Ollama": "put the base's path into {folder}/Modelfile, then ollama create NAME -f {folder}/Modelfile",
    }


def _merged(adapter: AdapterSource) -> str:
    return f"export the merged model: final/ of its run, or lumi merge --checkpoint {adapter.folder} --output_dir DIR"


def _matrices(adapter: AdapterSource, base: ModelSource) -> dict[str, Tensor]:
    tensors = {}
    for name, weight in adapter.weights.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            b_OR = adapter.weights[f"{module}.lora_B.weight"]
            tensors[f"{gguf_name(module)}.weight.lora_a"] = weight
            tensors[f"{gguf_name(module)}.weight.lora_b"] = reorder_rows(module, b_OR, base.shape)
    return tensors


def _rows(adapter: AdapterSource, base: ModelSource, alpha: float) -> dict[str, Tensor]:
    """Return trained rows as adapters; for the embedding llama.cpp looks A's rows up by token, and multiplies by B."""
    if not adapter.row_ids:
        return {}
    ids, num_rows = list(adapter.row_ids), len(adapter.row_ids)
    picks_VK = torch.zeros(base.shape.vocab_size, num_rows)
    picks_VK[ids, torch.arange(num_rows)] = num_rows / alpha  # undoes the scale
    embedded_KD, head_KD = (
        adapter.weights[f"{module}.rows"] - base.weights[f"{module}.weight"][ids]
        for module in ("model.embed_tokens", "lm_head")
    )
    return {
        "token_embd.weight.lora_a": picks_VK,
        "token_embd.weight.lora_b": embedded_KD.T,
        "output.weight.lora_a": head_KD,
        "output.weight.lora_b": picks_VK,
    }
