"""Small real DPO runs for the tests: a tuned model with fresh weights, and preferences that train in seconds."""

import json
from pathlib import Path
from typing import Any

from tests.corpora import PLAIN
from tests.sft_runs import ANIMALS, SHAPE
from tests.training_runs import write_checkpoint

from lumi.conversation import find_template
from lumi.model import create_model
from lumi.model.pretrained import weights
from lumi.posttraining import DpoConfig, DpoCorpusConfig, prepare_dpo_corpus
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel


def make_tuned(folder: Path, tokenizer_dir: Path, seed: int = 1, template: str = "chatml") -> Path:
    """Write a checkpoint that says it was tuned."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    model = create_model(SHAPE, seed=seed)
    run = {"tokenizer_sha256": tokenizer.sha256, "config": {}, "phases": [], "step": 0}
    write_checkpoint(folder, WholeModel(SHAPE, tokenizer, find_template(template)), weights(model), run)
    return folder


def rows(start: int = 0, count: int = 60) -> list[dict[str, Any]]:
    """Return pairs: the polite answer is preferred; some have a turn before."""
    made = []
    for number in range(start, start + count):
        animal = ANIMALS[number % 10]
        before = [{"role": "user", "content": f"Hello {number}!"}, {"role": "assistant", "content": "Hello."}]
        asked = [*before * (number % 3 == 0), {"role": "user", "content": f"Where is the {animal} {number}?"}]
        kind, rude = f"The {animal} is at {number * 7}, please.", f"Find the {animal} {number} yourself."
        made.append({
            "chosen": [*asked, {"role": "assistant", "content": kind}],
            "rejected": [*asked, {"role": "assistant", "content": rude}],
        })  # fmt: skip
    return made


def make_preferences(root: Path, tokenizer_dir: Path, name: str = "pairs", **changes: Any) -> Path:
    """Prepare preferences through the real stage."""
    raw = root / f"{name}.jsonl"
    made = changes.pop("made", None) or rows(**changes.pop("rows", {}))
    raw.write_text("".join(json.dumps(row) + "\n" for row in made))
    values = {
        "name": name,
        "sources": [{"name": name, "kind": "jsonl", "files": [str(raw)], "licence": "made here"}],
        **PLAIN,
        "near_duplicates": {"drop_near_duplicates": False},
        "tokenizer_path": str(tokenizer_dir),
        "sequence_length": 128,
        "val_fraction": 0.2,
        "corpus_dir": str(root / f"{name}-corpus"),
        "output_dir": str(root / name),
        "num_workers": 1,
    }
    prepare_dpo_corpus(DpoCorpusConfig.from_values({**values, **changes}, "test"))
    return root / name


def settings(tuned: Path, data_dirs: list[Path], output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return a config file's contents; ``changes`` are flat or ``section__key``."""
    config: dict[str, Any] = {
        "name": "test",
        "model_path": str(tuned),
        "lora": {"r": 4, "alpha": 8},
        "optimizer": {"learning_rate": 0.01, "weight_decay": 0.0},
        "schedule": {"max_steps": 20},
        "training": {"batch_size": 2, "log_steps": 1, "save_steps": 10, "eval_rows": 4, "device": "cpu"},
        "sample_prompts": ["Where is the fox?"],
        "sample_tokens": 8,
        "data_dirs": [str(path) for path in data_dirs],
        "output_dir": str(output_dir),
    }
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def config(tuned: Path, data_dirs: list[Path], output_dir: Path, **changes: Any) -> DpoConfig:
    return DpoConfig.from_values(settings(tuned, data_dirs, output_dir, **changes), where="test")
