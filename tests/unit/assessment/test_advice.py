"""What is suggested, with its evidence and the command."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.results_folders import TINY, first_right, task_part, text_of, text_part, trained, write_folder

from lumi.assessment.assess import AssessConfig, assess
from lumi.evaluation.results import Compression, GenerationResult, Missing

REPOSITORY = Path(__file__).parents[3]
SIZES = np.full(400, 1000.0)
GOOD = (text_of(70), task_part(first_right(0.66)))


@pytest.fixture
def run(tmp_path):
    return partial(trained, tmp_path)


def suggested(folder):
    config = REPOSITORY / "config"
    found = assess(
        AssessConfig(
            results=folder,
            targets=config / "evaluation_targets.json",
            references=config / "evaluation_references.json",
        )
    )
    return {one.what: one for one in found.suggestions}


def one_of(suggestions, beginning):
    (found,) = [one for what, one in suggestions.items() if what.startswith(beginning)]
    return found


def test_too_few_tokens(tmp_path, run):
    model = run({"tokens": 5 * TINY, "step": 1760})
    found = one_of(suggested(write_folder(tmp_path / "r", model, GOOD)), "Pretrain longer")
    assert "5.0 per parameter" in found.evidence
    assert found.command == "lumi pretrain --config config/tiny.json --max_steps 7040"


def test_a_size_of_ones_own_has_no_config_of_ours(tmp_path, run):
    model = run({"tokens": 2_000_000, "parameters": {"total": 2_000_000}}, parameters=2_000_000)
    found = one_of(suggested(write_folder(tmp_path / "r", model, GOOD)), "Pretrain longer")
    assert found.command.startswith("lumi pretrain --config CONFIG --max_steps")


def test_text_that_was_repeated(tmp_path, run):
    metrics = [
        {"step": 7000, "loss": 3.2, "epochs": {"wiki": 11.0, "owt": 2.0}},
        {"step": 7040, "val_loss": {"wiki": 3.8}},
    ]
    found = one_of(suggested(write_folder(tmp_path / "r", run(metrics=metrics), GOOD)), "Train on more text")
    assert found.evidence == "wiki was gone through 11.0 times; training loss 3.20, held-out loss 3.80"
    assert found.command == "make prepare-mix MIX=tiny"


def test_an_earlier_checkpoint_that_was_better(tmp_path, run):
    metrics = [{"step": s, "val_loss": {"a": loss}} for s, loss in ((100, 3.0), (200, 2.9), (300, 3.1))]
    found = one_of(suggested(write_folder(tmp_path / "r", run(metrics=metrics), GOOD)), "Take the checkpoint")
    assert found.evidence == "held-out loss 2.900 at step 200, 3.100 at step 300"
    assert found.command.startswith(f"lumi evaluate --model_path {tmp_path / 'run/best'}")


def test_unsteady_training_comes_first(tmp_path, run):
    metrics = [{"step": 10, "loss": 9.0, "spike": True, "bad_steps": 0}, {"step": 20, "loss": 5.0, "bad_steps": 3}]
    suggestions = suggested(write_folder(tmp_path / "r", run({"tokens": TINY}, metrics), GOOD))
    first = next(iter(suggestions.values()))
    assert "3 steps had a loss or gradient that is not finite" in first.evidence
    assert "first at 10; the learning rate was 0.004" in first.evidence
    assert first.command == "lumi pretrain --config config/tiny.json --learning_rate 0.002 --fresh"


def test_counting_that_predicts_better(tmp_path, run):
    compression = tuple(
        Compression(data="wiki", name=name, bits_per_byte=bits, about="") for name, bits in
        (("this model", 1.856), ("token trigram", 1.785))
    )  # fmt: skip
    folder = write_folder(tmp_path / "r", run(), GOOD, compression=compression)
    found = one_of(suggested(folder), "Train until it beats counting")
    assert found.evidence == "wiki: 1.856 bits per byte, token trigram 1.785"
    folder = write_folder(tmp_path / "few", run({"tokens": TINY}, folder="few"), GOOD, compression=compression)
    suggestions = suggested(folder)
    assert "token trigram 1.785" in one_of(suggestions, "Pretrain longer").evidence
    assert not [what for what in suggestions if what.startswith("Train until")]  # one of the two is enough


def test_answers_that_do_not_end_and_repeat_themselves(tmp_path, run):
    run(folder="base")
    base = {"path": str(tmp_path / "base/final"), "weights_sha256": "weights of base"}
    model = run({"base": base, "step": 700, "tokens": 10_000_000})
    written = GenerationResult(
        protocol="p", form="answer", figures={"all": {"stop_rate": 0.3, "repetition": 0.5}}, samples=()
    )
    suggestions = suggested(write_folder(tmp_path / "r", model, GOOD, generation=written))
    found = one_of(suggestions, "Tune longer")
    assert found.evidence == "30% of its answers ended before their longest length"
    assert found.command == "lumi sft --config config/sft_training/lora_tiny.json --max_steps 1400"
    assert "--repetition_penalty" in one_of(suggestions, "Sample with a penalty").command
    assert not [what for what in suggestions if what.startswith("Pretrain longer")]  # its base had its tokens


def test_a_tuned_models_tokens_are_those_of_the_model_it_came_from(tmp_path, run):
    run({"tokens": TINY}, folder="base")
    base = {"path": str(tmp_path / "base/final"), "weights_sha256": "weights of base"}
    model = run({"base": base, "tokens": 30 * TINY})
    assert (
        "1.0 per parameter" in one_of(suggested(write_folder(tmp_path / "r", model, GOOD)), "Pretrain longer").evidence
    )
    other = run({"base": {**base, "weights_sha256": "of another"}}, folder="other")
    assert not [what for what in suggested(write_folder(tmp_path / "o", other, GOOD)) if what.startswith("Pretrain")]


def test_other_text_that_is_hard(tmp_path, run):
    own = text_part(np.full(400, 1200.0), SIZES, "wiki", mode="rows", kind="held_out")
    far = text_part(np.full(400, 2400.0), SIZES)
    found = one_of(suggested(write_folder(tmp_path / "r", run(), [own, far])), "Mix in text")
    assert found.evidence.startswith("2.400 bits per byte on wiki.test.raw (stream), 1.200")


def test_the_next_size_and_the_next_stage(tmp_path, run):
    model = run()
    suggestions = suggested(write_folder(tmp_path / "missed", model, [text_of(160), task_part(first_right(0.62))]))
    found = one_of(suggestions, "Train the next size, small")
    assert found.command == "make pretrain-small"
    assert "BoolQ accuracy 62.0% \u00b1 0.8% (baseline only)" in found.evidence
    suggestions = suggested(write_folder(tmp_path / "good", model, GOOD))
    assert [one.command for one in suggestions.values()] == ["make prepare-sft-corpus sft-train-tiny"]
    run(folder="base")
    base = {"path": str(tmp_path / "base/final"), "weights_sha256": "weights of base"}
    tuned = run({"base": base}, folder="tuned")
    suggestions = suggested(write_folder(tmp_path / "tuned_results", tuned, GOOD))
    assert [one.command for one in suggestions.values()] == ["make prepare-dpo-corpus dpo-train-tiny"]
    dpo = run({"base": base}, [{"step": 1, "val_preference_accuracy": {"a": 0.6}}], folder="dpo")
    assert suggested(write_folder(tmp_path / "dpo_results", dpo, GOOD)) == {}


def test_what_is_missing_is_asked_for(tmp_path, run):
    folder = write_folder(tmp_path / "r", run(), [text_of(70)], missing=(Missing(name="task-piqa", why="no file"),))
    found = one_of(suggested(folder), "Measure what is missing")
    assert found.evidence == "not in the results: BoolQ accuracy, task-piqa"
    assert found.command == f"lumi evaluate --model_path {tmp_path / 'run/final'} --output_dir {tmp_path}"


def test_five_suggestions_at_most(tmp_path, run):
    metrics = [
        {"step": 10, "loss": 3.0, "spike": True, "epochs": {"a": 30.0}},
        {"step": 10, "val_loss": {"a": 3.5}},
        {"step": 20, "val_loss": {"a": 4.5}},
    ]
    written = GenerationResult(
        protocol="p", form="answer", figures={"all": {"stop_rate": 0.3, "repetition": 0.5}}, samples=()
    )
    own = text_part(np.full(400, 100.0), SIZES, "wiki", mode="rows", kind="held_out")
    folder = write_folder(tmp_path / "r", run({"tokens": TINY}, metrics), [own, text_of(160)], generation=written)
    assert len(suggested(folder)) == 5
