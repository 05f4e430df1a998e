"""Targets and verdicts, published figures, and what is written."""

import os
from functools import partial
from pathlib import Path

import pytest
from tests.results_folders import SMALL, TINY, first_right, subject, task_part, text_of, trained, write_folder

from lumi.assessment.assess import ASSESSMENT, ASSESSMENT_TEXT, AssessConfig, Assessment, assess
from lumi.assessment.references import References
from lumi.assessment.targets import Target, Targets
from lumi.errors import ConfigError, DataError
from lumi.model import ModelConfig, count_parameters

REPOSITORY = Path(__file__).parents[3]
TARGETS = REPOSITORY / "config/evaluation_targets.json"
REFERENCES = REPOSITORY / "config/evaluation_references.json"
GOOD = (text_of(70), task_part(first_right(0.66)))


def assessed(folder, **more):
    return assess(AssessConfig(results=folder, targets=TARGETS, references=REFERENCES, **more))


@pytest.fixture
def run(tmp_path):
    return partial(trained, tmp_path)


def by_title(assessment):
    return {one.title: one for one in assessment.targets}


def test_in_the_band_is_a_pass(tmp_path):
    found = by_title(assessed(write_folder(tmp_path / "r", subject(), GOOD)))
    text, task = found["WikiText-2 perplexity"], found["BoolQ accuracy"]
    assert (text.status, text.band) == ("pass", "50 to 80")
    assert text.value == pytest.approx(70)
    assert "in the band" in text.words
    assert "Token perplexity of a sliding window: stream, window 1024" in text.words
    assert (task.status, task.band) == ("pass", "55% to 65%")
    assert "above the band" in task.words
    assert task.shown.startswith("66.0% \u00b1 0.8%")


def test_better_than_the_band_is_a_pass_and_worse_a_fail(tmp_path):
    found = by_title(assessed(write_folder(tmp_path / "better", subject(), [text_of(40)])))
    assert found["WikiText-2 perplexity"].status == "pass"
    assert "which is better" in found["WikiText-2 perplexity"].words
    found = by_title(assessed(write_folder(tmp_path / "worse", subject(), [text_of(160)])))
    assert found["WikiText-2 perplexity"].status == "fail"
    assert "2.0 times the upper edge" in found["WikiText-2 perplexity"].words


def test_near_an_edge_is_said(tmp_path):
    found = by_title(assessed(write_folder(tmp_path / "r", subject(), [text_of(80.01)])))
    assert found["WikiText-2 perplexity"].status == "fail"
    assert "within two standard errors of its edge" in found["WikiText-2 perplexity"].words


def test_the_error_of_a_perplexity(tmp_path):
    """By the delta method, against the perplexities at one error more and less."""
    part = text_of(70)
    error = by_title(assessed(write_folder(tmp_path / "r", subject(), [part])))["WikiText-2 perplexity"].standard_error
    measured = part.text
    at = [
        2 ** ((measured.bits_per_byte + sign * measured.standard_error) * measured.bytes / measured.tokens)
        for sign in (-1, 1)
    ]
    assert error == pytest.approx((at[1] - at[0]) / 2, rel=1e-3)


@pytest.mark.parametrize(
    "share, words",
    [(0.622, "not told from the most frequent answer"), (0.58, "worse than"), (0.51, "below the band")],
)
def test_what_always_yes_reaches_too_is_no_pass(tmp_path, share, words):
    """0.58 and 0.622 are inside the blueprint's band for tiny."""
    found = by_title(assessed(write_folder(tmp_path / "r", subject(), [task_part(first_right(share))])))
    task = found["BoolQ accuracy"]
    assert task.status == "baseline only"
    assert words in task.words
    assert "(62.2%)" in task.words


def test_below_the_band_and_better_than_the_baseline_is_a_fail(tmp_path):
    model = subject(parameters=SMALL)
    assessment = assessed(write_folder(tmp_path / "r", model, [task_part(first_right(0.645), whole=9999)]))
    assert assessment.size == "small"
    task = by_title(assessment)["BoolQ accuracy"]
    assert task.status == "fail"
    assert "3,270 of 9,999 rows" in task.words


def test_what_was_not_measured_is_not_judged(tmp_path):
    documents = text_of(70, mode="documents")
    other = text_of(60, name="wikitext2_train_5k.txt")
    found = by_title(assessed(write_folder(tmp_path / "r", subject(), [documents, other])))
    assert found["WikiText-2 perplexity"].status == "not measured"
    assert "documents only" in found["WikiText-2 perplexity"].words
    assert found["BoolQ accuracy"].status == "not measured"
    speed = found["tokens/s, decoding, RTX 4090"]
    assert (speed.status, speed.band) == ("not measured", "at least 2,000")
    assert "needs that card" in speed.words


