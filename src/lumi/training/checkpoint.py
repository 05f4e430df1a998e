"""Checkpoints: a folder that transformers loads as it is, plus everything that an exact resume needs.

    step_100/  config.json generation_config.json model.safetensors tokenizer files    the model, for anyone
               run.json                                                                 what made it
               training_state/  optimizer.safetensors  rng.safetensors                  for an exact resume
                                state.json  metrics.jsonl
               manifest.json                                                            complete, and hashed

safetensors and JSON only: nothing in it can run code. The folder is written under another name and renamed
when its manifest is there, so a reader sees a complete checkpoint or none.
"""

import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumi.artifacts import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    complete,
    describe_file,
    manifest_key,
    package_versions,
    read_manifest,
)
from lumi.artifacts import verify as verify_artifact
from lumi.errors import IntegrityError, ResumeError
from lumi.model import Llama
from lumi.model.pretrained import CHECKPOINT, WEIGHTS, write_model
from lumi.progress import say
from lumi.tokenizer import Tokenizer

STATE = "training_state"
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds beside the model."""

    progress: dict[str, Any]  # step, tokens, position in the data, loss scale...: JSON
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]
    metrics: list[dict[str, Any]]


def save_checkpoint(
    folder: Path,
    model: Llama,
    tokenizer: Tokenizer,
    state: TrainingState,
    run: dict[str, Any],
    identity: dict[str, Any],
) -> None:
    """Write one checkpoint; it is complete or not there at all.

    Args:
        folder: where it will stand.
        model: its weights are written in float32.
        tokenizer: copied in, so that the folder needs nothing else.
        state: for the resume.
        run: becomes run.json: resolved config, data, hashes, counts.
        identity: the config's identity; goes into the manifest and its key.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a save that was cut off
    (partial / STATE).mkdir(parents=True)
    files = write_model(model, partial) + tokenizer.export(partial)
    _write_json(partial / "run.json", run)
    save_file(state.optimizer, partial / STATE / "optimizer.safetensors")
    save_file(state.rng, partial / STATE / "rng.safetensors")
    _write_json(partial / STATE / "state.json", state.progress)
    lines = "".join(json.dumps(record) + "\n" for record in state.metrics)
    (partial / STATE / "metrics.jsonl").write_text(lines, encoding="utf8")
    files += ["run.json", *(str(path.relative_to(partial)) for path in (partial / STATE).iterdir())]
    manifest = Manifest(
        kind=CHECKPOINT,
        format_version=FORMAT_VERSION,
        key=manifest_key(CHECKPOINT, identity, ()),
        config=identity,
        inputs=(),
        outputs=tuple(describe_file(partial, file) for file in sorted(files)),
        counts={"step": state.progress["step"], "tokens": state.progress["tokens"]},
        versions=package_versions("torch", "safetensors"),
    )
    complete(partial, folder, manifest)


def link_checkpoint(source: Path, target: Path) -> None:
    """Let a second name (``final``) stand for a complete checkpoint, without copying its bytes."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    manifest = read_manifest(source, CHECKPOINT, "train again")
    for name in (MANIFEST, "run_info.json"):  # written anew: a link must not change the other name's file
        (partial / name).unlink(missing_ok=True)
    complete(partial, target, manifest)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def verify_checkpoint(folder: Path) -> Manifest:
    """Hash a checkpoint against its manifest.

    Raises:
        ResumeError: there is no such folder.
        IntegrityError: incomplete or damaged.
    """
    if not folder.is_dir():
        raise ResumeError(f"checkpoint {folder} does not exist", "check the path; complete ones are named step_N")
    return verify_artifact(folder, CHECKPOINT, "resume from an older step folder, or pass --fresh to start anew")


def read_run(folder: Path) -> dict[str, Any]:
    """Read what made a checkpoint."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf8"))
    return run


def read_state(folder: Path) -> TrainingState:
    """Read what an exact resume needs from a verified checkpoint."""
    lines = (folder / STATE / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return TrainingState(
        progress=json.loads((folder / STATE / "state.json").read_text(encoding="utf8")),
        optimizer=load_file(folder / STATE / "optimizer.safetensors"),
        rng=load_file(folder / STATE / "rng.safetensors"),
        metrics=[json.loads(line) for line in lines],
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a verified checkpoint."""
    return load_file(folder / WEIGHTS)


def step_folders(run_folder: Path) -> list[Path]:
    """Return the step folders of a run, newest first, complete or not."""
    found = [(int(match[1]), path) for path in run_folder.glob("step_*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest_complete(run_folder: Path) -> Path | None:
    """Return the newest checkpoint whose every byte is right, saying which were skipped and why."""
    for folder in step_folders(run_folder):
        try:
            verify_checkpoint(folder)
        except IntegrityError as error:
            say(f"skipping {folder.name}: {error.fact}")
            continue
        return folder
    return None


def drop_old_checkpoints(run_folder: Path, keep: int | None) -> None:
    """Delete all step folders but the ``keep`` newest."""
    for folder in step_folders(run_folder)[keep:] if keep is not None else []:
        # first without its manifest: a deletion cut off half-way must not look like a checkpoint
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def rng_state() -> dict[str, Tensor]:
    """Return the state of every global generator (Python, NumPy, torch, CUDA) as tensors."""
    _, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    state = {
        "python": torch.tensor([*words, -1 if gauss is None else 1], dtype=torch.int64),
        "python_gauss": torch.tensor(gauss or 0.0, dtype=torch.float64),
        "numpy_key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(
            [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]], dtype=torch.float64
        ),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Put `rng_state` back."""
    *words, has_gauss = state["python"].tolist()
    random.setstate((3, tuple(words), state["python_gauss"].item() if has_gauss == 1 else None))
    position, has_numpy_gauss, gauss = state["numpy_rest"].tolist()
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": state["numpy_key"].numpy().astype(np.uint32), "pos": int(position)},
            "has_gauss": int(has_numpy_gauss),
            "gauss": gauss,
        }
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
