"""Base and adapter in llama.cpp write what the merged model writes in Lumi."""

import shutil

import pytest
from benchmarks.llama_server import LlamaServer
from tests.exports import make_adapter, make_model, our_text

from lumi.conversation import TEMPLATES, Message, render
from lumi.errors import ConfigError, IntegrityError
from lumi.export import ExportConfig, export
from lumi.model.lora import LoraConfig
from lumi.posttraining import MergeConfig, merge
from lumi.tokenizer import IM_END_ID, IM_START_ID, Tokenizer

TEMPLATE = TEMPLATES["chatml"]
ROWS = (IM_START_ID, IM_END_ID)
ADAPTERS = {
    "matrices": (LoraConfig(r=4, alpha=8.0), ()),
    "trained rows": (LoraConfig(r=4, alpha=8.0), ROWS),
    "rslora of queries and keys": (LoraConfig(r=8, alpha=4.0, use_rslora=True, targets=("q_proj", "k_proj")), ROWS),
}


@pytest.fixture(scope="module")
def base(artifacts, tmp_path_factory):
    """A base with grouped heads, and its GGUF."""
    root = tmp_path_factory.mktemp("base")
    folder = make_model(root / "final", artifacts / "tokenizer", n_head=4, n_kv_head=2)
    config = ExportConfig(model_path=folder, output_dir=root / "gguf", format="gguf", dtype="f32")
    return folder, export(config) / "model-f32.gguf"


def to_gguf(folder, output_dir, dtype="f32", base_path=None):
    config = ExportConfig(
        model_path=folder, output_dir=output_dir, format="gguf", dtype=dtype, adapter=True, base_path=base_path
    )
    return export(config) / f"adapter-{dtype}.gguf"


@pytest.mark.parametrize(("lora", "row_ids"), ADAPTERS.values(), ids=ADAPTERS)
def test_llama_cpp_writes_what_the_merged_model_writes(lora, row_ids, base, tmp_path):
    folder, file = base
    step = make_adapter(tmp_path / "step_1", folder, lora, TEMPLATE, row_ids)
    merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "merged"))
    tokenizer = Tokenizer.load(step)
    chats = [[Message("user", f"Where is the {animal}?")] for animal in ("fox", "dog", "cat")]
    prompts = [render(chat, TEMPLATE, tokenizer, asks=True).ids.tolist() for chat in chats]
    ours = our_text(tmp_path / "merged", prompts)
    adapted = LlamaServer(file, adapter=to_gguf(step, tmp_path / "gguf"))
    assert [adapted.continue_greedily(prompt, 24).ids for prompt in prompts] == [one.token_ids for one in ours]
    alone = LlamaServer(file)
    assert [alone.continue_greedily(prompt, 24).ids for prompt in prompts] != [one.token_ids for one in ours]


def test_beside_it_stand_the_template_and_a_modelfile(base, tmp_path):
    step = make_adapter(tmp_path / "step_1", base[0], *ADAPTERS["matrices"][:1], TEMPLATE)
    folder = to_gguf(step, tmp_path / "gguf", "f16").parent
    assert sorted(path.name for path in folder.iterdir()) == ["Modelfile", "adapter-f16.gguf", "chat_template.jinja"]
    assert "\nADAPTER ./adapter-f16.gguf\n" in (folder / "Modelfile").read_text()
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text()


def test_what_llama_cpp_cannot_apply_is_refused(base, artifacts, tmp_path):
    dora = make_adapter(tmp_path / "dora", base[0], LoraConfig(r=4, alpha=8.0, use_dora=True))
    with pytest.raises(ConfigError, match=r"DoRA(.|\n)*lumi merge"):
        to_gguf(dora, tmp_path / "gguf")
    tied = make_model(tmp_path / "tied", artifacts / "tokenizer", tie_embeddings=True)
    rows = make_adapter(tmp_path / "rows", tied, LoraConfig(r=4, alpha=8.0), TEMPLATE, ROWS)
    with pytest.raises(ConfigError, match=r"head is the embedding(.|\n)*lumi merge"):
        to_gguf(rows, tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_the_base_must_be_its_own(base, artifacts, tmp_path):
    moved = shutil.copytree(base[0], tmp_path / "moved")
    step = make_adapter(tmp_path / "step_1", moved, LoraConfig(r=4, alpha=8.0))
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="--base_path"):
        to_gguf(step, tmp_path / "gguf")
    to_gguf(step, tmp_path / "gguf", base_path=tmp_path / "elsewhere")
    other = make_model(tmp_path / "other", artifacts / "tokenizer", seed=2)
    with pytest.raises(IntegrityError, match="other weights"):
        to_gguf(step, tmp_path / "no", base_path=other)
