"""Invariant 13: flip one byte in any artifact, and every later stage refuses it, naming the file."""

import shutil

import pytest
from tests import dpo_runs
from tests.training_runs import config

from lumi.artifacts import MANIFEST, RUN_INFO
from lumi.data import PackConfig, pack_dataset
from lumi.errors import IntegrityError
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.inference import GenerateConfig, run_generate
from lumi.posttraining import dpo
from lumi.pretraining import pretrain
from lumi.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture
def chain(artifacts, packed, trained, tmp_path):
    """A copy of a whole chain: corpus, tokenizer, packed data, checkpoint."""
    root = tmp_path / "chain"
    shutil.copytree(artifacts, root)
    shutil.copytree(trained, root / "checkpoint")
    return root


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def later_stages(root):
    new = root / "new"
    pack_values = {
        "corpus_dir": str(root / "corpus"),
        "tokenizer_path": str(root / "tokenizer"),
        "output_dir": str(new / "p"),
        "num_workers": 1,
        "val_fraction": 0.2,
    }
    tokenizer = {"corpus_dirs": [str(root / "corpus")], "output_dir": str(new / "t"), "vocab_size": 320}
    return {
        "train_tokenizer": lambda: train_tokenizer(TokenizerConfig.from_values(tokenizer, "test")),
        "pack": lambda: pack_dataset(PackConfig.from_values(pack_values, "test")),
        "pretrain": lambda: pretrain(config([root / "packed"], new / "run")),
        "resume": lambda: pretrain(
            config([root / "packed"], new / "run2", resume_from_checkpoint=str(root / "checkpoint"))
        ),
        "evaluate": lambda: evaluate(
            EvaluateConfig(
                model_path=root / "checkpoint",
                data_dirs=(root / "packed",),
                output_dir=new / "e",
                tasks=(),
                prompts=None,
            )
        ),
        "generate": lambda: run_generate(GenerateConfig(model_path=root / "checkpoint", prompt=("The",))),
    }


CASES = [
    ("corpus/shard_00000.jsonl.zst", ["train_tokenizer", "pack"]),
    (f"corpus/{MANIFEST}", ["train_tokenizer", "pack"]),
    ("tokenizer/spm32k.model", ["pack"]),
    ("tokenizer/tokenizer.json", ["pack"]),
    (f"tokenizer/{MANIFEST}", ["pack"]),
    ("packed/train_00000.npy", ["pretrain", "evaluate"]),
    ("packed/val_00000.npy", ["pretrain", "evaluate"]),
    (f"packed/{MANIFEST}", ["pretrain", "evaluate"]),
    ("checkpoint/model.safetensors", ["resume", "evaluate", "generate"]),
    ("checkpoint/config.json", ["resume", "evaluate", "generate"]),
    ("checkpoint/tokenizer.model", ["resume", "evaluate", "generate"]),
    ("checkpoint/training_state/optimizer.safetensors", ["resume", "evaluate", "generate"]),
    (f"checkpoint/{MANIFEST}", ["resume", "evaluate", "generate"]),
]


@pytest.mark.parametrize("file, stages", CASES, ids=[case[0] for case in CASES])
def test_every_later_stage_refuses_and_names_it(chain, file, stages):
    run = later_stages(chain)
    name = flip(chain / file)
    for stage in stages:
        with pytest.raises(IntegrityError, match=name) as caught:
            run[stage]()
        assert caught.value.way_out


def test_the_untouched_chain_is_accepted(chain):
    for name, run in later_stages(chain).items():
        if name != "resume":  # its data are "other data" by their path's hash alone: same bytes, so it is finished
            run()


@pytest.fixture(scope="module")
def preferences(artifacts, tmp_path_factory):
    """A tuned model, preferences, and the reference that a run has left beside them."""
    root = tmp_path_factory.mktemp("preferences")
    tuned = dpo_runs.make_tuned(root / "tuned", artifacts / "tokenizer")
    pairs = dpo_runs.make_preferences(root, artifacts / "tokenizer")
    dpo(dpo_runs.config(tuned, [pairs], root / "run", schedule__max_steps=1))
    return root


def test_preference_tuning_refuses_every_flipped_file(preferences, tmp_path):
    (reference,) = preferences.glob("pairs.reference-*")
    files = [
        path.relative_to(preferences)
        for folder in ("pairs", "tuned", reference.name)
        for path in sorted((preferences / folder).rglob("*"))
        if path.is_file() and path.stat().st_size and path.name != RUN_INFO
    ]
    assert len(files) > 12
    for number, file in enumerate(files):
        root = tmp_path / f"{number}"
        shutil.copytree(preferences, root)
        flip(root / file)
        with pytest.raises(IntegrityError, match=file.name) as caught:
            dpo(dpo_runs.config(root / "tuned", [root / "pairs"], root / "new"))
        assert caught.value.way_out, file
