"""GGUF files: llama.cpp's names, layout of rows and types for our tensors, and the writing itself.

For rotary positions llama.cpp pairs neighbouring entries of a head (0 with 1), we and transformers its halves (0 with
head_dim / 2): rows of query and key projections are put in its order.

Shapes: O outputs, X inputs or rank, H heads, P pairs in a head.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lumi.errors import ConfigError
from lumi.model import ModelConfig
from lumi.progress import progress

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

_BLOCK = 32  # weights of a row that share a scale in q8_0
_OF_MODEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_OF_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a module of ours: model.layers.3.mlp.up_proj is blk.3.ffn_up."""
    if name in _OF_MODEL:
        return _OF_MODEL[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{_OF_LAYER[part]}"


def reorder_rows(name: str, values_OX: Tensor, shape: ModelConfig) -> Tensor:
    """Put the rows of a query or key projection (or of its adapter's B) in llama.cpp's order; others stay."""
    if not name.endswith((".q_proj", ".k_proj")):
        return values_OX
    halves_H2PX = values_OX.view(-1, 2, shape.head_dim // 2, values_OX.shape[-1])
    return halves_H2PX.transpose(1, 2).reshape(values_OX.shape)


def new_writer(path: Path, name: str) -> "GGUFWriter":
    """Begin a GGUF file of the llama architecture.

    Raises:
        ConfigError: the library that writes it is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("GGUF needs the package gguf, which is not installed", 'pip install "lumi-lab[export]"')
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    return writer


def write_tensors(writer: "GGUFWriter", tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Write the file: what the writer was told, and the tensors; vectors stay float32."""
    from gguf import LlamaFileType
    from gguf.constants import GGML_QUANT_SIZES, GGML_QUANT_VERSION
    from gguf.quants import quantize

    kinds = {"f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0}
    writer.add_file_type(kinds[dtype])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    types = {name: _type_of(tensor, dtype) for name, tensor in tensors.items()}
    total = 0
    for name, tensor in tensors.items():
        block, block_bytes = GGML_QUANT_SIZES[types[name]]
        num_bytes = tensor.numel() // block * block_bytes
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), num_bytes, types[name])
        total += num_bytes
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress("export: writing", total=total, unit="MB", scale=1e6) as bar:
            for name, tensor in tensors.items():
                encoded = quantize(tensor.contiguous().numpy(), types[name])
                writer.write_tensor_data(encoded)
                bar.advance(encoded.nbytes)
    finally:
        writer.close()


def _type_of(tensor: Tensor, dtype: str) -> "GGMLQuantizationType":
    from gguf import GGMLQuantizationType

    if tensor.ndim == 1 or dtype == "f32":
        return GGMLQuantizationType.F32
    if dtype == "f16" or tensor.shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType.Q8_0
