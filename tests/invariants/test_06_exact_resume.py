"""Invariant 6: an interrupted run that was resumed is, bit for bit, the run that was never interrupted."""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from tests import dpo_runs, sft_runs, training_runs
from tests.training_runs import assert_same_checkpoint, config, settings, start_script

from lumi.posttraining import dpo, sft
from lumi.pretraining import pretrain
from lumi.training import CausalLMObjective


def test_sigkill_through_the_script(packed, tmp_path):
    """The data set has fewer rows than the run needs, so the resume also crosses the border of an epoch."""
    whole = config([packed], tmp_path / "whole", schedule__max_steps=60)
    pretrain(whole)
    assert (
        whole.training.batch_size * 60
        > 2 * json.loads((tmp_path / "whole/step_60/run.json").read_text())["data"][0]["rows"]
    )

    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings([packed], tmp_path / "killed", schedule__max_steps=60)))
    process = start_script(file)
    while not (tmp_path / "killed/step_10/manifest.json").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/final").exists(), "the run ended before it could be killed"

    resumed = start_script(file)
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert "resuming from" in output
    assert_same_checkpoint(tmp_path / "whole/step_60", tmp_path / "killed/step_60")


def test_sigkill_through_the_sft_script(base, chats, tmp_path):
    """With dropout in the adapters, across epochs; the merged model is the same too."""
    shared = {"schedule__max_steps": 60, "training__save_steps": 10}
    sft(sft_runs.config(base, [chats], tmp_path / "whole", **shared))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(sft_runs.settings(base, [chats], tmp_path / "killed", **shared)))
    process = start_script(file, script="03_sft_industrial.py")
    while not (tmp_path / "killed/step_20/manifest.json").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/final").exists(), "the run ended before it could be killed"
    resumed = start_script(file, script="03_sft_industrial.py")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert "resuming from" in output
    for name in ("step_60", "final"):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "killed" / name)


def test_sigkill_through_the_dpo_script(artifacts, tmp_path):
    """With a stored reference, across epochs; the merged model is the same too."""
    tuned = dpo_runs.make_tuned(tmp_path / "tuned/final", artifacts / "tokenizer")
    pairs = dpo_runs.make_preferences(tmp_path, artifacts / "tokenizer")
    shared = {"schedule__max_steps": 60, "training__save_steps": 10}
    dpo(dpo_runs.config(tuned, [pairs], tmp_path / "whole", **shared))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(dpo_runs.settings(tuned, [pairs], tmp_path / "killed", **shared)))
    process = start_script(file, script="04_dpo.py")
    while not (tmp_path / "killed/step_20/manifest.json").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/final").exists(), "the run ended before it could be killed"
    resumed = start_script(file, script="04_dpo.py")
    output, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, output
    assert "resuming from" in output
    for name in ("step_60", "final"):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "killed" / name)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(packed, tmp_path, number, code):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(settings([packed], tmp_path / "run", schedule__max_steps=100_000, training__save_steps=100_000))
    )
    process = start_script(file)
    while not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "the same command continues" in output
    (saved,) = (tmp_path / "run").glob("step_*")
    assert (saved / "manifest.json").exists()


def test_a_longer_run_continues_and_a_finished_one_is_up_to_date(packed, tmp_path, capsys):
    pretrain(config([packed], tmp_path, schedule__max_steps=10, schedule__lr_schedule="constant"))
    pretrain(config([packed], tmp_path, schedule__max_steps=10, schedule__lr_schedule="constant"))
    assert "up to date" in capsys.readouterr().err
    pretrain(config([packed], tmp_path, schedule__max_steps=20, schedule__lr_schedule="constant"))
    assert [record["step"] for record in training_runs.losses(tmp_path / "final") if record["loss"]] == list(
        range(1, 21)
    )


def test_two_data_sets_keep_their_mix(packed, packed_other, tmp_path):
    both = [packed, packed_other]
    pretrain(config(both, tmp_path / "whole", data_weights=[0.25, 0.75]))
    pretrain(
        config(
            both,
            tmp_path / "parts",
            data_weights=[0.25, 0.75],
            schedule__max_steps=10,
            schedule__lr_schedule="constant",
        )
    )
    whole = training_runs.losses(tmp_path / "whole/final")
    assert [record["mix"] for record in whole if record["mix"]][-1] == {packed.name: 20, packed_other.name: 60}


def test_a_line_that_a_save_falls_into_is_the_uninterrupted_one(packed, tmp_path):
    """Saves between two lines of the log: the line after the resume covers steps from before it."""
    changes = {"schedule__max_steps": 40, "training__log_steps": 7, "training__eval_steps": 9}
    for name in ("whole", "parts"):
        pretrain(config([packed], tmp_path / name, **changes))
    for folder in ("step_20", "step_30", "step_40", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / folder, ignore_errors=True)
    pretrain(config([packed], tmp_path / "parts", **changes))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


def test_generators_go_on_where_they_were(packed, tmp_path, monkeypatch):
    """A loss that draws from every global generator, as a third party's dropout would."""
    real = CausalLMObjective.loss

    def noisy(objective, model, rows):
        loss, metrics = real(objective, model, rows)
        return loss * (1 + 0.1 * (torch.rand(()) + random.random() + np.random.rand())), metrics

    monkeypatch.setattr(CausalLMObjective, "loss", noisy)
    for name in ("whole", "parts"):
        pretrain(config([packed], tmp_path / name))
    for folder in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / folder)
    torch.rand(5)
    pretrain(config([packed], tmp_path / "parts"))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")
