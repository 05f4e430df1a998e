"""Invariant 25: whatever breaks during a save, the newest complete checkpoint is found and nothing is lost."""

import errno
import os
import resource
from pathlib import Path

import pytest
import safetensors.torch
from tests.training_runs import assert_same_checkpoint, config

from lumi.errors import IntegrityError, LumiError, ResumeError
from lumi.pretraining import pretrain
from lumi.training import newest_complete, read_metrics
from lumi.training.saver import CheckpointSaver


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the program's own runs after it."""


@pytest.fixture
def run(packed, tmp_path):
    pretrain(config([packed], tmp_path / "run", schedule__lr_schedule="constant", schedule__warmup_ratio=0.0))
    return tmp_path / "run"


def count_and_kill(monkeypatch, kill_at):
    """Count the calls that touch the disk during a save, and die at one of them."""
    calls = {"done": 0}

    def counted(original):
        def call(*args, **kwargs):
            calls["done"] += 1
            if calls["done"] == kill_at:
                raise Killed
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr("lumi.model.tensor_file.save_file", counted(safetensors.torch.save_file))
    for name in ("write_text", "rename", "open", "mkdir", "replace", "touch", "chmod"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    return calls


def saves_at(step, act):
    """Exchange the writing of one step's checkpoint; training waits for it, so that the calls are its own."""
    real = CheckpointSaver._write

    def write(saver, moment):
        if moment.state.progress["step"] == step:
            act(real, saver, moment)
        else:
            real(saver, moment)

    patch = pytest.MonkeyPatch()
    patch.setattr(CheckpointSaver, "_write", write)
    save = CheckpointSaver.save
    patch.setattr(CheckpointSaver, "save", lambda saver, moment: (save(saver, moment), saver.wait()))
    return patch


@pytest.mark.parametrize("share", [n / 20 for n in range(20)])
def test_killed_inside_a_save(packed, tmp_path, share):
    """Die at 20 points spread over all the calls that a save makes, then run the same command again."""
    arguments = {"schedule__lr_schedule": "constant", "schedule__warmup_ratio": 0.0, "training__save_steps": 2}
    whole = config([packed], tmp_path / "whole", schedule__max_steps=4, **arguments)
    pretrain(whole)
    counted = {}

    def count(real, saver, moment):
        with pytest.MonkeyPatch.context() as patch:
            counted["calls"] = count_and_kill(patch, kill_at=-1)
            real(saver, moment)

    def die(real, saver, moment):
        with pytest.MonkeyPatch.context() as patch:
            count_and_kill(patch, kill_at=1 + int(share * counted["calls"]["done"]))
            real(saver, moment)

    patch = saves_at(2, count)
    pretrain(config([packed], tmp_path / "count", schedule__max_steps=2, **arguments))
    patch.undo()
    assert counted["calls"]["done"] >= 20

    broken = config([packed], tmp_path / "broken", schedule__max_steps=4, **arguments)
    patch = saves_at(4, die)
    with pytest.raises(Killed):
        pretrain(broken)
    patch.undo()
    assert newest_complete(tmp_path / "broken").name in ("step_2", "step_4")
    pretrain(broken)
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "broken/final")
    assert {path.name for path in (tmp_path / "broken").glob("[bfs]*")} == {
        "step_2",
        "step_4",
        "best",
        "final",
        "status.json",
    }


def on_a_full_disk(real, saver, moment):
    """Let no file grow past 20 KB: the weights cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        real(saver, moment)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_does_not_end_the_run_and_the_save_is_tried_again(packed, tmp_path, capsys, monkeypatch):
    pretrain(config([packed], tmp_path / "whole"))
    monkeypatch.setattr("lumi.training.saver.RETRY_SECONDS", 0.0)
    patch = saves_at(10, on_a_full_disk)
    pretrain(config([packed], tmp_path / "run"))
    patch.undo()
    told = " ".join(capsys.readouterr().err.split())
    assert f"WARNING: {tmp_path}/run/step_10 could not be saved" in told
    assert "training goes on" in told
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_11", "step_20"]
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "run/final")


def test_a_last_save_that_fails_is_an_error_and_older_ones_stay(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("lumi.training.saver.RETRY_SECONDS", 0.0)
    patch = saves_at(20, on_a_full_disk)
    with pytest.raises(LumiError, match="last checkpoint could not be saved"):
        pretrain(config([packed], tmp_path))
    patch.undo()
    assert newest_complete(tmp_path) == tmp_path / "step_10"
    pretrain(config([packed], tmp_path))
    assert (tmp_path / "final/manifest.json").exists()


def test_metrics_that_cannot_be_written_are_written_later(packed, tmp_path, capsys, monkeypatch):
    real = Path.open

    def full(path, *args, **kwargs):
        if path.name.startswith("metrics.jsonl") and args:
            written.append(path)
            if 3 <= len(written) < 7:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **kwargs)

    written = []
    monkeypatch.setattr(Path, "open", full)
    pretrain(config([packed], tmp_path))
    monkeypatch.undo()
    assert "metrics.jsonl cannot be written" in " ".join(capsys.readouterr().err.split())
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl") if "loss" in record]
    assert steps == list(range(1, 21))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "training_state/optimizer.safetensors", "run.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_checkpoint_is_named_and_skipped(run, packed, tmp_path, capsys, file, damage):
    path = run / "step_20" / file
    data = bytearray(path.read_bytes())
    path.unlink()  # final/ shares the bytes by a link; damage this name alone
    data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=file):
        pretrain(config([packed], tmp_path / "other", resume_from_checkpoint=str(run / "step_20")))
    assert newest_complete(run) == run / "step_10"
    assert "skipping step_20" in capsys.readouterr().err


def test_no_complete_checkpoint_is_an_error_not_a_new_start(run, packed):
    for folder in run.glob("step_*"):
        (folder / "manifest.json").unlink()
    with pytest.raises(ResumeError, match="none of the 2 checkpoints"):
        pretrain(config([packed], run, schedule__lr_schedule="constant", schedule__warmup_ratio=0.0))


def test_resume_from_a_missing_folder(packed, tmp_path):
    with pytest.raises(ResumeError, match="does not exist"):
        pretrain(config([packed], tmp_path / "run", resume_from_checkpoint=str(tmp_path / "step_7")))
