"""SFT: our engine beside TRL's SFTTrainer with PEFT, on the same model, conversations, order, adapters and rates.

    python benchmarks/sft.py --model_path checkpoints/pretrain/tiny/final --data_dir data/sft_processed/NAME

Each variant runs in a process of its own: `ours` packs rows with attention inside each conversation, `trl` takes as
many conversations a step as our rows hold, padded; `full` trains all weights with our engine. Held-out losses of all
are measured by the same code afterwards.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from lumi.model import choose_device, choose_dtype, load_model
from lumi.posttraining import SftConfig, SFTDataset, sft
from lumi.posttraining.sft import SupervisedFineTuning
from lumi.posttraining.trl_backend import conversations_of_run, make_trl_trainer, save_trl
from lumi.training import CausalLMObjective, HeldOutLoss, Ranks, Trainer
from step_clock import StepClock

VARIANTS = ("ours", "trl", "trl-compiled", "full")
WARM_UP = 10


def config_of(variant: str, options: argparse.Namespace, folder: Path) -> SftConfig:
    values = {
        "name": variant,
        "model_path": options.model_path,
        "data_dirs": [options.data_dir],
        "output_dir": str(folder / variant),
        "method": "full" if variant == "full" else "lora",
        "lora": {"r": 16, "alpha": 16.0},
        "optimizer": {"learning_rate": 3e-4 if variant == "full" else 1e-3, "weight_decay": 0.0},
        "schedule": {"max_steps": options.steps},
        "training": {
            "batch_size": options.rows,
            "micro_batch_size": options.micro_rows,
            "save_steps": options.steps,
            "eval_steps": options.steps,
            "eval_rows": 64,
            "log_steps": options.steps,
            "seed": 1,
            **({"compile": True} if variant == "trl-compiled" else {}),
        },
        "sample_prompts": [],
        "use_trl_trainer": variant.startswith("trl"),
    }
    return SftConfig.from_values(values, "benchmark")


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
        sft(config)
    seconds = clock.seconds()
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    print("RESULT " + json.dumps({"seconds": seconds, "memory_gib": memory}))


def train_with_trl(config: SftConfig, clock: StepClock) -> None:
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.mark()

    ranks = Ranks(0, 1, choose_device("auto"))
    recipe = SupervisedFineTuning(config)
    loader = recipe.open_data(ranks)
    trainer = make_trl_trainer(recipe, ranks, evaluate=False)
    trainer.add_callback(Marks())
    trainer.train()
    recipe.files().finish(save_trl(recipe, loader, trainer), config.output_dir / "final")
    loader.close()


def held_out_loss(folder: Path, data_dir: Path) -> float:
    """Mean loss of an answer token over all held-out conversations, float32."""
    device = choose_device("auto")
    model = load_model(folder, device=device, dtype=choose_dtype("fp32", device))
    dataset = SFTDataset(data_dir, "val", check=False)
    objective = CausalLMObjective(documents_per_row=dataset.documents_per_row())
    measure = HeldOutLoss([dataset], objective, rows=1 << 30, micro_batch_size=16, ranks=Ranks(0, 1, device))
    return next(iter(measure(model)["val_loss"].values()))


def answer_tokens(options: argparse.Namespace, folder: Path) -> int:
    """Return how many tokens of answers all steps of a run learn."""
    recipe = SupervisedFineTuning(config_of("ours", options, folder))
    recipe.open_data(Ranks(0, 1, torch.device("cpu"))).close()
    taken = conversations_of_run(recipe)
    return sum(int(dataset.conversation(index).loss.sum()) for dataset, index in taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--variants", nargs="+", default=["ours", "trl", "full"], choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--micro_rows", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options, options.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        learned = answer_tokens(options, folder)
        found = {}
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
                "answer_tokens_per_second": learned / options.steps / median,
                "memory_gib": result["memory_gib"],
                "held_out_loss": held_out_loss(folder / variant / "final", Path(options.data_dir)),
                "trained": json.loads((folder / variant / "final/run.json").read_text())
                .get("parameters", {}).get("trained"),
            }  # fmt: skip
            print(f"{variant}: {json.dumps(found[variant])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    rows = [f"| {name} | {one['answer_tokens_per_second']:,.0f} | {one['seconds_per_step'] * 1e3:.1f} |"
            f" {one['memory_gib'] or 0:.2f} | {one['held_out_loss']:.4f} |" for name, one in found.items()]  # fmt: skip
    print("| variant | answer tokens/s | ms a step | peak GiB | held-out loss |\n| --- | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
