"""Looking at checkpoints."""

import pytest
from tests.training_runs import config

from lumi.errors import DataError
from lumi.pretraining import pretrain
from lumi.training.inspection import DiffConfig, ListConfig, VerifyConfig, diff, list_checkpoints, verify


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected") / "run"
    pretrain(config([packed], folder))
    return folder


@pytest.fixture
def damaged(run, packed, tmp_path):
    pretrain(config([packed], tmp_path / "run"))
    path = tmp_path / "run/step_10/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # best/ may share the bytes
    path.write_bytes(data)
    (tmp_path / "run/step_20/manifest.json").unlink()
    return tmp_path / "run"


def test_a_list_of_them(run, capsys):
    list_checkpoints(ListConfig(path=run))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "step_" in line]
    assert [line[:3] for line in lines] == [["step_20", "20", "2,560"], ["step_10", "10", "1,280"]]
    assert "final," in lines[0]
    assert "best" in lines[0]
    with pytest.raises(DataError, match="no checkpoint in"):
        list_checkpoints(ListConfig(path=run.parent))


def test_what_is_damaged_is_named(run, damaged, capsys):
    verify(VerifyConfig(path=run))
    assert capsys.readouterr().out.count("whole") == 2
    with pytest.raises(SystemExit) as ended:
        verify(VerifyConfig(path=damaged))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "step_10: DAMAGED" in said
    assert "model.safetensors" in said
    assert "step_20: DAMAGED" in said
    list_checkpoints(ListConfig(path=damaged))
    assert "not complete" in capsys.readouterr().out


def test_what_differs_between_two(run, packed, tmp_path, capsys):
    diff(DiffConfig(paths=(run / "step_20", run / "final")))
    said = capsys.readouterr().out
    for part in ("run.json: 0 of", "weights: 0 of 21", "optimiser: 0 of 63", "rank 0: equal", "equal in all 20 lines"):
        assert part in said
    pretrain(config([packed], tmp_path / "other", training__seed=5))
    diff(DiffConfig(paths=(run / "step_20", tmp_path / "other/step_20")))
    said = capsys.readouterr().out
    assert "config.training.seed: 0 -> 5" in said
    assert "weights: 21 of 21 tensors differ" in said
    assert "equal until step 1," in said
