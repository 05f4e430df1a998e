"""Tasks through lm-eval: our adapter gives what its own `hf` model gives; parts are kept, and found again."""

import importlib
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from tests.conftest import REPOSITORY

from lumi.corpus.evaluation_sets import load_evaluation_sets
from lumi.errors import DataError
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.evaluation.evaluate import results_name
from lumi.evaluation.harness import TASKS, LumiHarness, answer, make_adapter, run_task
from lumi.evaluation.language_model import load_language_model
from lumi.evaluation.likelihood import Likelihood
from lumi.evaluation.results import Evaluation, read_parts
from lumi.tokenizer import EOS_ID

pytest.importorskip("lm_eval")

STAGE = importlib.import_module("lumi.evaluation.measures")
SETS = REPOSITORY / "config/evaluation"
WORDS = "the history of a small old town and its water mill where many people lived".split()  # noqa: SIM905


def text(number, length):
    return " ".join(WORDS[(number * length + place) % len(WORDS)] for place in range(length))


ROWS = {
    "boolq/dev.jsonl": [
        {"passage": text(n, 20), "question": text(n, 4), "answer": n % 3 > 0} for n in range(12)
    ],
    "piqa/validation.jsonl": [
        {"goal": text(n, 5), "sol1": text(n + 1, 3 + n % 3), "sol2": text(n + 2, 4), "label": n % 2} for n in range(12)
    ],
    "winogrande/validation.jsonl": [
        {"sentence": f"{text(n, 4)} _ {text(n, 2)}.", "option1": "town", "option2": "mill", "answer": str(1 + n % 2)}
        for n in range(12)
    ],
    "lambada/test.jsonl": [{"text": text(n, 6 + n)} for n in range(12)],
    "hellaswag/validation.jsonl": [
        {"activity_label": "Mill", "ctx_a": text(n, 4), "ctx_b": "he", "endings": ["old", text(n, 6)], "label": "0"}
        for n in range(6)
    ],
}  # fmt: skip
AT_HAND = ("boolq", "piqa", "winogrande", "lambada")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for name, rows in ROWS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def model(made):
    return load_language_model(made.final, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def harness(data_dir):
    return LumiHarness({one.name: one for one in load_evaluation_sets(SETS)}, data_dir)


@pytest.fixture(scope="module")
def theirs(made):
    logging.disable(logging.WARNING)
    from lm_eval.models.huggingface import HFLM

    yield lambda **options: HFLM(pretrained=str(made.final), device="cpu", dtype="float32", batch_size=4, **options)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", AT_HAND)
def test_our_adapter_gives_what_lm_evals_own_model_gives(harness, model, theirs, data_dir, name):
    ours, other = harness.load(name).task, LumiHarness(harness._sets, data_dir).load(name).task
    adapter = make_adapter(model)
    found = answer(ours, adapter, None)
    expected = answer(other, theirs(add_bos_token=True), None)
    for one, two in zip(ours.instances, other.instances, strict=True):
        assert one.args == two.args
        assert one.resps[0][0] == pytest.approx(two.resps[0][0], abs=1e-3)
        assert one.resps[0][1] == two.resps[0][1]
    assert [row.metrics for row in found] == [pytest.approx(row.metrics, abs=1e-3) for row in expected]
    assert adapter.truncated > 0 or name != "boolq"  # the context is 32 tokens


def test_rolling_equals_lm_evals(model, theirs):
    adapter, other = make_adapter(model), theirs(add_bos_token=False)
    texts = [SimpleNamespace(args=(text(n, length),)) for n, length in enumerate((3, 30, 61))]
    assert adapter.loglikelihood_rolling(texts) == pytest.approx(other.loglikelihood_rolling(texts), rel=1e-5)


def test_greedy_generation_equals_transformers(model, theirs):
    other = theirs(add_bos_token=True)
    for number in range(3):
        prompt = text(number, 4)
        (found,) = make_adapter(model).generate_until([SimpleNamespace(args=(prompt, {"max_gen_toks": 8}))])
        ids = torch.tensor([other.tok_encode(prompt)])
        new = other.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert found == model.decode([token for token in new[0, ids.shape[1] :].tolist() if token > EOS_ID])


def test_generation_ends_at_a_stop_text(model):
    adapter = make_adapter(model)
    (whole,) = adapter.generate_until([SimpleNamespace(args=("the old", {"until": [], "max_gen_toks": 12}))])
    stop = whole[len(whole) // 2 :][:2]
    (cut,) = adapter.generate_until([SimpleNamespace(args=("the old", {"until": stop, "max_gen_toks": 12}))])
    assert cut == whole[: whole.index(stop)]


def test_baselines_and_counts(harness, model):
    boolq, outcomes = run_task(model, harness.load("boolq"), max_rows=None)
    assert (boolq.chance, boolq.majority) == (0.5, pytest.approx(8 / 12))
    assert (boolq.rows, boolq.rows_of_the_whole_set) == (12, 3270)
    assert sum(outcomes.values) / sum(outcomes.weights) == boolq.accuracy.value
    assert boolq.truncated == 12  # one prompt a row, whatever the number of answers
    part, _ = run_task(model, harness.load("boolq"), max_rows=5)
    assert part.rows == 5
    assert "its first 5 rows" in part.protocol
    lambada, _ = run_task(model, harness.load("lambada"), max_rows=None)
    assert (lambada.chance, lambada.majority) == (0.0, None)
    assert lambada.perplexity > 1
    winogrande, _ = run_task(model, harness.load("winogrande"), max_rows=None)
    assert (winogrande.chance, winogrande.majority) == (0.5, 0.5)  # one and two take turns
    piqa, _ = run_task(model, harness.load("piqa"), max_rows=3)
    assert piqa.majority == pytest.approx(2 / 3)


def test_the_long_answer_is_the_likelier_one_per_character(harness, model, monkeypatch):
    """What the metrics are made of: likelihoods of our engine, and which of them a figure and its outcomes take."""
    monkeypatch.setattr(
        "lumi.evaluation.harness.score_continuations",
        lambda model, requests, label: [Likelihood(-2.0 - 0.05 * len(one.continuation), False) for one in requests],
    )
    hellaswag, outcomes = run_task(model, harness.load("hellaswag"), max_rows=None)
    assert (hellaswag.accuracies["acc"].value, hellaswag.accuracies["acc_norm"].value) == (1.0, 0.0)
    assert hellaswag.accuracy == hellaswag.accuracies["acc_norm"]
    assert set(outcomes.values) == {0.0}


def test_rows_are_paired_by_all_that_was_asked(harness, model, data_dir):
    one, other = (run_task(model, harness.load(name), max_rows=4)[1] for name in ("boolq", "piqa"))
    assert one.pairing != other.pairing
    path = data_dir / "boolq/dev.jsonl"
    rows = path.read_text().splitlines()
    try:
        path.write_text("\n".join([*rows[:3], json.dumps({**json.loads(rows[3]), "question": "another"})]) + "\n")
        fresh = LumiHarness(harness._sets, data_dir)
        assert run_task(model, fresh.load("boolq"), max_rows=4)[1].pairing != one.pairing
    finally:
        path.write_text("\n".join(rows) + "\n")


def test_columns_of_several_types_are_named(harness, data_dir, tmp_path):
    (tmp_path / "lambada").mkdir()
    (tmp_path / "lambada/test.jsonl").write_text('{"text": "a b", "note": 1}\n{"text": "a b", "note": [1]}\n')
    with pytest.raises(DataError, match="do not go together"):
        LumiHarness(harness._sets, tmp_path).load("lambada")


def test_every_task_is_declared():
    sets = {one.name for one in load_evaluation_sets(SETS)}
    assert {spec.evaluation_set for spec in TASKS.values()} <= sets


@pytest.fixture
def config(made, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return EvaluateConfig(
        model_path=made.final,
        data_dirs=(made.packed,),
        baselines=False,
        tasks=("boolq", "arc_easy", "piqa"),
        data_dir=data_dir,
        evaluation_sets=SETS,
        prompts=None,
        output_dir=tmp_path / "out",
        device="cpu",
    )


def test_a_set_that_is_not_there_costs_only_its_own_part(config, capsys):
    with pytest.raises(DataError, match="1 of 4 parts could not be measured: task-arc_easy"):
        evaluate(config)
    folder = config.output_dir / results_name(config.model_path)
    found = Evaluation.model_validate_json((folder / "results.json").read_bytes())
    assert [task.task for task in found.tasks] == ["boolq", "piqa"]
    assert [missing.name for missing in found.missing] == ["task-arc_easy"]
    assert "hub is out of reach" in found.missing[0].why
    assert "task-arc_easy" in (folder / "results.md").read_text()
    assert "arc_easy/test.jsonl" in capsys.readouterr().err  # where it may lie


def test_the_same_command_again_goes_on_with_what_is_missing(config, data_dir, monkeypatch, capsys):
    with pytest.raises(DataError):
        evaluate(config)
    before = read_parts(config.output_dir / results_name(config.model_path))
    row = {"question": "where", "choices": {"text": ["the town", "a mill"], "label": ["A", "B"]}, "answerKey": "B"}
    path = data_dir / "arc_easy/test.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    asked = []
    monkeypatch.setattr(
        STAGE,
        "run_task",
        lambda model, loaded, **options: asked.append(loaded.name) or run_task(model, loaded, **options),
    )
    try:
        found = evaluate(config)
    finally:
        path.unlink()
    assert asked == ["arc_easy"]
    assert [task.task for task in found.tasks] == ["boolq", "arc_easy", "piqa"]
    after = read_parts(config.output_dir / results_name(config.model_path))
    assert {name: after[name] for name in before} == before
    assert found.tasks[1].chance == 0.5


def test_other_rows_are_measured_anew(config, monkeypatch):
    config = config.model_copy(update={"tasks": ("boolq",), "data_dirs": ()})
    asked = []
    monkeypatch.setattr(
        STAGE,
        "run_task",
        lambda model, loaded, **options: asked.append(options) or run_task(model, loaded, **options),
    )
    evaluate(config)
    evaluate(config)
    evaluate(config.model_copy(update={"max_rows": 4}))
    assert [one["max_rows"] for one in asked] == [None, 4]
