"""What the launcher's variables say, and what they must not."""

import pytest
import torch

from lumi.errors import ConfigError, LumiError
from lumi.training import Ranks
from lumi.training.distributed import _place

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS",
         "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")  # fmt: skip
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def set_all(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    "values, place",
    [
        ({}, (False, 0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **MEETING}, (True, 3, 4, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2", **MEETING}, (True, 5, 8, 2)),
        # torchrun inside a Slurm job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "WORLD_SIZE": "2", **MEETING}, (True, 1, 2, 0)),
        # an interactive Slurm shell
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (False, 0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", **MEETING}, (True, 0, 1, 0)),
    ],
    ids=["python", "torchrun", "srun", "torchrun in a job", "Slurm's shell", "torchrun with one"],
)
def test_where_a_process_is(environment, values, place):
    environment(**values)
    assert _place() == place


@pytest.mark.parametrize(
    "values, message",
    [
        ({"RANK": "2", "WORLD_SIZE": "2", **MEETING}, "RANK=2, WORLD_SIZE=2"),
        ({"RANK": "one", "WORLD_SIZE": "2", **MEETING}, "not whole numbers"),
        ({"RANK": "-1", "WORLD_SIZE": "2", **MEETING}, "do not fit together"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "2", **MEETING}, "RANK is not set"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, "srun started 4 tasks"),
    ],
    ids=["rank past the end", "no number", "negative", "nowhere to meet", "no rank", "srun without an address"],
)
def test_variables_that_do_not_fit_together(environment, values, message):
    environment(**values)
    with pytest.raises(ConfigError, match=message):
        _place()


def test_a_process_that_is_alone():
    ranks = Ranks(0, 1, torch.device("cpu"))
    assert ranks.hosts.gather({"a": 1}) == [{"a": 1}]
    assert ranks.hosts.any(True, False) == (True, False)
    assert ranks.sum(torch.tensor(3)).item() == 3
    with pytest.raises(LumiError, match="broken"), ranks.together():
        raise LumiError("broken", "mend it")
    with pytest.raises(RuntimeError, match="gloo"), ranks.watched():  # no other rank can be to blame
        raise RuntimeError("gloo")
