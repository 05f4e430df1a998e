"""The reference's log-probabilities: worked out once, found again, never another model's or other data's."""

import json
import shutil

import numpy as np
import pytest
import torch
from tests.dpo_runs import config, make_preferences, make_tuned, rows
from tests.sft_runs import SHAPE

from lumi.artifacts import MANIFEST, read_manifest
from lumi.errors import ConfigError, IntegrityError
from lumi.model import create_model
from lumi.posttraining import PreferenceDataset, dpo, stored_reference
from lumi.posttraining.stored_reference import (
    ReferenceModel,
    read_reference,
    reference_folder,
    reference_log_probs,
    store_reference,
)
from lumi.training import Ranks

REFERENCE = ReferenceModel(weights_sha256="a" * 64, dtype="float32")
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def pairs(artifacts, tmp_path):
    return make_preferences(tmp_path, artifacts / "tokenizer")


def both(folder):
    return PreferenceDataset(folder, "train"), PreferenceDataset(folder, "val")


def load():
    return create_model(SHAPE, seed=3)


def not_needed():
    raise AssertionError("it was there already")


def store(folder, reference=REFERENCE, model=load):
    store_reference(both(folder), reference, model, ALONE, rows_at_once=3)
    return reference_folder(folder, reference)


def test_it_is_worked_out_once(pairs):
    folder = store(pairs)
    store(pairs, model=not_needed)
    assert folder.parent == pairs.parent
    assert {path.name for path in folder.iterdir()} >= {"train.npy", "val.npy", MANIFEST}
    for dataset in both(pairs):
        kept = read_reference(dataset, REFERENCE, check=True)
        assert kept.dtype == np.float32
        assert (kept == reference_log_probs(dataset, load(), rows_at_once=3)).all()


def test_another_model_type_or_data_has_its_own(pairs, artifacts, tmp_path):
    others = [
        REFERENCE.model_copy(update=change)
        for change in ({"weights_sha256": "b" * 64}, {"dtype": "bfloat16"}, {"quantized": ("q_proj",)})
    ]
    folders = {reference_folder(pairs, one) for one in (REFERENCE, *others)}
    before = store(pairs)
    shutil.rmtree(pairs)
    make_preferences(tmp_path, artifacts / "tokenizer", made=rows(count=50), fresh=True)
    folders.add(store(pairs))
    assert len(folders) == 5
    assert before in folders
    assert len(read_reference(both(pairs)[0], REFERENCE, check=True)) == len(both(pairs)[0].lengths)


@pytest.mark.parametrize("file", ["train.npy", "val.npy", MANIFEST])
def test_a_damaged_one_is_refused_with_a_way_out_that_helps(pairs, file):
    folder = store(pairs)
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(IntegrityError, match=file) as caught:
        read_reference(both(pairs)[0], REFERENCE, check=True)
    assert caught.value.way_out == f"remove {folder}: the next run works it out again"
    shutil.rmtree(folder)
    store(pairs)
    read_reference(both(pairs)[0], REFERENCE, check=True)


def test_one_that_was_put_there_from_elsewhere_is_refused(pairs, artifacts, tmp_path):
    other = REFERENCE.model_copy(update={"weights_sha256": "b" * 64})
    store(pairs).rename(reference_folder(pairs, other))
    with pytest.raises(IntegrityError, match="weights_sha256 aaaaaaaaaaaa instead of bbbbbbbbbbbb"):
        read_reference(both(pairs)[0], other, check=True)
    (tmp_path / "more").mkdir()
    elsewhere = make_preferences(tmp_path / "more", artifacts / "tokenizer", rows={"count": 50})
    store(elsewhere).rename(reference_folder(pairs, REFERENCE))
    with pytest.raises(IntegrityError, match="of another run \\(data"):
        read_reference(both(pairs)[0], REFERENCE, check=True)


def test_what_an_interrupted_run_has_done_is_not_done_again(pairs, monkeypatch):
    def interrupted(dataset, *args, **more):
        if dataset.split == "val":
            raise KeyboardInterrupt
        return reference_log_probs(dataset, *args, **more)

    monkeypatch.setattr(stored_reference, "reference_log_probs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store(pairs)
    assert not reference_folder(pairs, REFERENCE).exists()
    worked_out = []

    def counted(dataset, *args, **more):
        worked_out.append(dataset.split)
        return reference_log_probs(dataset, *args, **more)

    monkeypatch.setattr(stored_reference, "reference_log_probs", counted)
    manifest = read_manifest(store(pairs), stored_reference.KIND, "")
    assert worked_out == ["val"]
    assert [out.file for out in manifest.outputs] == ["train.npy", "val.npy"]


def test_a_folder_named_by_a_dot(pairs, monkeypatch):
    monkeypatch.chdir(pairs)
    assert reference_folder(pairs.relative_to(pairs), REFERENCE) == reference_folder(pairs, REFERENCE)


class TestRuns:
    @pytest.fixture(scope="class")
    def tuned(self, artifacts, tmp_path_factory):
        return make_tuned(tmp_path_factory.mktemp("tuned") / "final", artifacts / "tokenizer")

    def measured(self, run):
        return next(json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())

    @pytest.mark.parametrize("method", ["lora", "qlora", "full"])
    def test_policy_and_reference_are_one_model_before_the_first_step(self, pairs, tuned, tmp_path, method):
        if method == "qlora":
            pytest.importorskip("bitsandbytes")
        found = []
        for reference in ("stored", "live"):
            run = tmp_path / reference
            dpo(config(tuned, [pairs], run, method=method, reference=reference, schedule__max_steps=1))
            found.append(self.measured(run))
            assert found[-1]["step"] == 0
        stored, live = found
        assert stored["val_loss"]["pairs"] == pytest.approx(live["val_loss"]["pairs"], rel=1e-5)
        for figures in found:
            assert figures["val_reward_margin"]["pairs"] == pytest.approx(0, abs=1e-5)
            assert figures["val_kl"]["pairs"] == pytest.approx(0, abs=1e-6)

    def test_one_model_in_four_bits_and_whole_are_two_references(self, pairs, tuned, tmp_path):
        pytest.importorskip("bitsandbytes")
        for method in ("lora", "qlora"):  # upon the same data, one after the other
            dpo(config(tuned, [pairs], tmp_path / method, method=method, schedule__max_steps=1))
            figures = self.measured(tmp_path / method)
            assert figures["val_reward_margin"]["pairs"] == pytest.approx(0, abs=1e-5)
        assert len(list(pairs.parent.glob("pairs.reference-*"))) == 2

    def test_a_finished_run_works_nothing_out(self, pairs, tuned, tmp_path):
        asked = config(tuned, [pairs], tmp_path / "run", schedule__max_steps=1)
        dpo(asked)
        (folder,) = pairs.parent.glob("pairs.reference-*")
        shutil.rmtree(folder)
        dpo(asked)
        assert not folder.exists()

    def test_losses_without_a_reference_store_none(self, pairs, tuned, tmp_path):
        dpo(config(tuned, [pairs], tmp_path / "run", loss="simpo", beta=2.0, schedule__max_steps=1))
        assert not list(pairs.parent.glob("pairs.reference-*"))

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"gamma": 1.0}, "gamma belongs to loss simpo, not to sigmoid"),
            ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing belongs to loss robust, not to ipo"),
            ({"reference": "live", "loss": "orpo"}, "loss orpo has no reference that could be live"),
        ],
    )
    def test_settings_without_effect_are_refused(self, pairs, tuned, tmp_path, changes, message):
        with pytest.raises(ConfigError, match=message):
            config(tuned, [pairs], tmp_path / "run", **changes)
