"""What several ranks cannot do: one clear line, a non-zero exit on every rank, and no hang."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.training_runs import outcomes, settings, start_ranks, start_script

from lumi.training import heartbeat


def run(tmp_path, packed, *options, world_size=2, **changes):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings([packed], tmp_path / "run", **changes)))
    return outcomes(start_ranks(file, *options, world_size=world_size), timeout=60)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"training__batch_size": 5}, "batch_size 5 cannot be shared by 2 ranks"),
        ({"resume_from_checkpoint": "nowhere/step_3"}, "nowhere/step_3 does not exist"),
    ],
    ids=["batch", "missing checkpoint"],
)
def test_an_error_of_all_is_told_once(packed, tmp_path, changes, message):
    codes, outputs = run(tmp_path, packed, **changes)
    assert codes == [1, 1]
    assert message in " ".join(outputs[0].split())
    assert outputs[0].count("error") == 1
    assert outputs[1] == ""


def test_ranks_that_were_given_different_configs(packed, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings([packed], tmp_path / "run")))
    first = start_ranks(file)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(settings([packed], tmp_path / "run", optimizer__learning_rate=0.5)))
    os.kill(first[1].pid, signal.SIGKILL)
    first[1].communicate()
    port = next(line for line in _environment(first[0].pid) if line.startswith("MASTER_PORT=")).partition("=")[2]
    second = start_ranks(other, MASTER_PORT=port)
    os.kill(second[0].pid, signal.SIGKILL)
    second[0].communicate()
    codes, outputs = outcomes([first[0], second[1]], timeout=60)
    assert codes == [1, 1], "\n".join(outputs)
    assert "the ranks do not agree on the config" in outputs[0]


def _environment(pid):
    return Path(f"/proc/{pid}/environ").read_text(encoding="utf8").split("\0")


def test_fsdp_in_a_single_process(packed, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings([packed], tmp_path / "run", training__parallel="fsdp")))
    codes, outputs = outcomes([start_script(file)])
    assert codes == [1]
    assert "torchrun" in outputs[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_lost_rank_ends_the_job(packed, tmp_path, number):
    assert heartbeat.INTERVAL + heartbeat.SILENCE < 60
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(settings([packed], tmp_path / "run", schedule__max_steps=100_000, training__save_steps=100_000))
    )
    patience = "from lumi.training import heartbeat; heartbeat.INTERVAL, heartbeat.SILENCE = 0.5, 5.0"
    processes = start_ranks(file, before=patience)
    while not (tmp_path / "run/metrics.jsonl").exists() or not (tmp_path / "run/metrics.jsonl").read_text():
        assert processes[0].poll() is None, processes[0].stdout.read()
        time.sleep(0.01)
    processes[1].send_signal(number)
    output, _ = processes[0].communicate(timeout=30)
    assert processes[0].returncode == 1, output
    assert "error: rank" in output
    assert "the same command resumes" in output
    assert "Traceback" not in output
    processes[1].kill()
    processes[1].communicate()
