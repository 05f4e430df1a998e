"""A GGUF file runs in llama.cpp and writes the same text; so it does with every part of the shape."""

import pytest
from benchmarks.llama_server import LlamaServer
from gguf import GGMLQuantizationType, GGUFReader
from tests.exports import PROMPTS, make_model, our_ids, our_log_probs, our_text

from lumi.export import ExportConfig, export
from lumi.model import load_model

SHAPES = {
    "plain": {},
    "grouped heads": {"n_head": 4, "n_kv_head": 2},
    "heads wider than the model": {"head_dim": 24},
    "tied": {"tie_embeddings": True},
    "other constants": {"rope_theta": 500.0, "norm_eps": 0.01, "ffn_ratio": 2.5, "sequence_length": 96},
}


def to_gguf(folder, output_dir, dtype):
    config = ExportConfig(model_path=folder, output_dir=output_dir, format="gguf", dtype=dtype)
    return export(config) / f"model-{dtype}.gguf"


def largest_difference(folder, server):
    """Of the log-probabilities of the likeliest first tokens behind some prompts."""
    model, differences = load_model(folder), []
    for prompt in PROMPTS:
        ids = our_ids(folder, prompt)
        ours, theirs = our_log_probs(model, ids), server.continue_greedily(ids, 1).first
        differences += [abs(float(ours[token]) - value) for token, value in theirs.items()]
    return max(differences)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_llama_cpp_writes_the_same_text(shape, artifacts, tmp_path):
    folder = make_model(tmp_path / "model", artifacts / "tokenizer", **shape)
    server = LlamaServer(to_gguf(folder, tmp_path / "gguf", "f32"))
    assert largest_difference(folder, server) < 1e-4
    ours = our_text(folder, PROMPTS)
    assert len({one.text for one in ours}) > 1
    for prompt, one in zip(PROMPTS, ours, strict=True):
        theirs = server.continue_greedily(our_ids(folder, prompt), 24)
        assert (theirs.ids, theirs.text) == (one.token_ids, one.text)


@pytest.mark.parametrize(("dtype", "bound", "share"), [("f16", 0.02, 0.55), ("q8_0", 0.3, 0.33)])
def test_narrow_types_are_near(dtype, bound, share, artifacts, tmp_path):
    folder = make_model(tmp_path / "model", artifacts / "tokenizer", n_layer=4, d_model=64)
    wide, narrow = to_gguf(folder, tmp_path / "f32", "f32"), to_gguf(folder, tmp_path / dtype, dtype)
    assert 1e-5 < largest_difference(folder, LlamaServer(narrow)) < bound
    assert narrow.stat().st_size < share * wide.stat().st_size


def test_rows_that_q8_0_cannot_hold_are_f16(artifacts, tmp_path):
    folder = make_model(tmp_path / "model", artifacts / "tokenizer", d_model=40, head_dim=32)
    file = to_gguf(folder, tmp_path / "gguf", "q8_0")
    types = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert types["blk.0.attn_q.weight"] == GGMLQuantizationType.F16  # rows of 40
    assert types["blk.0.attn_output.weight"] == GGMLQuantizationType.Q8_0  # rows of 64
    assert types["output_norm.weight"] == GGMLQuantizationType.F32
    assert largest_difference(folder, LlamaServer(file)) < 0.3


def test_what_the_file_says_of_itself(artifacts, tmp_path):
    folder = make_model(tmp_path / "model", artifacts / "tokenizer")
    reader = GGUFReader(to_gguf(folder, tmp_path / "gguf", "f16"))
    assert reader.get_field("general.name").contents() == "drawn"
    assert reader.get_field("general.file_type").contents() == 1
    assert reader.get_field("llama.context_length").contents() == 256
    assert reader.get_field("tokenizer.chat_template") is None
