"""Smoke prompts and stages: what is written, in which form, and by whom."""

import json
import shutil

import pytest
import torch
from tests.conftest import REPOSITORY
from tests.sft_runs import config as sft_config

from lumi.config import read_json_object
from lumi.conversation import read_template
from lumi.errors import ConfigError
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.evaluation.language_model import LumiModel
from lumi.evaluation.smoke import SmokePrompts, ask_stages, earlier_models, write_samples
from lumi.inference import GenerationConfig
from lumi.model import load_model
from lumi.posttraining import sft
from lumi.posttraining.chat_samples import ChatSamples
from lumi.tokenizer import Tokenizer

PROMPTS = SmokePrompts(
    continue_={"animals": ("The fox", "A dog"), "places": ("It is at",)},
    answer={"animals": ("Where is the fox?", "Where is the dog?"), "why": ("Why?",)},
)
SETTINGS = GenerationConfig(max_new_tokens=6, temperature=0.7, seed=3)


@pytest.fixture(scope="module")
def tuned(base, chats, tmp_path_factory):
    return sft(sft_config(base, [chats], tmp_path_factory.mktemp("tuned"), schedule__max_steps=4))


def load(path):
    return LumiModel(load_model(path), Tokenizer.load(path))


def test_a_base_model_continues(base):
    found = write_samples(load(base), None, PROMPTS, SETTINGS)
    assert found.form == "continuation"
    assert [(s.category, s.prompt) for s in found.samples] == [
        ("animals", "The fox"), ("animals", "A dog"), ("places", "It is at"),
    ]  # fmt: skip
    assert list(found.figures) == ["all", "animals", "places"]
    assert (found.figures["all"]["answers"], found.figures["animals"]["answers"]) == (3, 2)
    alone = load(base).complete(["The fox"], SETTINGS)[0]
    assert found.samples[0].text == alone.text
    assert all(sample.language is None for sample in found.samples if len(sample.text.strip()) < 40)


def test_a_tuned_model_answers_in_its_template(tuned):
    template = read_template(tuned)
    found = write_samples(load(tuned), template, PROMPTS, SETTINGS)
    assert found.form == "answer"
    assert "chatml" in found.protocol
    ask = ChatSamples(Tokenizer.load(tuned), template, [s.prompt for s in found.samples], 6)
    ask.settings = SETTINGS.model_copy(update={"stop_ids": template.stop_ids})
    assert [sample.text for sample in found.samples] == [one.text.strip() for one in ask.answers(load_model(tuned))]


def test_each_stage_is_asked_the_same(base, tuned):
    assert earlier_models(tuned) == [base]
    found = ask_stages(
        [base, tuned], read_template(tuned), PROMPTS.answer, SETTINGS, torch.device("cpu"), torch.float32
    )
    assert [stage.endswith("final") for stage in found.stages] == [True, True]
    assert [one.prompt for one in found.answers] == ["Where is the fox?", "Where is the dog?", "Why?"]
    assert all(len(one.answers) == 2 for one in found.answers)
    after = write_samples(load(tuned), read_template(tuned), PROMPTS, SETTINGS)
    assert [one.answers[1] for one in found.answers] == [sample.text for sample in after.samples]
    assert found.figures[1] == {k: v for k, v in after.figures["all"].items() if k != "english"}
    before = write_samples(load(base), read_template(tuned), PROMPTS, SETTINGS)
    assert [one.answers[0] for one in found.answers] == [sample.text for sample in before.samples]


def test_a_base_that_is_gone_ends_the_chain(tuned, tmp_path):
    alone = tmp_path / "final"
    shutil.copytree(tuned, alone)
    run = read_json_object(alone / "run.json")
    run["base"]["path"] = str(tmp_path / "gone")
    (alone / "run.json").write_text(json.dumps(run))
    assert earlier_models(alone) == []
    run["base"] = {"path": str(tuned), "weights_sha256": "of another"}  # there, and another model
    (alone / "run.json").write_text(json.dumps(run))
    assert earlier_models(alone) == []
    (alone / "run.json").unlink()
    assert earlier_models(alone) == []


def test_evaluate_asks_them(tuned, tmp_path):
    (tmp_path / "prompts.json").write_text(
        json.dumps({"continue": {"a": ["The"]}, "answer": {"a": ["Where is the fox?"]}})
    )
    config = EvaluateConfig(
        model_path=tuned, tasks=(), prompts=tmp_path / "prompts.json", max_new_tokens=4, output_dir=tmp_path / "out",
        device="cpu",
    )  # fmt: skip
    found = evaluate(config)
    assert found.generation.form == "answer"
    assert len(found.stages.stages) == 2
    without = evaluate(config.model_copy(update={"stages": False, "output_dir": tmp_path / "other"}))
    assert without.stages is None


@pytest.mark.parametrize(
    "values", [{"continue": {"a": ["x"]}}, {"continue": {}, "answer": {"a": "x"}}, {"answers": {}}]
)
def test_prompts_that_are_not_as_described(tmp_path, values):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError):
        SmokePrompts.read(path)


def test_the_shipped_prompts_are_read():
    shipped = SmokePrompts.read(REPOSITORY / "config/smoke_prompts.json")
    assert shipped.answer
    assert shipped.continue_
