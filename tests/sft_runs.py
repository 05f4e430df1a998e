"""Small real SFT runs for the tests: a base model with fresh weights, and conversations that train in seconds."""

import json
from pathlib import Path
from typing import Any

from tests.corpora import PLAIN
from tests.training_runs import write_checkpoint

from lumi.model import ModelConfig, create_model
from lumi.model.pretrained import weights
from lumi.posttraining import SftConfig, SftCorpusConfig, prepare_sft_corpus
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel

SHAPE = ModelConfig(vocab_size=320, n_layer=2, d_model=32, n_head=2, head_dim=16, sequence_length=128)
ANIMALS = ["fox", "dog", "cat", "cow", "owl", "hen", "ant", "bee", "elk", "eel"]


def make_base(folder: Path, tokenizer_dir: Path, seed: int = 1) -> Path:
    """Write a base model's checkpoint."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    model = create_model(SHAPE, seed=seed)
    run = {"tokenizer_sha256": tokenizer.sha256, "config": {}, "phases": [], "step": 0}
    write_checkpoint(folder, WholeModel(SHAPE, tokenizer), weights(model), run)
    return folder


def rows(start: int = 0, count: int = 60, verb: str = "is at") -> list[dict[str, Any]]:
    """Return rows in OpenAI's shape, of one or two exchanges."""
    made = []
    for number in range(start, start + count):
        animal = ANIMALS[number % 10]
        said = [("user", f"Where is the {animal} {number}?"), ("assistant", f"The {animal} {verb} {number * 7}.")]
        if number % 3 == 0:
            said += [("user", "Why?"), ("assistant", f"It likes {number}.")]
        made.append({"messages": [{"role": role, "content": text} for role, text in said]})
    return made


def make_conversations(root: Path, tokenizer_dir: Path, name: str = "chats", **changes: Any) -> Path:
    """Prepare conversations through the real stage."""
    raw = root / f"{name}.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows(**changes.pop("rows", {}))))
    settings = {**PLAIN, "near_duplicates": {"drop_near_duplicates": False}}
    values = {
        "name": name,
        "sources": [{"name": name, "kind": "jsonl", "files": [str(raw)], "licence": "made here"}],
        **settings,
        "tokenizer_path": str(tokenizer_dir),
        "sequence_length": 128,
        "val_fraction": 0.2,
        "corpus_dir": str(root / f"{name}-corpus"),
        "output_dir": str(root / name),
        "num_workers": 1,
    }
    prepare_sft_corpus(SftCorpusConfig.from_values({**values, **changes}, "test"))
    return root / name


def settings(base: Path, data_dirs: list[Path], output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return a config file's contents; ``changes`` are flat or ``section__key``."""
    config: dict[str, Any] = {
        "name": "test",
        "model_path": str(base),
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
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


def config(base: Path, data_dirs: list[Path], output_dir: Path, **changes: Any) -> SftConfig:
    return SftConfig.from_values(settings(base, data_dirs, output_dir, **changes), where="test")
