"""Models side by side: what is tested, what is not and why, and what is said of it."""

import json
import re

import numpy as np
import pytest
from tests.results_folders import SMALL, subject, task_part, text_part, write_folder

from lumi.artifacts import sha256_file
from lumi.config import parse_config
from lumi.errors import ConfigError, DataError
from lumi.evaluation.compare import CompareConfig, compare
from lumi.evaluation.comparison import Comparison
from lumi.evaluation.results import PARTS, RESULTS

DRAWS = np.random.default_rng(0)
SIZES = DRAWS.integers(400, 2000, 200).astype(float)
HARDNESS = 1.8 + 0.4 * DRAWS.standard_normal(200)
ROWS = DRAWS.random(400)


def bits(change=0.0, seed=1):
    return SIZES * (HARDNESS + change + 0.05 * np.random.default_rng(seed).standard_normal(200))


def answers(share, seed=1):
    """Rows that a model of this skill gets right: mostly those that others do."""
    return ROWS + 0.05 * np.random.default_rng(seed).standard_normal(400) < share


@pytest.fixture
def first(tmp_path):
    parts = [text_part(bits(), SIZES), task_part(answers(0.4), "piqa", title="PIQA", majority=None)]
    return write_folder(tmp_path / "evaluation_results/first", subject("first"), parts)


def folder(tmp_path, name, parts, **about):
    return write_folder(tmp_path / "evaluation_results" / name, subject(name, **about), parts)


def compared(*models, **more):
    return compare(CompareConfig(models=models, **more))


def only(comparison, title):
    (row,) = [row for row in comparison.rows if row.title == title]
    (difference,) = row.differences
    return row, difference


def test_a_better_model_is_told_from_a_worse_one(first, tmp_path):
    """Lower bits are better, higher accuracies are."""
    parts = [text_part(bits(-0.03, 2), SIZES), task_part(answers(0.3, 2), "piqa", title="PIQA", majority=None)]
    found = compared(first, folder(tmp_path, "second", parts))
    row, text = only(found, "wiki.test.raw (stream)")
    assert row.lower_is_better
    assert text.value == pytest.approx(-0.03, abs=0.01)
    assert text.low < text.value < text.high < 0
    assert (text.better, text.verdict) == ("other", "B better")
    row, task = only(found, "PIQA")
    assert not row.lower_is_better
    assert row.figures[0].value == pytest.approx(np.mean(answers(0.4)))
    assert task.value == pytest.approx(np.mean(answers(0.3, 2)) - np.mean(answers(0.4)))
    assert (task.better, task.verdict) == ("A", "A better")


def test_worse_text_and_better_answers(first, tmp_path):
    parts = [text_part(bits(0.03, 2), SIZES), task_part(answers(0.5, 2), "piqa", title="PIQA", majority=None)]
    found = compared(first, folder(tmp_path, "second", parts))
    assert only(found, "wiki.test.raw (stream)")[1].verdict == "A better"
    assert only(found, "PIQA")[1].verdict == "B better"


def test_what_luck_can_do_is_not_told_apart(first, tmp_path):
    found = compared(first, folder(tmp_path, "second", [text_part(bits(0.0, 2), SIZES)]))
    (row,) = found.rows  # PIQA is in one of them only
    assert row.differences[0].verdict == "not told apart"
    assert row.differences[0].p_value > 0.05


def test_many_comparisons_are_corrected(first, tmp_path):
    """A difference that would count alone does not among twenty others of none."""
    draws = np.random.default_rng(11)
    one, other = (np.where(draws.random(400) < 0.5, 1.0, 0.0) for _ in range(2))
    weak = one.copy()
    weak[np.flatnonzero(one == 0)[:21]] = 1.0
    weak[np.flatnonzero(one == 1)[:9]] = 0.0

    def tasks(mine):
        rest = [task_part(draws.permutation(other), f"t{n}", title=f"Task {n}") for n in range(20)]
        return [task_part(mine, "weak", title="Weak"), *rest]

    left = folder(tmp_path, "left", tasks(one))
    right = folder(tmp_path, "right", tasks(weak))
    _, difference = only(compared(left, right), "Weak")
    assert difference.p_value < 0.05 < difference.corrected_p_value
    assert difference.verdict == "not told apart"
    alone = compared(
        folder(tmp_path, "a", [task_part(one, "weak", title="Weak")]),
        folder(tmp_path, "b", [task_part(weak, "weak", title="Weak")]),
    )
    assert only(alone, "Weak")[1].verdict == "B better"


