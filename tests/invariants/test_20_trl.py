"""Invariant 20: TRL's SFTTrainer, given the same, finds the same losses and gradients."""

import json

import pytest
from safetensors.torch import load_file
from tests.sft_runs import config

from lumi.model import load_model
from lumi.posttraining import sft

pytest.importorskip("trl")


def logged(folder, key):
    lines = (folder / "training_state/metrics.jsonl").read_text().splitlines()
    return [record[key] for record in map(json.loads, lines) if key in record]


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("micro", [1, 4])
def test_the_first_steps_are_the_same(base, chats, tmp_path, method, micro):
    shared = {"method": method, "packing": False, "training__batch_size": 4, "training__micro_batch_size": micro,
              "schedule__max_steps": 8, "training__save_steps": 8, "lora": {"r": 4, "alpha": 8}}  # fmt: skip
    ours = sft(config(base, [chats], tmp_path / "ours", **shared))
    theirs = sft(config(base, [chats], tmp_path / "theirs", use_trl_trainer=True, **shared))
    for key in ("loss", "grad_norm", "learning_rate"):
        assert logged(theirs, key)[:8] == pytest.approx(logged(ours, key), rel=2e-3), key
    one, other = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 2e-3
    load_model(theirs)
