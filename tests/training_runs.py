"""Small real pretraining runs for the tests: a packed synthetic data set and a config that trains in seconds."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lumi.pretraining import PretrainConfig
from lumi.training import ModelFiles
from lumi.training.checkpoint import TrainingState, begin_checkpoint, publish_checkpoint, write_common, write_share

REPOSITORY = Path(__file__).parents[1]


def settings(data_dirs: list[Path], output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return a config file's contents; ``changes`` are flat (max_steps=...) or ``section__key``."""
    config: dict[str, Any] = {
        "name": "test",
        "model": {"vocab_size": 320, "n_layer": 2, "d_model": 32, "n_head": 2, "head_dim": 16, "sequence_length": 32},
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"max_steps": 20},
        "training": {"batch_size": 4, "log_steps": 1, "save_steps": 10, "eval_rows": 4, "device": "cpu"},
        "data_dirs": [str(path) for path in data_dirs],
        "output_dir": str(output_dir),
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def config(data_dirs: list[Path], output_dir: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig.from_values(settings(data_dirs, output_dir, **changes), where="test")


def start_script(config_path: Path, *options: str, script: str = "04_pretrain.py") -> subprocess.Popen[str]:
    """Start a training script as a user would."""
    command = [sys.executable, str(REPOSITORY / "scripts" / script), "--config", str(config_path), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def start_ranks(
    config_path: Path, *options: str, world_size: int = 2, before: str = "", stage: str = "pretrain", **environment: str
) -> list[subprocess.Popen[str]]:
    """Start one process per rank, as a launcher does, over gloo on the CPU; ``before`` is Python to run first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = f"{before}\nimport sys; from lumi.cli import main; main(['{stage}', *sys.argv[1:]])"
    command = [sys.executable, "-c", program, "--config", str(config_path), *options]
    shared = {
        **os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size), **environment,
    }  # fmt: skip
    return [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world_size)
    ]  # fmt: skip


def outcomes(processes: list[subprocess.Popen[str]], timeout: float = 120) -> tuple[list[int], list[str]]:
    """Wait for all; return exit codes and outputs."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def train_ranks(config_path: Path, *options: str, world_size: int = 2, stage: str = "pretrain") -> str:
    """Train to the end with several ranks; return what rank 0 said."""
    codes, outputs = outcomes(start_ranks(config_path, *options, world_size=world_size, stage=stage))
    assert codes == [0] * world_size, "\n".join(outputs)
    return outputs[0]


def assert_same_checkpoint(first: Path, second: Path) -> None:
    """Weights, optimiser, generators, position and logged losses, bit for bit."""
    files = sorted(str(path.relative_to(first)) for path in first.rglob("*.safetensors"))
    assert files == sorted(str(path.relative_to(second)) for path in second.rglob("*.safetensors"))
    assert len(files) >= 3
    for file in files:
        one, other = load_file(first / file), load_file(second / file)
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].equal(other[name]), f"{file}: {name} differs"
    states = [json.loads((folder / "training_state" / "state.json").read_text()) for folder in (first, second)]
    assert states[0] == states[1]
    assert losses(first) == losses(second)


def losses(checkpoint: Path) -> list[dict[str, Any]]:
    """Return what the log says apart from times."""
    lines = (checkpoint / "training_state" / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "loss", "val_loss", "learning_rate", "grad_norm", "tokens", "mix", "epochs", "samples", "bad_steps")
    return [{key: record.get(key) for key in kept} for record in map(json.loads, lines)]


def write_checkpoint(
    folder: Path, files: ModelFiles, weights: dict[str, Any], run: dict[str, Any], metrics: Any = (), **progress: Any
) -> None:
    """Write a checkpoint as the engine does, without a run."""
    nothing = {"x": torch.zeros(1)}
    state = TrainingState({"step": 0, "tokens": 0, **progress}, nothing, nothing, metrics)
    begin_checkpoint(folder)
    outputs = write_share(folder, state, 0) + write_common(
        folder, lambda partial: files.write(weights, partial), state, run
    )
    publish_checkpoint(folder, outputs, {}, state.progress)


class FixedRows:
    """A loader that gives the same random rows at every step."""

    def __init__(self, rows: int, length: int, vocab_size: int) -> None:
        self.rows = np.random.default_rng(0).integers(16, vocab_size, (rows, length + 1)).astype(np.uint16)
        self.sequence_length = self.tokens_per_row = length

    def next_batch(self) -> np.ndarray:
        return self.rows

    def close(self) -> None: ...