@pytest.mark.parametrize(
    "part, about, reason",
    [
        (text_part(bits(), SIZES, pairing="other tokens"), {"tokenizer": "u" * 64}, "other tokenizers"),
        (text_part(bits(), SIZES, pairing="windows", window=512), {}, r"other windows \(1,024 by 512 against 512 by"),
        (text_part(bits()[:150], SIZES[:150], pairing="half"), {}, "another length of text"),
        (text_part(bits(), SIZES, pairing="edited"), {}, "another text"),
        (task_part(answers(0.4)[:99], "piqa", title="PIQA", pairing="99"), {}, r"other rows \(400 against 99\)"),
        (task_part(answers(0.4), "piqa", title="PIQA", pairing="prompt"), {}, "other rows, or another prompt"),
        (task_part(answers(0.4), "piqa", title="PIQA", metric="acc_norm"), {}, "acc against acc_norm"),
    ],
)  # fmt: skip
def test_what_cannot_be_paired_is_shown_and_not_tested(first, tmp_path, part, about, reason):
    found = compared(first, folder(tmp_path, "second", [part], **about))
    (row,) = found.rows
    (difference,) = row.differences
    assert all(figure is not None for figure in row.figures)
    assert difference.verdict == "not tested"
    assert (difference.low, difference.p_value, difference.better) == (None, None, None)
    assert re.search(reason, difference.reason)
    assert any(re.search(reason, note) for note in found.notes)


def test_a_few_pieces_are_not_tested(tmp_path):
    one = folder(tmp_path, "one", [task_part([1, 0, 1], "boolq")])
    other = folder(tmp_path, "other", [task_part([0, 0, 0], "boolq")])
    assert "too few pieces (3)" in only(compared(one, other), "BoolQ")[1].reason


def test_pieces_that_are_not_there_or_of_something_else_are_not_used(first, tmp_path):
    left_over = task_part(answers(0.9, 5), "piqa", title="PIQA", majority=None)  # of an earlier model of that name
    second = folder(tmp_path, "second", [task_part(answers(0.4, 2), "piqa", title="PIQA", majority=None)])
    (second / PARTS / "task-piqa.json").write_text(left_over.model_dump_json(exclude_defaults=True))
    assert "B's pieces were not kept" in only(compared(first, second), "PIQA")[1].reason
    part = task_part(answers(0.4, 2), "piqa", title="PIQA", majority=None)
    wrong = part.model_copy(update={"outcomes": left_over.outcomes})
    third = folder(tmp_path, "third", [wrong])
    assert "B's pieces do not add up" in only(compared(first, third), "PIQA")[1].reason


def test_the_same_model_twice_is_said_so(first, tmp_path, capsys):
    again = folder(tmp_path, "again", [text_part(bits(), SIZES)], sha256="first".ljust(64, "0"))
    found = compared(first, first, again)
    for row in found.rows:
        assert {one.verdict for one in row.differences} == {"same model"}
    assert "A and B are the same model" in " ".join(capsys.readouterr().out.split())
    assert "B and C are the same model" in " ".join(found.notes)
    assert not any("not tested" in note for note in found.notes)


