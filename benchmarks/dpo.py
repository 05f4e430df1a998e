"""DPO: our engine beside TRL's DPOTrainer with PEFT, on the same model, pairs, order, adapters and rates.

    python benchmarks/dpo.py --model_path checkpoints/sft_industrial/tiny/final --data_dirs data/dpo_processed/NAME ...

Each variant runs in a process of its own: `ours` packs both sides of pairs into rows of two lines, its reference's
log-probabilities stored beforehand; `live` works them out at every step; `full` trains all weights; `trl` takes as many
pairs a step as our rows hold, padded, its reference precomputed (`trl-live`: not). What a run has learned is measured
by the same code afterwards: on how many held-out pairs the chosen answer is the likelier one, in all and a token, and
on how many it has become likelier, against the model before, than the rejected one has (the implicit reward).
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from lumi.model import choose_device, choose_dtype, load_model
from lumi.posttraining import DpoConfig, PreferenceDataset, dpo
from lumi.posttraining.dpo import PreferenceTuning
from lumi.posttraining.stored_reference import reference_log_probs
from lumi.posttraining.trl_backend import save_trl
from lumi.posttraining.trl_preferences import make_trl_trainer, pairs_of_run
from lumi.training import Ranks, Trainer
from step_clock import StepClock

VARIANTS = ("ours", "live", "full", "trl", "trl-live")
WARM_UP = 10


def config_of(variant: str, options: argparse.Namespace, folder: Path) -> DpoConfig:
    values = {
        "name": variant,
        "model_path": options.model_path,
        "data_dirs": options.data_dirs,
        "output_dir": str(folder / variant),
        "method": "full" if variant == "full" else "lora",
        "lora": {"r": 16, "alpha": 16.0},
        "reference": "live" if "live" in variant else "stored",
        "optimizer": {"learning_rate": options.learning_rate / (10 if variant == "full" else 1), "weight_decay": 0.0},
        "schedule": {"max_steps": options.steps},
        "training": {
            "batch_size": options.rows,
            "micro_batch_size": options.micro_rows,
            "save_steps": options.steps,
            "eval_steps": options.steps,
            "eval_rows": 64,
            "log_steps": 1,
            "seed": 1,
        },
        "sample_prompts": [],
        "use_trl_trainer": variant.startswith("trl"),
    }
    return DpoConfig.from_values(values, "benchmark")


def work(variant: str, options: argparse.Namespace, folder: Path) -> None:
    config, clock = config_of(variant, options, folder), StepClock()
    if variant.startswith("trl"):
        train_with_trl(config, clock)
    else:
        step = Trainer.train_step

        def timed(trainer: Trainer) -> None:
            step(trainer)
            clock.mark()

        Trainer.train_step = timed
        dpo(config)
    seconds = clock.seconds()
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    print("RESULT " + json.dumps({"seconds": seconds, "memory_gib": memory}))


def train_with_trl(config: DpoConfig, clock: StepClock) -> None:
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.mark()

    ranks = Ranks(0, 1, choose_device("auto"))
    recipe = PreferenceTuning(config)
    loader = recipe.open_data(ranks)
    trainer = make_trl_trainer(recipe, ranks, evaluate=False)
    trainer.add_callback(Marks())
    trainer.train()
    recipe.files().finish(save_trl(recipe, loader, trainer), config.output_dir / "final")
    loader.close()


def log_probs(folder: Path, dataset: PreferenceDataset) -> np.ndarray:
    device = choose_device("auto")
    model = load_model(folder, device=device, dtype=choose_dtype("fp32", device))
    return reference_log_probs(dataset, model, rows_at_once=8).astype(np.float64)


def accuracies(before: np.ndarray, after: np.ndarray, tokens: np.ndarray) -> dict[str, list[float]]:
    """Return share and standard error of pairs on which the chosen side leads, by each measure."""
    gaps = {
        "likelier": after[:, 0] - after[:, 1],
        "likelier a token": after[:, 0] / tokens[:, 0] - after[:, 1] / tokens[:, 1],
        "implicit reward": (after - before)[:, 0] - (after - before)[:, 1],
    }
    shares = {name: float(((np.sign(gap) + 1) / 2).mean()) for name, gap in gaps.items()}
    return {name: [share, math.sqrt(share * (1 - share) / len(after))] for name, share in shares.items()}


def answer_tokens(dataset: PreferenceDataset) -> np.ndarray:
    count = len(dataset.lengths)
    return np.array([[int(dataset.files[2 * n + side].loss.sum()) for side in range(2)] for n in range(count)])


def curve(folder: Path) -> list[float]:
    lines = (folder / "final/training_state/metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record.get("loss") is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--data_dirs", required=True, nargs="+")
    parser.add_argument("--variants", nargs="+", default=["ours", "live", "full", "trl"], choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--micro_rows", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options, options.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        recipe = PreferenceTuning(config_of("live", options, folder))
        recipe.open_data(Ranks(0, 1, torch.device("cpu"))).close()
        pairs = len(pairs_of_run(recipe))
        held_out = [PreferenceDataset(Path(path), "val", check=False) for path in options.data_dirs]
        tokens = [answer_tokens(dataset) for dataset in held_out]
        before = [log_probs(Path(options.model_path), dataset) for dataset in held_out]
        found = {}
        for dataset, base, sizes in zip(held_out, before, tokens, strict=True):
            print(
                f"before, {dataset.name}, {len(sizes)} pairs: {json.dumps(accuracies(base, base, sizes))}", flush=True
            )
        for variant in options.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", variant, "--folder", str(folder)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
            line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
            if line is None:
                print(f"{variant}: failed\n{output[-2000:]}")
                continue
            result = json.loads(line.removeprefix("RESULT "))
            median = statistics.median(result["seconds"][WARM_UP:] or result["seconds"])
            found[variant] = {
                "seconds_per_step": median,
                "pairs_per_second": pairs / options.steps / median,
                "memory_gib": result["memory_gib"],
                "curve": curve(folder / variant),
                "accuracies": {
                    dataset.name: accuracies(base, log_probs(folder / variant / "final", dataset), sizes)
                    for dataset, base, sizes in zip(held_out, before, tokens, strict=True)
                },
            }
            print(f"{variant}: {json.dumps({k: v for k, v in found[variant].items() if k != 'curve'})}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print("| variant | pairs/s | ms a step | peak GiB | loss, steps 1-10 | 21-30 | 41-50 |\n| --- |" + " ---: |" * 6)
    for name, one in found.items():
        losses = [statistics.fmean(one["curve"][start : start + 10] or [math.nan]) for start in (0, 20, 40)]
        shown = " | ".join(f"{loss:.4f}" for loss in losses)
        print(f"| {name} | {one['pairs_per_second']:,.0f} | {one['seconds_per_step'] * 1e3:.1f} |"
              f" {one['memory_gib'] or 0:.2f} | {shown} |")  # fmt: skip


if __name__ == "__main__":
    main()
