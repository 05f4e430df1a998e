"""A model that Lumi did not make is measured by the same command, run by transformers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import REPOSITORY
from tokenizers import Tokenizer as Tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.evaluation.language_model import TransformersModel, load_language_model
from lumi.inference import GenerationConfig

TEXT = " ".join(f"The old mill of number {n} stands by the water." for n in range(40))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A small GPT-2 as transformers saves it: no <s>, 64 positions."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    words = Tokenizers(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words.train_from_iterator([TEXT], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def config(gpt2, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    sets = tmp_path / "sets/piqa/validation.jsonl"
    sets.parent.mkdir(parents=True)
    row = {"goal": "stand", "sol1": "by the water", "sol2": "the mill of old", "label": 0}
    sets.write_text(json.dumps(row) + "\n" + json.dumps(row | {"label": 1}) + "\n")
    return EvaluateConfig(
        model_path=gpt2,
        text_files=(tmp_path / "text.txt",),
        tasks=("piqa",),
        data_dir=tmp_path / "sets",
        evaluation_sets=REPOSITORY / "config/evaluation",
        prompts=REPOSITORY / "config/smoke_prompts.json",
        max_new_tokens=3,
        output_dir=tmp_path / "out",
        device="cpu",
    )


def test_the_same_command_measures_it(config, gpt2):
    found = evaluate(config)
    assert found.model.kind == "transformers"
    assert [text.mode for text in found.text] == ["stream", "documents"]
    assert found.text[0].bytes == len(TEXT)
    assert found.tasks[0].accuracies["acc"].value == 0.5  # the same row twice, with the other label
    assert found.generation.form == "continuation"
    assert found.stages is None
    assert not (gpt2 / "README.md").exists()  # its folder is its own


def test_its_first_token_is_scored_behind_its_end_of_text(config, gpt2):
    model = load_language_model(gpt2, device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(model, TransformersModel)
    assert (model.begin, model.prefix, model.context) == ((), 0, 64)
    ids = model.encode("The old mill")
    tokens = torch.tensor([[0, *ids]])
    with torch.no_grad():
        logits = model.model(tokens).logits[0, :-1].double()
    expected = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
    (loss,) = model.losses(tokens[:, :-1], tokens[:, 1:]).sum(1).tolist()
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_greedy_text_and_its_end(gpt2):
    model = load_language_model(gpt2, device=torch.device("cpu"), dtype=torch.float32)
    (one,) = model.complete(["The old"], GenerationConfig(max_new_tokens=4, temperature=0.0))
    assert len(one.token_ids) <= 4
    assert one.text == model.decode(one.token_ids)
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
        model.model.lm_head.weight[0] = 0.0
    (ended,) = model.complete(["The old"], GenerationConfig(max_new_tokens=4, temperature=0.0))  # all equal: the first
    assert (ended.finish_reason, ended.token_ids) == ("stop", ())


def test_a_prompt_without_room_is_named(gpt2):
    model = load_language_model(gpt2, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(DataError, match="prompt 2 has 64 tokens, the model's context is 64"):
        model.complete([[5], [5] * 64], GenerationConfig(max_new_tokens=4))


def test_weights_that_are_missing_are_no_model(gpt2, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(gpt2, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "ln_f" not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="lacks weights, which would be drawn anew: transformer"):
        load_language_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    (folder / "model.safetensors").write_bytes((gpt2 / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_language_model(folder, device=torch.device("cpu"), dtype=torch.float32)


def test_another_tokenizer_in_its_folder_is_another_model(config, gpt2, tmp_path):
    folder = tmp_path / "gpt2"
    shutil.copytree(gpt2, folder)
    config = config.model_copy(update={"model_path": folder, "tasks": (), "prompts": None})
    first = evaluate(config)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][:5]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    assert evaluate(config).text[0].tokens > first.text[0].tokens


def test_packed_data_of_ours_do_not_fit_it(config, made):
    with pytest.raises(ConfigError, match="packed with a tokenizer of ours"):
        evaluate(config.model_copy(update={"data_dirs": (made.packed,)}))


def test_what_is_no_model_is_named(config, gpt2, made, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no model at nobody/nothing: it is no folder, and the hub did not give it"):
        evaluate(config.model_copy(update={"model_path": tmp_path.__class__("nobody/nothing")}))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((gpt2 / "config.json").read_text())
    with pytest.raises(DataError, match="cannot be loaded"):
        evaluate(config.model_copy(update={"model_path": broken}))
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "training_state").mkdir()
    (unfinished / "config.json").write_text((made.final / "config.json").read_text())
    with pytest.raises(IntegrityError, match="incomplete"):  # ours, and never taken for another's
        evaluate(config.model_copy(update={"model_path": unfinished}))
