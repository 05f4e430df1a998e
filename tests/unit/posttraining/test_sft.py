"""SFT through the engine: what a run leaves, what it refuses, and that it learns."""

import json
import re
import shutil
import sys

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
from lumi.posttraining.sft import SupervisedFineTuning
from lumi.tokenizer import BOS_ID, PAD_ID, Tokenizer
from lumi.training import Ranks, verify_checkpoint
from lumi.training.resume import Start


def mean_loss(folder, key="val_loss"):
    found = [record[key] for record in losses(folder) if record.get(key)]
    return [sum(one.values()) / len(one) if isinstance(one, dict) else one for one in found]


LEARN = {"schedule__max_steps": 120, "training__save_steps": 120, "training__batch_size": 4}


@pytest.fixture(scope="module")
def tuned(base, chats, tmp_path_factory):
    """A model that has learned the conversations, with all of its weights."""
    return sft(config(base, [chats], tmp_path_factory.mktemp("tuned"), method="full", **LEARN))


def flip_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


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
    assert len({path.stat().st_mode for path in (step / "adapter").iterdir()}) == 1
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


class TestMerge:
    @pytest.fixture(scope="class")
    def step(self, base, chats, tmp_path_factory):
        run = tmp_path_factory.mktemp("merge") / "run"
        sft(config(base, [chats], run))
        return run / "step_20"

    def test_nothing_that_stands_there_is_lost(self, base, step, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/thesis.txt").write_text("years of work")
        (tmp_path / "file").write_text("a file")
        for target in (tmp_path / "mine", tmp_path / "file", base, step, step.parent / "best"):
            with pytest.raises(ConfigError, match="holds something else"):
                merge(MergeConfig(checkpoint=step, output_dir=target))
        assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
        verify_checkpoint(base)
        verify_checkpoint(step)

    def test_found_again_and_made_anew_for_another_step(self, step, tmp_path):
        merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "out"))
        before = (tmp_path / "out/model.safetensors").stat().st_mtime_ns
        merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "out"))
        assert (tmp_path / "out/model.safetensors").stat().st_mtime_ns == before
        merge(MergeConfig(checkpoint=step.parent / "step_10", output_dir=tmp_path / "out"))
        assert (tmp_path / "out/model.safetensors").stat().st_mtime_ns != before

    def test_a_merged_model_that_says_something_else_is_refused(self, step, tmp_path, monkeypatch):
        """Also where only the rows of the control symbols, which no text has, are wrong."""
        merging = sys.modules["lumi.posttraining.merge"]
        right = merging.merged_weights

        def wrong(model, base):
            found = right(model, base)
            found["model.embed_tokens.weight"][[4, 5]] += 0.1
            return found

        monkeypatch.setattr(merging, "merged_weights", wrong)
        monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 100))
        with pytest.raises(IntegrityError, match="more than rounding explains"):
            merge(MergeConfig(checkpoint=step, output_dir=tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_a_base_that_is_damaged_or_gone(self, chats, step, base, tmp_path):
        shutil.copytree(base, tmp_path / "base")
        flip_last_bit(tmp_path / "base/model.safetensors")
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            merge(MergeConfig(checkpoint=step, model_path=tmp_path / "base", output_dir=tmp_path / "out"))
        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            sft(config(tmp_path / "base", [chats], tmp_path / "run"))
        shutil.copytree(base, tmp_path / "gone")
        sft(config(tmp_path / "gone", [chats], tmp_path / "run", schedule__max_steps=1))
        shutil.rmtree(tmp_path / "gone")
        with pytest.raises(ConfigError, match="and is not there"):
            merge(MergeConfig(checkpoint=tmp_path / "run/step_1", output_dir=tmp_path / "out"))
        merge(MergeConfig(checkpoint=tmp_path / "run/step_1", model_path=base, output_dir=tmp_path / "out"))


class TestExplicitResume:
    @pytest.fixture(scope="class")
    def run(self, base, chats, tmp_path_factory):
        run = tmp_path_factory.mktemp("resume") / "run"
        sft(config(base, [chats], run))
        return run

    @pytest.mark.parametrize("changes, named", [
        ({"lora": {"r": 4, "alpha": 800, "dropout": 0.1}}, r"lora\.alpha: 8\.0 -> 800"),
        ({"method": "full"}, "method: lora -> full"),
        ({"method": "qlora"}, "method: lora -> qlora"),
    ])  # fmt: skip
    def test_the_model_stays_what_it_is(self, base, chats, run, tmp_path, changes, named):
        again = config(base, [chats], tmp_path / "next", resume_from_checkpoint=str(run / "step_10"), **changes)
        with pytest.raises(ResumeError, match=named):
            sft(again)

    def test_so_do_its_base_and_its_template(self, artifacts, base, chats, run, tmp_path):
        step = {"resume_from_checkpoint": str(run / "step_10")}
        other = make_base(tmp_path / "other/final", artifacts / "tokenizer", seed=2)
        with pytest.raises(ResumeError, match="base_weights"):
            sft(config(other, [chats], tmp_path / "next", **step))
        plain = make_conversations(tmp_path, artifacts / "tokenizer", "plain", template="chat")
        with pytest.raises(ResumeError, match="template: chatml -> chat"):
            sft(config(base, [plain], tmp_path / "next", **step))

    def test_other_rows_are_other_data_and_a_new_rate_is_announced(self, base, chats, run, tmp_path, capsys):
        step = {"resume_from_checkpoint": str(run / "step_10"), "schedule__max_steps": 12}
        sft(config(base, [chats], tmp_path / "unpacked", packing=False, **step))
        assert "new data phase" in capsys.readouterr().err
        sft(config(base, [chats], tmp_path / "slower", optimizer__learning_rate=0.001, **step))
        assert "optimizer.learning_rate: 0.01 -> 0.001" in capsys.readouterr().err


def test_data_that_hold_out_other_questions_are_refused(artifacts, base, chats, tmp_path):
    for name, change in (("fraction", {"val_fraction": 0.5}), ("seed", {"seed": 1})):
        other = make_conversations(tmp_path, artifacts / "tokenizer", name, **change)
        with pytest.raises(ConfigError, match="hold out other questions"):
            sft(config(base, [chats, other], tmp_path / "run"))


def test_what_would_end_a_run_later_ends_it_at_once(artifacts, base, chats, tmp_path):
    with pytest.raises(ConfigError, match=r"sample prompt .* has .* tokens, the model's context 128"):
        sft(config(base, [chats], tmp_path / "run", sample_prompts=["fox " * 200]))
    with pytest.raises(ConfigError, match="sample_prompts"):
        config(base, [chats], tmp_path / "run", sample_prompts=[" "])
    long = make_conversations(tmp_path, artifacts / "tokenizer", "long", sequence_length=129)
    with pytest.raises(ConfigError, match="rows of 129 tokens, the model takes 128"):
        sft(config(base, [long], tmp_path / "run"))
    run = tmp_path / "own"
    final = sft(config(base, [chats], run, method="full", schedule__max_steps=1))
    with pytest.raises(ConfigError, match="with the model to begin with"):
        sft(config(final, [chats], run, fresh=True))
    with pytest.raises(ConfigError, match="neither resume nor fresh"):
        config(base, [chats], run, use_trl_trainer=True, fresh=True)


def test_a_flipped_bit_in_the_conversations_stops_a_run(base, chats, tmp_path):
    shutil.copytree(chats, tmp_path / "chats")
    flip_last_bit(tmp_path / "chats/train_00000.tokens.npy")
    with pytest.raises(IntegrityError, match=r"train_00000\.tokens\.npy"):
        sft(config(base, [tmp_path / "chats"], tmp_path / "run"))


def recipe_of(*args, **changes):
    recipe = SupervisedFineTuning(config(*args, **changes))
    loader = recipe.open_data(Ranks(0, 1, torch.device("cpu")))
    loader.close()
    return recipe, loader


def test_a_config_reaches_what_it_is_about(artifacts, base, chats, tmp_path):
    other = make_conversations(tmp_path, artifacts / "tokenizer", "other", rows={"start": 100, "count": 90})
    both = [chats, other]
    one, loader = recipe_of(base, both, tmp_path / "run", data_weights=[0.9, 0.1])
    assert loader.sampler.rows_drawn(100) == [90, 10]
    next_seed, _ = recipe_of(base, both, tmp_path / "run", training__seed=1)
    rows = [[recipe.datasets[0].conversations_in(n) for n in range(3)] for recipe in (one, next_seed)]
    assert rows[0] != rows[1]
    first, second = (r.make_model(Start(None)).model.layers[0].self_attn.q_proj.lora_A.weight for r in (one, next_seed))
    assert not torch.equal(first, second)
    one.datasets[0].documents_per_row = lambda: 1
    assert one.objective().documents_per_row == max(d.documents_per_row() for d in (*one.datasets, *one.held_out))
    one.held_out[0].documents_per_row = lambda: 77
    assert one.objective().documents_per_row == 77
    assert one.sampler().settings.stop_ids == one.template.stop_ids

    noisy, _ = recipe_of(base, [chats], tmp_path / "run", neftune_alpha=5.0)
    for recipe, same in ((noisy, False), (one, True)):
        model = recipe.make_model(Start(None)).train()
        tokens = torch.tensor([[BOS_ID, 30, 31, 32]])
        assert torch.equal(model.model.embed_tokens(tokens), model.model.embed_tokens(tokens)) == same


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
