"""Invariant 7: several ranks train the model that one would, and resume it exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file
from tests import dpo_runs, sft_runs
from tests.training_runs import (
    REPOSITORY,
    assert_same_checkpoint,
    config,
    losses,
    outcomes,
    settings,
    start_ranks,
    train_ranks,
)

from lumi.posttraining import dpo, sft
from lumi.pretraining import pretrain
from lumi.training import read_state

BOTH = pytest.mark.parametrize("parallel", ["ddp", "fsdp"])


def write(path, packed, run, **changes):
    path.write_text(json.dumps(settings([packed], run, **changes)))
    return path


def seen(checkpoint, key):
    return [record[key] for record in losses(checkpoint) if record[key] is not None]


@pytest.fixture(scope="module")
def alone(packed, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    pretrain(config([packed], run))
    return run


@BOTH
def test_two_ranks_train_what_one_does(packed, alone, tmp_path, parallel):
    """The same rows, losses, gradients, held-out losses and samples; then one rank goes on with their checkpoint."""
    file = write(tmp_path / "config.json", packed, tmp_path / "run", training__parallel=parallel)
    said = train_ranks(file)
    assert f"2 x CPU, {parallel}" in said
    run = tmp_path / "run"
    assert seen(run / "final", "mix") == seen(alone / "final", "mix")
    assert seen(run / "final", "samples") == seen(alone / "final", "samples")
    for key in ("loss", "grad_norm"):
        assert seen(run / "final", key) == pytest.approx(seen(alone / "final", key), rel=1e-4)
    for mine, theirs in zip(seen(run / "final", "val_loss"), seen(alone / "final", "val_loss"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    weights, expected = (load_file(folder / "final/model.safetensors") for folder in (run, alone))
    for name in expected:
        assert weights[name].sub(expected[name]).abs().max() < 1e-4, name

    # 2 -> 1 ranks, from a checkpoint that two have written
    longer = {"schedule__max_steps": 25, "schedule__lr_schedule": "constant", "schedule__warmup_ratio": 0.0}
    pretrain(config([packed], alone.with_name(f"longer-{parallel}"), **longer))
    pretrain(config([packed], tmp_path / "one", resume_from_checkpoint=str(run / "step_20"), **longer))
    assert seen(tmp_path / "one/final", "mix") == seen(alone.with_name(f"longer-{parallel}") / "final", "mix")
    assert sorted(read_state(tmp_path / "one/final").optimizer_names()) == read_state(alone / "final").optimizer_names()


@BOTH
def test_two_ranks_tune_what_one_does(base, chats, tmp_path, parallel):
    """An adapter on two ranks: losses, merged weights, and a resume from a checkpoint that both wrote."""
    changes = {"training__parallel": parallel, "lora": {"r": 4, "alpha": 8}}
    alone = sft(sft_runs.config(base, [chats], tmp_path / "alone", lora={"r": 4, "alpha": 8}))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(sft_runs.settings(base, [chats], tmp_path / "ranks", **changes)))
    train_ranks(file, stage="sft")
    final = tmp_path / "ranks/final"
    for key in ("loss", "grad_norm"):
        assert seen(final, key) == pytest.approx(seen(alone, key), rel=1e-4)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (final, alone))
    for name in expected:
        assert weights[name].sub(expected[name]).abs().max() < 1e-4, name
    shutil.copytree(final.parent, tmp_path / "whole")
    for name in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "ranks" / name)
    assert "resuming from" in train_ranks(file, stage="sft")
    for name in ("step_20", "final"):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "ranks" / name)


@BOTH
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_ranks_learn_the_preferences_that_one_does(artifacts, tmp_path, method, parallel):
    """Rows shared over ranks for the stored reference too: it is worked out once more, by two."""
    tuned = dpo_runs.make_tuned(tmp_path / "tuned", artifacts / "tokenizer")
    pairs = dpo_runs.make_preferences(tmp_path, artifacts / "tokenizer")
    changes = {"method": method, "schedule__max_steps": 10, "optimizer__learning_rate": 0.003}
    alone = dpo(dpo_runs.config(tuned, [pairs], tmp_path / "alone", **changes))
    (reference,) = tmp_path.glob("pairs.reference-*")
    reference.rename(tmp_path / "of-one")
    file = tmp_path / "config.json"
    changes["training__parallel"] = parallel
    file.write_text(json.dumps(dpo_runs.settings(tuned, [pairs], tmp_path / "ranks", **changes)))
    train_ranks(file, stage="dpo")
    for split in ("train", "val"):
        one, two = (np.load(folder / f"{split}.npy") for folder in (tmp_path / "of-one", reference))
        np.testing.assert_allclose(one, two, rtol=1e-5)
    final = tmp_path / "ranks/final"
    logs = [
        [json.loads(line) for line in (folder / "training_state/metrics.jsonl").read_text().splitlines()]
        for folder in (final, alone)
    ]
    for key in ("loss", "grad_norm", "reward_margin", "log_prob_chosen", "tokens_rejected"):
        mine, theirs = ([record[key] for record in log if key in record] for log in logs)
        assert len(mine) >= 10
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4), key
    for key in ("val_loss", "val_kl", "val_preference_accuracy"):
        mine, theirs = ([record[key]["pairs"] for record in log if key in record] for log in logs)
        assert len(mine) == 2
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-6), key
    weights, expected = (load_file(folder / "model.safetensors") for folder in (final, alone))
    for name in expected:
        assert weights[name].sub(expected[name]).abs().max() < 1e-4, name


@BOTH
def test_a_killed_run_of_two_ranks_resumes_bit_for_bit(packed, tmp_path, parallel):
    changes = {"schedule__max_steps": 40, "training__parallel": parallel, "training__deterministic": True}
    whole = write(tmp_path / "whole.json", packed, tmp_path / "whole", **changes)
    train_ranks(whole)
    killed = write(tmp_path / "killed.json", packed, tmp_path / "killed", **changes)
    processes = start_ranks(killed)
    while not (tmp_path / "killed/step_10/manifest.json").exists():
        assert processes[0].poll() is None, processes[0].stdout.read()
        time.sleep(0.002)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    outcomes(processes)
    assert not (tmp_path / "killed/final").exists(), "the run ended before it could be killed"
    assert "resuming from" in train_ranks(killed)
    assert_same_checkpoint(tmp_path / "whole/step_40", tmp_path / "killed/step_40")
    names = {path.name for path in (tmp_path / "whole/step_40/training_state").iterdir()}
    assert {"rng_00000.safetensors", "rng_00001.safetensors"} <= names
    if parallel == "fsdp":
        assert {"optimizer_00000.safetensors", "optimizer_00001.safetensors", "optimizer.index.json"} <= names


def test_a_signal_to_one_rank_stops_all_of_them_at_the_same_step(packed, tmp_path):
    file = write(
        tmp_path / "config.json", packed, tmp_path / "run", schedule__max_steps=100_000, training__save_steps=100_000
    )
    processes = start_ranks(file)
    while not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text():
        assert processes[0].poll() is None, processes[0].stdout.read()
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = outcomes(processes)
    assert codes == [143, 143], "\n".join(outputs)
    assert "the same command continues" in outputs[0]
    assert "the same command continues" not in outputs[1]
    assert len(list((tmp_path / "run").glob("step_*"))) == 1


def test_slurm_and_torchrun_start_the_same_run(packed, tmp_path):
    """The variables of srun, and torchrun itself: the same ranks, the same weights."""
    for name in ("slurm", "torchrun"):
        write(tmp_path / f"{name}.json", packed, tmp_path / name, schedule__max_steps=5, sample_prompts=[])
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    start = f"import os; [os.environ.__setitem__(b, os.environ.pop(a)) for a, b in {names}.items()]"
    codes, outputs = outcomes(start_ranks(tmp_path / "slurm.json", before=start))
    assert codes == [0, 0], "\n".join(outputs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "scripts/04_pretrain.py", "--config", str(tmp_path / "torchrun.json")]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, check=False, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 x CPU, ddp" in done.stderr
    assert_same_checkpoint(tmp_path / "slurm/final", tmp_path / "torchrun/final")
