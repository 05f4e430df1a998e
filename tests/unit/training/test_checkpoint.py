"""The parts of a checkpoint."""

import json
import random

import numpy as np
import pytest
import torch

from lumi.errors import ResumeError
from lumi.model import ModelConfig, create_model
from lumi.training import OptimizerConfig, newest_complete, verify_checkpoint
from lumi.training.checkpoint import drop_old_checkpoints, step_folders
from lumi.training.optimizer import load_optimizer_tensors, make_optimizer, optimizer_tensors, step_unless_bad
from lumi.training.random_state import rng_state, set_rng_state

CONFIG = ModelConfig(vocab_size=32, n_layer=1, d_model=16, n_head=1, head_dim=16, sequence_length=8)


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


@pytest.mark.parametrize("before", [0, 1, 2], ids=["fresh", "a second normal is kept back", "both used"])
def test_global_generators_continue_where_they_were(before):
    for _ in range(before):
        random.gauss(0, 1)
        np.random.randn()
    state = rng_state()
    expected = draw()
    draw()
    set_rng_state(state)
    assert draw() == expected


def trained_optimizer(steps):
    model = create_model(CONFIG)
    optimizer = make_optimizer(dict(model.named_parameters()), OptimizerConfig(learning_rate=0.01))
    for _ in range(steps):
        model(torch.arange(8).unsqueeze(0)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_the_optimizer_continues_where_it_was():
    model, optimizer = trained_optimizer(3)
    other, fresh = trained_optimizer(0)
    other.load_state_dict(model.state_dict())
    saved = optimizer_tensors(dict(model.named_parameters()), optimizer)
    load_optimizer_tensors(dict(other.named_parameters()), fresh, lambda kind, name: saved[f"{kind}.{name}"])
    for one, its in ((model, optimizer), (other, fresh)):
        one(torch.arange(8).unsqueeze(0)).square().sum().backward()
        its.step()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_norms_and_embeddings_are_not_decayed():
    model = create_model(CONFIG)
    decayed = {
        id(p)
        for p in make_optimizer(dict(model.named_parameters()), OptimizerConfig(learning_rate=0.01)).param_groups[0][
            "params"
        ]
    }
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == ("norm" not in name and "embed" not in name), name


def test_a_bad_step_changes_nothing():
    model, optimizer = trained_optimizer(2)
    parameters = dict(model.named_parameters())
    before = {name: t.clone() for name, t in (optimizer_tensors(parameters, optimizer) | parameters).items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_unless_bad(optimizer, torch.tensor(True))
    after = optimizer_tensors(parameters, optimizer) | parameters
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_step_folders_come_newest_first(tmp_path):
    for name in ("step_9", "step_10", "step_100", "step_10.partial", "final", "step_x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in step_folders(tmp_path)] == ["step_100", "step_10", "step_9"]
    drop_old_checkpoints(tmp_path, 2)
    assert [path.name for path in step_folders(tmp_path)] == ["step_100", "step_10"]


def test_what_is_not_there(tmp_path):
    assert newest_complete(tmp_path) is None
    with pytest.raises(ResumeError, match="does not exist"):
        verify_checkpoint(tmp_path / "step_5")


def test_all_files_may_be_read_by_whom_a_new_file_may(trained, tmp_path):
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in trained.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "new").stat().st_mode}


def test_a_checkpoint_holds_no_pickle(trained):
    files = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert {path.rsplit(".", 1)[-1] for path in files} == {"json", "jsonl", "safetensors", "model", "md"}
    run = json.loads((trained / "run.json").read_text())
    assert run["config"]["schedule"]["max_steps"] == run["step"] == 20
    assert run["tokens"] == 20 * 4 * 32
