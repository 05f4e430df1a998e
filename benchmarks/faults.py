"""A campaign of faults: kill -9 at random moments, again and again, and see that nothing but time was lost.

    python benchmarks/faults.py --kills 100
    python benchmarks/faults.py --kills 20 --world_size 2 --parallel fsdp

A run is started as a user would start it and killed (all ranks at once) at a random moment after it has begun to
train; the same command is given again, until it reaches its end. Its last weights, optimiser, generators and loss log
must be those of a run that nobody disturbed, byte for byte. Every second kill waits for the next checkpoint to be
begun, and strikes a random moment later. Whole runs are repeated until there were enough kills.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lumi.training.status import read_status
from small_data import make_small_data

SCRIPT = Path(__file__).parents[1] / "scripts" / "04_pretrain.py"
STEPS, SAVE_STEPS = 600, 10


@dataclass(frozen=True)
class Kill:
    """One kill and what it cost."""

    reached: int  # the last step that was logged
    resumed_at: int  # the step that the next start continued from
    inside_save: bool  # a checkpoint was being written

    @property
    def lost(self) -> int:
        return self.reached - self.resumed_at


def settings(data: Path, run: Path, parallel: str) -> dict:
    return {
        "name": "faults",
        "model": {"vocab_size": 320, "n_layer": 2, "d_model": 64, "n_head": 2, "head_dim": 32, "sequence_length": 64},
        "optimizer": {"learning_rate": 0.003},
        "schedule": {"max_steps": STEPS},
        "training": {
            "batch_size": 8, "log_steps": 1, "save_steps": SAVE_STEPS, "eval_rows": 8, "device": "cpu",
            "parallel": parallel, "deterministic": True, "save_total_limit": 3,
        },
        "sample_tokens": 5,
        "data_dirs": [str(data)],
        "output_dir": str(run),
    }  # fmt: skip


def start(config: Path, world_size: int) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    places = [{**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, "--config", config], env={**shared, **(place if world_size > 1 else {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for place in places
    ]  # fmt: skip


def last_step(run: Path) -> int:
    """Return the last step in the log, or 0."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):  # cut off by the kill
            continue
    return 0


def training(run: Path, pid: int) -> bool:
    """Say whether this very process has begun to train."""
    status = read_status(run)
    return status is not None and status["pid"] == pid


def newest_step(run: Path) -> int:
    found = [int(path.parent.name.removeprefix("step_")) for path in run.glob("step_*[0-9]/manifest.json")]
    return max(found, default=0)


def digest(run: Path) -> dict[str, str]:
    """Return the sha256 of everything in the last checkpoint that a resume must give back, times left out."""
    folder = run / "final"
    out = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([*folder.rglob("*.safetensors"), folder / "training_state/state.json"])
    }
    kept = ("step", "loss", "grad_norm", "val_loss", "samples", "mix", "tokens", "learning_rate")
    records = [json.loads(line) for line in (folder / "training_state/metrics.jsonl").read_text().splitlines()]
    log = json.dumps([{key: record.get(key) for key in kept} for record in records])
    return {**out, "loss log": hashlib.sha256(log.encode()).hexdigest()}


def finish(processes: list[subprocess.Popen]) -> None:
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a run failed that nobody disturbed:\n" + "\n".join(outputs))


def disturbed_run(config: Path, run: Path, world_size: int, kills: int, draw: random.Random) -> list[Kill]:
    """Bring one run to its end, killing it on the way, up to so many times."""
    done: list[Kill] = []
    while True:
        processes = start(config, world_size)
        while not training(run, processes[0].pid) and all(process.poll() is None for process in processes):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 1.0))
        if len(done) % 2:
            while not any(run.glob("*.partial")) and all(process.poll() is None for process in processes):
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.02))
        if len(done) == kills or any(process.poll() is not None for process in processes):
            finish(processes)
            return done
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
        inside = any(run.glob("*.partial"))
        done.append(Kill(last_step(run), newest_step(run), inside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--world_size", type=int, default=1)
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_small_data(folder)
        config = folder / "config.json"

        def prepare(run: str) -> Path:
            config.write_text(json.dumps(settings(data, folder / run, options.parallel)))
            return folder / run

        started = time.monotonic()
        whole = prepare("whole")
        finish(start(config, options.world_size))
        alone, expected = time.monotonic() - started, digest(whole)
        kills: list[Kill] = []
        runs = 0
        while len(kills) < options.kills:
            run = prepare(f"run-{runs}")
            kills += disturbed_run(config, run, options.world_size, options.kills - len(kills), draw)
            if (found := digest(run)) != expected:
                different = [file for file in expected if found.get(file) != expected[file]]
                raise SystemExit(f"{run.name} ended elsewhere: {', '.join(different)} differ")
            runs += 1
            print(f"{len(kills)} kills, {runs} runs, all ended the same", file=sys.stderr)
    print(f"\n{len(kills)} kills over {runs} runs of {STEPS} steps, a checkpoint every {SAVE_STEPS};"
          f" {options.world_size} rank(s), {options.parallel}; undisturbed {alone:.0f} s")  # fmt: skip
    print(f"{'':24}{'kills':>7}{'steps lost: mean':>18}{'median':>9}{'most':>6}")
    for label, chosen in (
        ("inside a save", [k.lost for k in kills if k.inside_save]),
        ("between saves", [k.lost for k in kills if not k.inside_save]),
        ("all", [k.lost for k in kills]),
    ):
        if chosen:
            print(
                f"{label:24}{len(chosen):>7}{statistics.mean(chosen):>18.1f}{statistics.median(chosen):>9.0f}{max(chosen):>6}"
            )
    print(f"final state of all {runs} runs: {expected['model.safetensors'][:16]} (weights), equal in every file")
    if options.json:
        record = {
            "options": {**vars(options), "json": None},
            "runs": runs,
            "kills": [asdict(kill) for kill in kills],
            "sha256": expected,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