@pytest.mark.parametrize(
    "parameters, size",
    [(TINY, "tiny"), (int(TINY * 1.25), "tiny"), (int(TINY * 1.26), None), (SMALL, "small"), (276_861_696, "base"),
     (124_000_000, None), (2_000_000, None)],
)  # fmt: skip
def test_the_nearest_size_within_a_quarter(tmp_path, parameters, size):
    assessment = assessed(write_folder(tmp_path / "r", subject(parameters=parameters), GOOD))
    assert assessment.size == size
    if size is None:
        assert assessment.targets == ()
        assert any(note.startswith("No target for this size") for note in assessment.notes)


def test_the_sizes_are_those_of_the_shipped_shapes():
    shapes = {"tiny": (6, 256, 4), "small": (12, 512, 8), "base": (24, 768, 12)}
    for size in Targets.load(TARGETS).sizes:
        layers, width, heads = shapes[size.name]
        shape = ModelConfig(
            vocab_size=32768, n_layer=layers, d_model=width, n_head=heads, head_dim=64, sequence_length=1024
        )
        assert count_parameters(shape).total == size.parameters


def test_published_figures_stand_beside_measured_ones(tmp_path, capsys):
    lambada = task_part(first_right(0.2, 5153), "lambada", title="LAMBADA", majority=None, chance=0.0)
    folder = write_folder(tmp_path / "r", subject(), [*GOOD, lambada])
    assessment = assessed(folder)
    rows = {(row.task, row.metric): row for row in assessment.references}
    assert set(rows) == {("lambada", "acc"), ("wikitext2", "token_perplexity")}  # BoolQ is published nowhere here
    published = dict(zip(assessment.reference_models, rows["lambada", "acc"].published, strict=True))
    assert published["Pythia 160M"] == 0.3284
    assert published["SmolLM 135M"] is None
    text = (folder / ASSESSMENT_TEXT).read_text(encoding="utf8")
    assert "github.com/EleutherAI/pythia, evals/pythia-v1/pythia-160m" in text
    assert "0.200 \u00b1 0.006" in text
    assert "Beside published models" in capsys.readouterr().out


def test_every_published_figure_has_its_source_and_protocol():
    references = References.load(REFERENCES)
    assert len(references.models) == 5
    for model in references.models:
        seen = [(figure.task, figure.metric) for source in model.sources for figure in source.figures]
        assert len(seen) == len(set(seen)), f"{model.name}: two figures of one name"
        for source in model.sources:
            assert source.protocol
            assert source.source.startswith(("github.com/", "huggingface.co/"))
            assert all(0 < one.value < 1 for one in source.figures if one.metric.startswith("acc"))


def test_files_print_and_nothing_wider_than_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    folder = write_folder(tmp_path / "r", subject(), GOOD)
    assessment = assessed(folder)
    assert Assessment.model_validate_json((folder / ASSESSMENT).read_bytes()) == assessment
    shown = capsys.readouterr().out
    tables = [line.rstrip() for line in shown.splitlines() if line.startswith("  ")]
    assert max(map(len, tables)) <= 80
    assert "pass" in shown
    assert "4 targets: 2 pass, 2 not measured." in " ".join(shown.split())
    assert "| WikiText-2 perplexity | 50 to 80 | 70.00" in (folder / ASSESSMENT_TEXT).read_text(encoding="utf8")


def test_the_newest_results_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no results in evaluation_results") as error:
        assessed(None)
    assert "lumi evaluate" in error.value.way_out
    for age, name in ((200, "older"), (100, "newer"), (300, "oldest")):
        folder = write_folder(tmp_path / "evaluation_results" / name, subject(name), GOOD)
        now = (folder / "results.json").stat().st_mtime
        os.utime(folder / "results.json", (now - age, now - age))
    assert assessed(None).model.name == "newer"


def test_nothing_is_known_of_a_model_without_a_record(tmp_path, run):
    assessment = assessed(write_folder(tmp_path / "r", subject(), GOOD))
    assert any("no record of its training" in note for note in assessment.notes)
    assert assessment.suggestions == ()
    replaced = run().model_copy(update={"sha256": "0" * 64})
    assessment = assessed(write_folder(tmp_path / "replaced", replaced, GOOD))
    assert any("not the model that was measured any more" in note for note in assessment.notes)
    assert assessment.suggestions == ()


def test_a_record_that_cannot_be_read_is_no_error(tmp_path, run):
    model = run()
    (Path(model.path) / "run.json").write_text("{")
    assessment = assessed(write_folder(tmp_path / "r", model, GOOD))
    assert any("cannot be read" in note for note in assessment.notes)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"title": "T", "measure": "accuracy", "names": ["boolq"], "low": 0.5}, "names, low and high"),
        ({"title": "T", "measure": "elsewhere", "low": 1}, "how says how"),
        ({"title": "T", "measure": "speed"}, "measure"),
    ],
)
def test_targets_that_cannot_be_judged(values, message):
    with pytest.raises(ConfigError, match=message):
        Target.from_values(values, "test")
