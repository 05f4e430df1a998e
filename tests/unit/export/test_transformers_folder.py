"""The folder for transformers: the same logits and ids, and nothing in it that only Lumi needs."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file
from tests.exports import make_adapter, make_model

from lumi.conversation import TEMPLATES, Message, render
from lumi.export import ExportConfig, export
from lumi.model import load_model
from lumi.model.lora import LoraConfig
from lumi.posttraining import MergeConfig, merge
from lumi.tokenizer import IM_END_ID, IM_START_ID, Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' and PEFT's own

TEMPLATE = TEMPLATES["chatml"]
FILES = [
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json",
]  # fmt: skip


def to_hf(folder, output_dir, dtype=None, **values):
    return export(ExportConfig(model_path=folder, output_dir=output_dir, format="hf", dtype=dtype, **values))


@pytest.mark.parametrize(
    ("dtype", "type_", "bound"),
    [(None, torch.float32, 1e-4), ("bf16", torch.bfloat16, 1.0), ("fp16", torch.float16, 0.1)],
)
def test_transformers_computes_the_same(dtype, type_, bound, artifacts, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shape = {"n_head": 4, "n_kv_head": 2, "head_dim": 12, "rope_theta": 500.0, "tie_embeddings": True}
    checkpoint = make_model(tmp_path / "final", artifacts / "tokenizer", TEMPLATE, **shape)
    folder = to_hf(checkpoint, tmp_path / "hf", dtype)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert theirs.dtype == type_
    tokens = torch.randint(0, 320, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (theirs(tokens).logits.float() - load_model(checkpoint)(tokens)).abs().max()
    assert difference < bound
    tokenizer, words = Tokenizer.load(checkpoint), AutoTokenizer.from_pretrained(folder)
    text = "  The fox,\n\n12 \U0001f600 \u4e2d"
    assert words.encode(text) == tokenizer.encode(text)
    chat = [Message("system", "Be brief."), Message("user", "Hi")]
    ids = words.apply_chat_template([one.to_json() for one in chat], add_generation_prompt=True, return_dict=False)
    assert ids == render(chat, TEMPLATE, tokenizer, asks=True).ids.tolist()


def test_programs_on_older_transformers_find_type_and_base_of_the_positions(artifacts, tmp_path):
    folder = to_hf(make_model(tmp_path / "final", artifacts / "tokenizer", rope_theta=500.0), tmp_path / "hf", "bf16")
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["torch_dtype"], settings["rope_theta"]) == ("bfloat16", 500.0)


def test_the_card_is_the_checkpoints_without_what_the_folder_cannot_do(artifacts, tmp_path):
    checkpoint = make_model(tmp_path / "final", artifacts / "tokenizer")
    made = (to_hf(checkpoint, tmp_path / "made") / "README.md").read_text()
    assert made.startswith("---\nlibrary_name: transformers")
    assert "AutoModelForCausalLM" in made
    assert "lumi generate" not in made
    assert "## Limits" in made
    (checkpoint / "README.md").write_text("# Mine\n")
    assert (to_hf(checkpoint, tmp_path / "copied") / "README.md").read_text() == "# Mine\n"


def test_the_umask_says_who_may_read(artifacts, tmp_path):
    base = make_model(tmp_path / "base", artifacts / "tokenizer")
    step = make_adapter(tmp_path / "step_1", base, LoraConfig(r=4, alpha=8.0), TEMPLATE)
    before = os.umask(0o027)
    try:
        folders = to_hf(base, tmp_path / "hf"), to_hf(step, tmp_path / "adapter", adapter=True)
    finally:
        os.umask(before)
    for folder in folders:
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_an_adapter_is_pefts(artifacts, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make_model(tmp_path / "base", artifacts / "tokenizer")
    step = make_adapter(tmp_path / "step_1", base, LoraConfig(r=4, alpha=8.0), TEMPLATE, (IM_START_ID, IM_END_ID))
    folder = to_hf(step, tmp_path / "hf", adapter=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", *FILES[-3:]
    ]  # fmt: skip
    merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "merged"))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    tokens = torch.randint(0, 320, (2, 30), generator=torch.Generator().manual_seed(0))
    tokens[:, ::3] = IM_START_ID
    with torch.inference_mode():
        torch.testing.assert_close(
            adapted(tokens).logits, load_model(tmp_path / "merged")(tokens), rtol=1e-4, atol=1e-3
        )
    assert AutoTokenizer.from_pretrained(folder).chat_template
    narrow = load_file(to_hf(step, tmp_path / "bf16", "bf16", adapter=True) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in narrow.values()} == {torch.bfloat16}
