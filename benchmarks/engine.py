"""What the engine's safety and its wrappers cost: determinism, saves, ddp, fsdp, and more cards.

    python benchmarks/engine.py --shapes tiny small --json engine.json
    python benchmarks/engine.py --shapes small base --world_sizes 1 2 --variants ddp fsdp

Every variant trains in processes of its own on the same random rows, and the variants take turns, so that a drifting
machine moves all. A figure is the median step. A save's pause is how much longer than the median the device took for
the step after it; the checkpoints are real ones.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lumi.model import ModelConfig, create_model, training_flops_per_token
from lumi.randomness import use_deterministic_kernels
from lumi.tokenizer import Tokenizer
from lumi.training import (
    CausalLMObjective,
    OptimizerConfig,
    RunFolder,
    ScheduleConfig,
    Trainer,
    TrainingConfig,
    WholeModel,
    join_ranks,
)
from lumi.training.cards import peak_flops
from small_data import make_small_data
from training import SHAPES, FixedRows

VARIANTS = ("plain", "deterministic", "saving", "ddp", "fsdp")
SAVES = 3


def work(variant: str, shape: str, steps: int, folder: Path) -> None:
    """Train in this process; rank 0 prints the seconds of each step."""
    layers, width, heads, length, rows, micro = SHAPES[shape]
    if variant == "deterministic":
        use_deterministic_kernels()
    ranks = join_ranks()
    vocab_size = 4096 if shape == "cpu" else 32768
    config = ModelConfig(vocab_size=vocab_size, n_layer=layers, d_model=width, n_head=heads, sequence_length=length)
    total = steps * (SAVES + 1) if variant == "saving" else steps + 5
    trainer = Trainer(
        model=create_model(config).to(ranks.device),
        objective=CausalLMObjective(),
        loader=FixedRows(rows, length, vocab_size),
        files=WholeModel(config, Tokenizer.load(folder / "tokenizer")),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(max_steps=total),
        training=TrainingConfig(
            batch_size=rows * ranks.world_size,
            precision="bf16",
            save_steps=steps if variant == "saving" else total,
            eval_steps=total,
            log_steps=total,
            parallel="fsdp" if variant == "fsdp" else "ddp",
        ),
        ranks=ranks,
        run=RunFolder(folder / "run", {}, {}),
        micro_batch_size=micro,
    )
    (folder / "run").mkdir(exist_ok=True)
    marks: list = []
    real = trainer.train_step

    def timed() -> None:
        real()
        if ranks.device.type == "cuda":
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    trainer.train_step = timed
    holds: list[float] = []
    save = trainer.save

    def held() -> None:
        started = time.perf_counter()
        save()
        holds.append(time.perf_counter() - started)

    trainer.save = held
    trainer.fit()
    trainer.close()
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
        seconds = [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]
    else:
        seconds = [b - a for a, b in itertools.pairwise(marks)]
    if ranks.is_first:
        memory = torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else None
        print("RESULT " + json.dumps({"seconds": seconds, "host_holds": holds, "memory_gib": memory}))
    ranks.close()


def launch(variant: str, shape: str, steps: int, folder: Path, world_size: int) -> dict:
    """Run one variant in its own processes; return what rank 0 found."""
    command = [
        sys.executable,
        __file__,
        "--work",
        variant,
        "--shapes",
        shape,
        "--steps",
        str(steps),
        "--folder",
        str(folder),
    ]
    places: list[dict[str, str]] = [{}]
    if variant in ("ddp", "fsdp"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        places = [
            {**meeting, "WORLD_SIZE": str(world_size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            for rank in range(world_size)
        ]
    running = [
        subprocess.Popen(
            command, env={**os.environ, **place}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for place in places
    ]
    outputs = [process.communicate(timeout=600) for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{variant} failed:\n" + "\n".join(error[-3000:] for _, error in outputs))
    line = next(line for line in outputs[0][0].splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def summary(variant: str, shape: str, world_size: int, results: list[dict], steps: int) -> dict:
    layers, width, heads, length, rows, _ = SHAPES[shape]
    settled = [second for result in results for second in result["seconds"][4:]]
    step = statistics.median(settled)
    config = ModelConfig(n_layer=layers, d_model=width, n_head=heads, sequence_length=length)
    rate = rows * length * world_size / step
    peak = peak_flops(torch.device("cuda", 0), None) if torch.cuda.is_available() else None
    out = {
        "shape": shape,
        "variant": variant,
        "world_size": world_size,
        "step_ms": 1e3 * step,
        "tokens_per_second": rate,
        "utilisation": rate * training_flops_per_token(config, length) / peak / world_size if peak else None,
        "memory_gib": results[0]["memory_gib"],
    }
    if variant == "saving":
        # interval n (from 0) is the step n + 2; a save follows each step that is a multiple of `steps`
        after = [result["seconds"][save * steps - 1] - step for result in results for save in range(1, SAVES + 1)]
        out |= {
            "pauses_ms": [1e3 * pause for pause in after],
            "largest_step_ms": 1e3 * max(settled),
            "host_holds_ms": [1e3 * hold for result in results for hold in result["host_holds"]],
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["cpu"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--world_sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.shapes[0], options.steps, options.folder)
        return
    found = []
    with tempfile.TemporaryDirectory() as name:
        make_small_data(Path(name))
        for shape in options.shapes:
            runs = [
                (variant, world_size)
                for variant in options.variants
                for world_size in (options.world_sizes if variant in ("ddp", "fsdp") else [1])
            ]
            results: dict = {run: [] for run in runs}
            for _ in range(options.rounds):
                for variant, world_size in runs:
                    results[variant, world_size].append(launch(variant, shape, options.steps, Path(name), world_size))
            rows = [summary(*run[:1], shape, run[1], results[run], options.steps) for run in runs]
            found += rows
            first = rows[0]["step_ms"]
            print(f"\n{shape}: {'':16}{'cards':>6}{'ms a step':>11}{'tokens/s':>12}{'of the first':>14}{'GiB':>7}")
            for row in rows:
                memory = f"{row['memory_gib']:.1f}" if row["memory_gib"] else "-"
                print(
                    f"  {row['variant']:20}{row['world_size']:>6}{row['step_ms']:>11.2f}"
                    f"{row['tokens_per_second']:>12,.0f}{first / row['step_ms']:>14.3f}{memory:>7}"
                )
                if "pauses_ms" in row:
                    print("    pauses after saves, ms: " + ", ".join(f"{pause:.1f}" for pause in row["pauses_ms"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
