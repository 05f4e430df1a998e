"""SFT through the engine: what a run leaves, what it refuses, and that it learns."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tests.sft_runs import SHAPE, config, make_base, make_conversations
from tests.training_runs import assert_same_checkpoint, losses

from lumi.conversation import Message, read_template, render
from lumi.errors import ConfigError, DataError, IntegrityError, ResumeError, TokenizerMismatch
from lumi.inference import GenerationConfig, generate
from lumi.model import create_model, load_model
from lumi.model.pretrained import weights
from lumi.posttraining import MergeConfig, merge, sft
from lumi.posttraining.adapter_files import Base
from lumi.posttraining.merge import load_adapted
from lumi.posttraining.neftune import add_neftune, conversation_lengths
from lumi.tokenizer import BOS_ID, PAD_ID, Tokenizer


def mean_loss(folder, key="val_loss"):
    found = [record[key] for record in losses(folder) if record.get(key)]
    return [sum(one.values()) / len(one) if isinstance(one, dict) else one for one in found]


LEARN = {"schedule__max_steps": 120, "training__save_steps": 120, "training__batch_size": 4}


@pytest.fixture(scope="module")
def tuned(base, chats, tmp_path_factory):
    """A model that has learned the conversations, with all of its weights."""
    return sft(config(base, [chats], tmp_path_factory.mktemp("tuned"), method="full", **LEARN))


def answer_to(question, folder):
    tokenizer, template = Tokenizer.load(folder), read_template(folder)
    prompt = render([Message("user", question)], template, tokenizer, asks=True).ids.tolist()
    settings = GenerationConfig(temperature=0, stop_ids=template.stop_ids, max_new_tokens=60)
    return generate(load_model(folder), tokenizer, [prompt], settings)[0]


def test_a_run_learns_to_answer_and_to_stop(tuned):
    first, *_, last = mean_loss(tuned, "loss")
    assert last < 0.4 * first
    answer = answer_to("Where is the fox 10?", tuned)
    assert answer.finish_reason == "stop"
    assert re.fullmatch(r"The \w+ is at \d+\.", answer.text)


def test_an_adapter_teaches_something_new(artifacts, tuned, tmp_path):
    new = make_conversations(tmp_path, artifacts / "tokenizer", "new", rows={"start": 100, "verb": "sleeps by"})
    final = sft(config(tuned, [new], tmp_path / "run", lora={"r": 16, "alpha": 32}, **LEARN))
    assert " slee" in answer_to("Where is the fox 10?", final).text
    assert " slee" not in answer_to("Where is the fox 10?", tuned).text


def test_what_a_lora_run_leaves(base, chats, tmp_path):
    run = tmp_path / "run"
    final = sft(config(base, [chats], run))
    step = run / "step_20"
    assert not (step / "model.safetensors").exists()
    assert sorted(path.name for path in (step / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "base.json",
    ]  # fmt: skip
    with pytest.raises(DataError, match="lumi merge"):
        load_model(step)
    ends = json.loads((final / "generation_config.json").read_text())["eos_token_id"]
    assert ends == list(read_template(final).stop_ids)
    told = json.loads((final / "run.json").read_text())
    assert told["base"]["weights_sha256"] == Base.of(base).weights_sha256
    assert told["parameters"]["trained"] < told["parameters"]["total"]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    *_, record = [line for line in lines if "generation" in line]
    assert record["generation"]["answers"] == 1
    assert 0 <= record["generation"]["stop_rate"] <= 1

    merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "merged"))
    merged, ended = load_file(tmp_path / "merged/model.safetensors"), load_file(final / "model.safetensors")
    assert all(merged[name].equal(ended[name]) for name in ended)
    adapted = load_adapted(step, Base.of(base))
    tokens = torch.randint(0, 320, (2, 30))
    torch.testing.assert_close(load_model(final)(tokens), adapted.eval()(tokens), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="no adapter"):
        merge(MergeConfig(checkpoint=base, output_dir=tmp_path / "no"))


@pytest.mark.filterwarnings("ignore")  # transformers' and PEFT's own
def test_transformers_and_peft_read_what_a_run_leaves(base, chats, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = sft(config(base, [chats], tmp_path / "run"))
    tokens = torch.randint(0, 320, (2, 30))
    ours = load_model(final)(tokens)
    theirs = AutoModelForCausalLM.from_pretrained(final)
    torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-4, atol=1e-4)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), final / "adapter").eval()
    torch.testing.assert_close(adapted(tokens).logits, ours, rtol=1e-4, atol=1e-4)
    chat = [{"role": "user", "content": "Hi"}]
    ids = AutoTokenizer.from_pretrained(final).apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    rendered = render([Message("user", "Hi")], read_template(final), Tokenizer.load(final), asks=True)
    assert ids == rendered.ids.tolist()


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_run_that_was_cut_off_ends_as_the_whole_one(base, chats, tmp_path, method):
    """Across epochs, with dropout and noise; the final folder is made again where it is missing."""
    for name in ("whole", "parts"):
        sft(config(base, [chats], tmp_path / name, method=method, neftune_alpha=5.0))
    for name in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / name)
    sft(config(base, [chats], tmp_path / "parts", method=method, neftune_alpha=5.0))
    for name in ("step_20", "final"):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "parts" / name)
    shutil.rmtree(tmp_path / "parts" / "final")
    sft(config(base, [chats], tmp_path / "parts", method=method, neftune_alpha=5.0))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


def test_packed_or_not_a_conversation_has_the_same_loss(base, chats, tmp_path):
    """Nothing leaks from one conversation of a row into the next."""
    found = []
    for packing in (True, False):
        changes = {"training__batch_size": 1, "training__eval_rows": 1000, "schedule__max_steps": 1}
        final = sft(config(base, [chats], tmp_path / str(packing), packing=packing, **changes,
                           optimizer__learning_rate=1e-12))  # fmt: skip
        found += mean_loss(final)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_micro_batches_change_nothing(base, chats, tmp_path):
    found = []
    for micro in (1, 4):
        changes = {"training__batch_size": 4, "training__micro_batch_size": micro, "lora__dropout": 0.0}
        found.append(mean_loss(sft(config(base, [chats], tmp_path / str(micro), **changes)), "loss"))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_is_not_the_same_is_refused(artifacts, base, chats, tmp_path):
    run = tmp_path / "run"
    sft(config(base, [chats], run))
    other = make_base(tmp_path / "other/final", artifacts / "tokenizer", seed=2)
    with pytest.raises(ResumeError, match="base_weights"):
        sft(config(other, [chats], run))
    with pytest.raises(ResumeError, match=r"lora\.r"):
        sft(config(base, [chats], run, lora={"r": 8}))
    with pytest.raises(IntegrityError, match="trained on other weights"):
        merge(MergeConfig(checkpoint=run / "step_20", model_path=other, output_dir=tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()
    with pytest.raises(IntegrityError, match="an adapter, not a whole model"):
        sft(config(run / "step_20", [chats], tmp_path / "next"))
    with pytest.raises(DataError, match="no model at"):
        sft(config(tmp_path / "nothing", [chats], tmp_path / "next"))


def test_templates_do_not_mix(artifacts, base, chats, tuned, tmp_path):
    plain = make_conversations(tmp_path, artifacts / "tokenizer", "plain", template="chat")
    with pytest.raises(ConfigError, match=r"has the template chatml, .* has chat"):
        sft(config(base, [chats, plain], tmp_path / "both"))
    with pytest.raises(ConfigError, match="was tuned with the template chatml, the data have chat"):
        sft(config(tuned, [plain], tmp_path / "again"))
    sft(config(tuned, [chats], tmp_path / "more", schedule__max_steps=1))


def test_four_bits_ask_for_their_library(base, chats, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes"):
        sft(config(base, [chats], tmp_path / "run", method="qlora"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="goes neither with"):
        config(base, [chats], tmp_path / "run", method="qlora", use_trl_trainer=True)


def test_another_tokenizer_is_refused(artifacts, base, chats, tmp_path):
    from lumi.tokenizer import TokenizerConfig, train_tokenizer

    values = {"corpus_dirs": [str(artifacts / "corpus")], "output_dir": str(tmp_path / "tok"), "vocab_size": 330}
    train_tokenizer(TokenizerConfig.from_values(values, "test"))
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch"):
        sft(config(base, [chats], tmp_path / "run", tokenizer_path=str(tmp_path / "tok")))
    other = make_conversations(tmp_path, tmp_path / "tok", "other")
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch"):
        sft(config(base, [other], tmp_path / "run"))


def test_noise_is_scaled_by_the_conversation_and_for_training_only():
    tokens = torch.tensor([[BOS_ID, 20, 21, BOS_ID, 22, PAD_ID, PAD_ID, PAD_ID], [BOS_ID, *range(20, 27)]])
    assert conversation_lengths(tokens).tolist() == [[3, 3, 3, 2, 2, 1, 1, 1], [8] * 8]
    model = create_model(SHAPE)
    plain = model.model.embed_tokens(tokens)
    add_neftune(model, 5.0)
    noise = (model.model.embed_tokens(tokens) - plain).abs()
    for place, length in ((0, 3), (3, 2)):
        bound = 5.0 / (length * SHAPE.d_model) ** 0.5
        assert 0.8 * bound < noise[0, place].max() <= bound
    model.eval()
    assert torch.equal(model.model.embed_tokens(tokens), plain)


def test_frozen_weights_stay_bit_for_bit(base, chats, tmp_path):
    final = sft(config(base, [chats], tmp_path / "run", lora={"r": 4, "targets": ["q_proj"]}))
    before, after = load_file(base / "model.safetensors"), load_file(final / "model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert all("q_proj" in name or name in ("model.embed_tokens.weight", "lm_head.weight") for name in changed)
    rows = (before["lm_head.weight"] != after["lm_head.weight"]).any(1).nonzero().flatten().tolist()
    assert rows == [4, 5]
    assert weights(load_model(base)).keys() == before.keys()
