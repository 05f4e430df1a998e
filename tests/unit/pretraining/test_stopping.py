"""How a run ends: at its last step, early, at the best checkpoint's expense of nothing."""

import json

import pytest
from tests.training_runs import config, losses

from lumi.pretraining import pretrain
from lumi.training import HeldOutLoss, newest_complete
from lumi.training.status import read_status


@pytest.fixture
def held_out(monkeypatch):
    """Let validations find these losses, one after the other."""
    found = []
    monkeypatch.setattr(HeldOutLoss, "__call__", lambda self, model: {"val_loss": {"packed": found.pop(0)}})
    return found


def test_the_best_checkpoint_has_a_name_and_survives_the_limit(packed, tmp_path, held_out):
    held_out += [3.0, 2.0, 2.5, 2.7]
    pretrain(config([packed], tmp_path, training__save_steps=5, training__save_total_limit=1))
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_20"]
    assert json.loads((tmp_path / "best/run.json").read_text())["step"] == 10
    assert json.loads((tmp_path / "final/run.json").read_text())["step"] == 20


def test_a_held_out_loss_that_stops_falling_ends_the_run(packed, tmp_path, held_out, capsys):
    held_out += [3.0, 2.0, 2.5, 2.7, 1.0]
    arguments = {"training__save_steps": 4, "training__early_stopping_patience": 2}
    pretrain(config([packed], tmp_path, **arguments))
    assert "stopped early" in capsys.readouterr().err
    assert json.loads((tmp_path / "final/run.json").read_text())["step"] == 16
    assert read_status(tmp_path)["state"] == "finished"
    pretrain(config([packed], tmp_path, **arguments))
    assert "up to date" in capsys.readouterr().err
    pretrain(config([packed], tmp_path, **{**arguments, "training__early_stopping_patience": 3}))
    assert json.loads((tmp_path / "final/run.json").read_text())["step"] == 20


def test_samples_and_epochs_are_logged(packed, tmp_path):
    pretrain(config([packed], tmp_path, sample_prompts=["The", ""], sample_tokens=5))
    samples = [record["samples"] for record in losses(tmp_path / "final") if record["samples"]]
    assert [[one["prompt"] for one in each] for each in samples] == [["The", ""]] * 2
    rows = json.loads((tmp_path / "final/run.json").read_text())["data"][0]["rows"]
    lines = [record for record in losses(tmp_path / "final") if record["epochs"]]
    assert lines[-1]["epochs"] == {"packed": pytest.approx(80 / rows)}


def test_two_runs_in_one_folder(packed, tmp_path):
    from lumi.errors import ResumeError
    from lumi.training.resume import only_run_in

    with only_run_in(tmp_path / "run"), pytest.raises(ResumeError, match="another process is training"):
        pretrain(config([packed], tmp_path / "run"))
    pretrain(config([packed], tmp_path / "run"))


def test_the_micro_batch_that_fits_is_found_and_kept(packed, tmp_path, monkeypatch, capsys):
    from lumi.model import training_memory

    def limit(rows):
        shape = config([packed], tmp_path).model
        need = training_memory(shape, micro_batch_size=rows, sequence_length=32, compute_bytes=4, recompute=False)
        monkeypatch.setattr("lumi.training.recipe.free_memory", lambda device: need.total / 0.9 + 1)

    limit(2)
    pretrain(config([packed], tmp_path, schedule__max_steps=10, schedule__lr_schedule="constant"))
    assert "micro-batches of 2" in capsys.readouterr().err
    limit(4)  # a resumed run must round as it did before
    pretrain(config([packed], tmp_path, schedule__lr_schedule="constant"))
    assert "micro-batches of 2" in capsys.readouterr().err
    assert newest_complete(tmp_path).name == "step_20"
