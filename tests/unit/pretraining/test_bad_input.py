"""What cannot be trained on: one clear error each, before any work."""

import shutil

import pytest
from tests.training_runs import config, losses

from lumi.data import PackConfig, pack_dataset
from lumi.errors import ConfigError, DataError, IntegrityError, LumiError, ResumeError, TokenizerMismatch
from lumi.pretraining import pretrain
from lumi.tokenizer import TokenizerConfig, train_tokenizer
from lumi.training import newest_complete


@pytest.fixture(scope="module")
def packed_with_another_tokenizer(artifacts, packed, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    tokenizer = {
        "corpus_dirs": [str(artifacts / "packed-corpus")],
        "output_dir": str(root / "tokenizer"),
        "vocab_size": 320,
    }
    train_tokenizer(TokenizerConfig.from_values(tokenizer, "test"))
    values = {
        "corpus_dir": str(artifacts / "corpus"),
        "tokenizer_path": tokenizer["output_dir"],
        "output_dir": str(root / "packed"),
        "sequence_length": 32,
        "val_fraction": 0.2,
        "num_workers": 1,
    }
    pack_dataset(PackConfig.from_values(values, "test"))
    return root


def test_data_of_another_tokenizer(packed, packed_with_another_tokenizer, tmp_path):
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch between datasets") as caught:
        pretrain(config([packed, packed_with_another_tokenizer / "packed"], tmp_path))
    assert "make reencode-dataset DIR=" in caught.value.way_out
    with pytest.raises(TokenizerMismatch):
        pretrain(config([packed], tmp_path, tokenizer_path=str(packed_with_another_tokenizer / "tokenizer")))


def test_a_checkpoint_of_another_tokenizer(packed_with_another_tokenizer, trained, tmp_path):
    with pytest.raises(TokenizerMismatch):
        pretrain(config([packed_with_another_tokenizer / "packed"], tmp_path, resume_from_checkpoint=str(trained)))


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"model__sequence_length": 16}, ConfigError, "rows of 32 tokens, the model takes 16"),
        ({"model__vocab_size": 300}, ConfigError, "vocabulary of 320, the model has 300"),
        ({"data_weights": [0.0]}, ConfigError, "one must be above zero"),
        ({"data_weights": [-1.0]}, ConfigError, "must not be negative"),
        ({"training__micro_batch_size": 3}, ConfigError, "must divide batch_size"),
        ({"data_weights": [0.5, 0.5]}, ConfigError, "2 values for 1 data_dirs"),
        ({"training__attention": "flash"}, ConfigError, "FlashAttention"),
        ({"fresh": True, "resume_from_checkpoint": "x"}, ConfigError, "exclude each other"),
    ],
)
def test_impossible_settings(packed, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        pretrain(config([packed], tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_missing_and_incomplete_data(packed, tmp_path):
    with pytest.raises(DataError, match="no packed data at"):
        pretrain(config([tmp_path / "nowhere"], tmp_path / "run"))
    shutil.copytree(packed, tmp_path / "half")
    (tmp_path / "half" / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="is incomplete"):
        pretrain(config([tmp_path / "half"], tmp_path / "run"))


def test_a_checkpoint_of_another_shape(packed, trained, tmp_path):
    with pytest.raises(IntegrityError, match="is of another shape"):
        pretrain(
            config([packed], tmp_path, resume_from_checkpoint=str(trained), model__n_layer=3, schedule__max_steps=30)
        )


def test_a_run_with_other_settings_or_data_is_not_continued(packed, packed_other, tmp_path):
    pretrain(config([packed], tmp_path, schedule__max_steps=2))
    with pytest.raises(ResumeError, match=r"optimizer.learning_rate: 0.01 -> 0.02"):
        pretrain(config([packed], tmp_path, optimizer__learning_rate=0.02, schedule__max_steps=4))
    with pytest.raises(ResumeError, match="other data") as caught:
        pretrain(config([packed_other], tmp_path, schedule__max_steps=4))
    assert "--resume_from_checkpoint" in caught.value.way_out


def test_fresh_sets_the_old_run_aside(packed, tmp_path):
    pretrain(config([packed], tmp_path / "run", schedule__max_steps=2))
    pretrain(config([packed], tmp_path / "run", schedule__max_steps=2, fresh=True))
    assert newest_complete(tmp_path / "run.old-1").name == "step_2"
    assert newest_complete(tmp_path / "run").name == "step_2"


def test_a_new_data_phase(packed, packed_other, tmp_path):
    """Other data on an older checkpoint: steps count on, the schedule and the data begin again."""
    pretrain(config([packed], tmp_path, schedule__max_steps=10))
    phase = {"resume_from_checkpoint": str(tmp_path / "step_10"), "schedule__max_steps": 6, "training__save_steps": 3}
    pretrain(config([packed_other], tmp_path, **phase))
    records = [record for record in losses(tmp_path / "step_16") if record["loss"] is not None]
    assert [record["step"] for record in records] == list(range(1, 17))
    assert records[10]["learning_rate"] == pytest.approx(0.01)  # warm-up of one step, begun again
    assert records[-1]["mix"] == {packed_other.name: 24}
    # the same command again continues the phase, here from its middle
    shutil.rmtree(tmp_path / "step_16")
    shutil.rmtree(tmp_path / "final")
    pretrain(config([packed_other], tmp_path, **phase))
    assert (tmp_path / "step_16" / "manifest.json").exists()
    assert records == [record for record in losses(tmp_path / "final") if record["loss"] is not None]


def test_steps_that_are_not_finite_are_skipped_counted_and_end_the_run(packed, tmp_path, monkeypatch):
    from lumi.training import CausalLMObjective

    real = CausalLMObjective.loss
    calls = {"n": 0}

    def sometimes_nan(self, model, rows):
        calls["n"] += 1
        loss, metrics = real(self, model, rows)
        return loss * (float("nan") if calls["n"] in bad else 1.0), metrics

    monkeypatch.setattr(CausalLMObjective, "loss", sometimes_nan)
    bad = {3, 4, 7}
    pretrain(config([packed], tmp_path / "some", schedule__max_steps=10))
    kept = losses(tmp_path / "some/final")
    assert [r["step"] for r in kept if r["learning_rate"] and r["loss"] is None] == [3, 4, 7]
    calls["n"], bad = 0, set(range(5, 100))
    with pytest.raises(LumiError, match="3 steps in a row"):
        pretrain(config([packed], tmp_path / "all", schedule__max_steps=50, training__max_bad_steps=3))