def test_several_models_against_the_first(first, tmp_path):
    """What A does not have is shown all the same."""
    boolq = task_part(answers(0.6, 3))
    second = folder(tmp_path, "second", [text_part(bits(-0.03, 2), SIZES), boolq])
    third = folder(tmp_path, "third", [text_part(bits(0.03, 3), SIZES), boolq], parameters=SMALL)
    found = compared(first, second, third)
    text, task = found.rows
    assert [one.verdict for one in text.differences] == ["B better", "A better"]
    assert (task.title, task.differences) == ("BoolQ", ())
    assert task.figures[0] is None
    assert "A was not measured" in " ".join(found.notes)
    assert [model.letter for model in found.models] == ["A", "B", "C"]


def test_a_checkpoint_is_found_by_its_manifest(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "checkpoints/pretrain/tiny/final"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="was not evaluated") as error:
        compared(first, checkpoint)
    assert error.value.way_out == f"lumi evaluate --model_path {checkpoint}"
    folder(tmp_path, "it", [text_part(bits(), SIZES)], sha256=sha256_file(checkpoint / "manifest.json"))
    (tmp_path / "evaluation_results/broken").mkdir()
    (tmp_path / "evaluation_results/broken/results.json").write_text("{")  # of another model, for all that is known
    found = compared(first, checkpoint)
    assert found.models[1].subject.name == "it"


def test_what_is_no_model_is_an_error(first, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        compared(first, tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither a results folder nor a checkpoint"):
        compared(first, tmp_path)
    (tmp_path / "begun/parts").mkdir(parents=True)
    with pytest.raises(DataError, match="not finished"):
        compared(first, tmp_path / "begun")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data.update(format_version=1), "format version 1, this Lumi reads 2"),
        (lambda data: data.pop("format_version"), "format version 1, this Lumi reads 2"),
        (lambda data: data["model"].pop("sha256"), r"damaged: model\.sha256"),
        (lambda data: data.update(extra=1), "damaged: extra"),
    ],
)
def test_other_versions_and_damage_are_errors(first, tmp_path, change, message):
    second = folder(tmp_path, "second", [text_part(bits(), SIZES)])
    data = json.loads((second / RESULTS).read_text())
    change(data)
    (second / RESULTS).write_text(json.dumps(data))
    with pytest.raises(DataError, match=message) as error:
        compared(first, second)
    assert "lumi evaluate" in error.value.way_out


def test_cut_off_files_are_errors(first, tmp_path):
    second = folder(tmp_path, "second", [text_part(bits(), SIZES)])
    part = second / PARTS / "text-wiki.test.raw-stream.json"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match=r"stream\.json is damaged") as error:
        compared(first, second)
    assert "lumi evaluate --model_path checkpoints/second" in error.value.way_out
    (second / RESULTS).write_text('{"format_version": 2,')
    with pytest.raises(DataError, match="is damaged"):
        compared(first, second)


def test_the_files_hold_what_was_returned(first, tmp_path):
    second = folder(tmp_path, "second", [text_part(bits(-0.03, 2), SIZES)])
    found = compared(first, second, output=tmp_path / "out", seed=3)
    data = (tmp_path / "out/compare.json").read_bytes()
    assert Comparison.model_validate_json(data) == found
    text = (tmp_path / "out/compare.md").read_text(encoding="utf8")
    assert "| wiki.test.raw (stream), B |" in text
    assert "B better" in text
    compared(first, second, output=tmp_path / "out", seed=3)
    assert (tmp_path / "out/compare.json").read_bytes() == data


def test_the_command_prints_what_fits_80_columns(first, tmp_path, monkeypatch, capsys):
    parts = [text_part(bits(-0.03, 2), SIZES), task_part(answers(0.5, 2), "piqa", title="PIQA", majority=None)]
    second = folder(tmp_path, "second", parts)
    monkeypatch.setenv("COLUMNS", "80")
    compare(parse_config(CompareConfig, [str(first), str(second), str(first)], prog="lumi compare"))
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    (line,) = [line for line in lines if line.strip().startswith("PIQA, B")]
    assert line.split()[-2:] == ["B", "better"]


def test_one_model_is_nothing_to_compare(first):
    with pytest.raises(ConfigError, match="models"):
        parse_config(CompareConfig, [str(first)], prog="lumi compare")
