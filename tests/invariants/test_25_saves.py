"""Invariant 25: whatever breaks during a save, the newest complete checkpoint is found and nothing is lost."""

import errno
import os
from pathlib import Path

import pytest
from tests.training_runs import assert_same_checkpoint, config

from lumi.errors import IntegrityError, ResumeError
from lumi.pretraining import pretrain
from lumi.training import newest_complete
from lumi.training import trainer as trainer_module


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

    monkeypatch.setattr("lumi.model.pretrained.save_file", counted(__import__("safetensors.torch").torch.save_file))
    monkeypatch.setattr("lumi.training.checkpoint.save_file", counted(__import__("safetensors.torch").torch.save_file))
    for name in ("write_text", "rename", "open", "mkdir", "replace"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    return calls


@pytest.mark.parametrize("share", [n / 20 for n in range(20)])
def test_killed_inside_a_save(packed, tmp_path, share):
    """Die at 20 points spread over all the calls that a save makes, then run the same command again."""
    arguments = {"schedule__lr_schedule": "constant", "schedule__warmup_ratio": 0.0}
    whole = config([packed], tmp_path / "whole", schedule__max_steps=4, training__save_steps=2, **arguments)
    pretrain(whole)
    real = trainer_module.save_checkpoint
    counting = {"total": 0}

    def first_pass(folder, *rest):
        with pytest.MonkeyPatch.context() as patch:
            calls = count_and_kill(patch, kill_at=-1)
            real(folder, *rest)
            counting["total"] = calls["done"]

    def dying(folder, *rest):
        if folder.name != "step_4":
            return real(folder, *rest)
        with pytest.MonkeyPatch.context() as patch:
            count_and_kill(patch, kill_at=1 + int(share * counting["total"]))
            return real(folder, *rest)

    broken = config([packed], tmp_path / "broken", schedule__max_steps=4, training__save_steps=2, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "save_checkpoint", first_pass)
        pretrain(config([packed], tmp_path / "count", schedule__max_steps=2, training__save_steps=2, **arguments))
        assert counting["total"] >= 20
        patch.setattr(trainer_module, "save_checkpoint", dying)
        with pytest.raises(Killed):
            pretrain(broken)
    assert newest_complete(tmp_path / "broken").name in ("step_2", "step_4")
    pretrain(broken)
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "broken/final")


def test_a_full_disk_does_not_end_the_run(packed, tmp_path, capsys, monkeypatch):
    real = trainer_module.save_checkpoint

    def full_once(folder, *rest):
        if folder.name == "step_10":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, *rest)

    monkeypatch.setattr(trainer_module, "save_checkpoint", full_once)
    pretrain(config([packed], tmp_path))
    assert "WARNING" in capsys.readouterr().err
    assert not (tmp_path / "step_10").exists()
    assert (tmp_path / "final/manifest.json").exists()


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
