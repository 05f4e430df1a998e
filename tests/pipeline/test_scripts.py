"""The blueprint's commands as they are written, through the scripts, as a user would type them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training_runs import REPOSITORY, settings

PYTHON = [sys.executable]
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--cpu",
    "--num_processes",
    "1",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]


def script(name, *options, launcher=PYTHON, cwd=REPOSITORY, code=0):
    command = [*launcher, str(REPOSITORY / "scripts" / name), *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert code == 0 or "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_corpus_tokenizer_packing_training_evaluation(tmp_path):
    corpus = REPOSITORY / "config/datasets/sources/synthetic.json"
    out = script("01_prepare_corpus.py", "--config", corpus, "--output_dir", tmp_path / "corpus/a")
    assert "documents" in out
    assert "up to date" in script("01_prepare_corpus.py", "--config", corpus, "--output_dir", tmp_path / "corpus/a")
    tokenizer = {
        "corpus_dirs": [str(tmp_path / "corpus/a")],
        "output_dir": str(tmp_path / "tokenizer"),
        "vocab_size": 512,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    script("02_train_tokenizer.py", "--config", tmp_path / "tokenizer.json")
    for name, seed in (("a", 0), ("b", 1)):
        script(
            "03_pack_dataset.py",
            "--corpus_dir",
            tmp_path / "corpus/a",
            "--tokenizer_path",
            tmp_path / "tokenizer/spm32k.model",
            "--output_dir",
            tmp_path / name,
            "--sequence_length",
            32,
            "--val_fraction",
            0.1,
            "--seed",
            seed,
        )
    (tmp_path / "run.json").write_text(json.dumps(settings([tmp_path / "a"], tmp_path / "run", model__vocab_size=512)))
    run = [
        "--config",
        tmp_path / "run.json",
        "--data_dirs",
        tmp_path / "a",
        tmp_path / "b",
        "--data_weights",
        0.3,
        0.7,
        "--max_steps",
        8,
        "--save_steps",
        4,
    ]
    script("04_pretrain.py", *run, launcher=LAUNCH)
    mix = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [record["mix"] for record in mix if "mix" in record][-1] == {"a": 10, "b": 22}
    assert "up to date" in script("04_pretrain.py", *run)
    again = script(
        "04_pretrain.py", *run, "--output_dir", tmp_path / "run2", "--resume_from_checkpoint", tmp_path / "run/step_4"
    )
    assert "resuming from" in again
    script(
        "05_evaluate.py",
        "--model_path",
        tmp_path / "run/final",
        "--tokenizer_path",
        tmp_path / "tokenizer/spm32k.model",
        "--output_dir",
        tmp_path / "evaluation_results",
        "--tasks",  # none
        "--prompts",
        "None",
    )
    (found,) = (tmp_path / "evaluation_results").glob("*-run-final/results.json")
    results = json.loads(found.read_text())
    assert {m["name"] for m in results["held_out"]} == {"a", "b"}


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("01_prepare_corpus.py", ["--config", "nowhere.json", "--output_dir", "x"], "nowhere.json does not exist"),
        (
            "03_pack_dataset.py",
            ["--corpus_dir", "x", "--tokenizer_path", "y.model", "--output_dir", "z"],
            "No tokenizer found",
        ),
        ("04_pretrain.py", ["--config", REPOSITORY / "config/tiny.json"], "no packed data at"),
        ("05_evaluate.py", ["--model_path", "nowhere"], "no model at"),
        ("06_serve.py", ["--model_path", "nowhere"], "no model at"),
    ],
)
def test_errors_are_one_clear_message_and_exit_1(tmp_path, name, options, message):
    out = script(name, *options, cwd=tmp_path, code=1)
    assert message in out
    assert "  -> " in out


def test_every_script_is_short():
    for path in Path(REPOSITORY / "scripts").glob("0*.py"):
        assert len(path.read_text().splitlines()) <= 30
