"""Training throughput, ours beside compiled transformers, in one run on one card.

    python benchmarks/training.py --shapes tiny small base --json results.json

Both train on the same rows with bf16 activations, float32 weights, gradient clipping and fused AdamW. The peer
is `transformers.LlamaForCausalLM` under autocast and torch.compile. Each figure is the median over windows of
steps, the two programs taking turns, so that a drifting machine moves both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from lumi.model import ModelConfig, create_model, training_flops_per_token
from lumi.training import CausalLMObjective, OptimizerConfig, Ranks, RunFolder, ScheduleConfig, Trainer, TrainingConfig
from lumi.training.cards import peak_flops

SHAPES = {  # layers, width, heads, row length, rows in a step, rows in a forward pass
    "tiny": (6, 256, 4, 1024, 64, 64),
    "small": (12, 512, 8, 1024, 64, 64),
    "base": (24, 768, 12, 2048, 32, 32),
    "cpu": (4, 128, 2, 256, 8, 8),
}


class FixedRows:
    """A loader that gives the same random rows at every step: the engine alone is timed."""

    def __init__(self, rows: int, length: int, vocab_size: int) -> None:
        self.rows = np.random.default_rng(0).integers(16, vocab_size, (rows, length + 1)).astype(np.uint16)
        self.sequence_length = self.tokens_per_row = length

    def next_batch(self) -> np.ndarray:
        return self.rows

    def rows_drawn(self) -> dict[str, int]:
        return {}

    def epochs(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, int]:
        return {"position": 0}

    def require_unchanged(self) -> None: ...

    def close(self) -> None: ...


def our_step(config: ModelConfig, rows: int, micro: int, device: torch.device):
    torch._dynamo.reset()
    trainer = Trainer(
        model=create_model(config).to(device),
        objective=CausalLMObjective(),
        loader=FixedRows(rows, config.sequence_length, config.vocab_size),
        files=None,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(max_steps=10_000),
        training=TrainingConfig(batch_size=rows, precision="bf16"),
        ranks=Ranks(0, 1, device),
        run=RunFolder(Path("unused"), {}, {}),
        micro_batch_size=micro,
    )
    return trainer.train_step


def their_step(config: ModelConfig, rows: int, micro: int, device: torch.device):
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(**config.to_transformers(), attn_implementation="sdpa")
    model = LlamaForCausalLM(settings).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batch = torch.from_numpy(FixedRows(rows, config.sequence_length, config.vocab_size).rows.astype("int64"))
    batch = batch[:, :-1].contiguous().to(device)
    forward = torch.compile(model, dynamic=False) if device.type == "cuda" else model

    def step() -> None:
        for part in batch.split(micro):
            with torch.autocast(device.type, torch.bfloat16):
                loss = forward(input_ids=part, labels=part).loss
            (loss * len(part) / rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_per_step(step, steps: int, device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - started) / steps


def measure(name: str, windows: int, steps: int, device: torch.device) -> dict:
    layers, width, heads, length, rows, micro = SHAPES[name]
    vocab_size = 4096 if name == "cpu" else 32768
    config = ModelConfig(vocab_size=vocab_size, n_layer=layers, d_model=width, n_head=heads, sequence_length=length)
    times: dict[str, list[float]] = {"lumi": [], "transformers": []}
    memory, runs = {}, {}
    for label, build in (("lumi", our_step), ("transformers", their_step)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        runs[label] = build(config, rows, micro, device)
        seconds_per_step(runs[label], 5, device)  # compile and warm up
        if device.type == "cuda":
            memory[label] = (torch.cuda.max_memory_allocated() - before) / 2**30
    for _ in range(windows):
        for label, run in runs.items():
            times[label].append(seconds_per_step(run, steps, device))
    rate = {label: rows * length / statistics.median(values) for label, values in times.items()}
    peak = peak_flops(device, None)
    flops = training_flops_per_token(config, length)
    return {
        "shape": name,
        "tokens_per_second": rate,
        "ratio": rate["lumi"] / rate["transformers"],
        "utilisation": {label: value * flops / peak if peak else None for label, value in rate.items()},
        "peak_memory_gib": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["cpu"])
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    results = []
    for name in arguments.shapes:
        result = measure(name, arguments.windows, arguments.steps, device)
        results.append(result)
        rate, use, memory = result["tokens_per_second"], result["utilisation"], result["peak_memory_gib"]
        for label in rate:
            shown = f"{use[label]:6.1%} of peak, {memory[label]:5.1f} GiB" if use[label] else ""
            print(f"{name:6} {label:13} {rate[label] / 1e3:9.1f}k tokens/s  {shown}", flush=True)
        print(f"{name:6} ratio {result['ratio']:.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
