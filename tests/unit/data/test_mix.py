"""Training mixes: shares of a token budget, exactly, and the shipped ones against the runs they are for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.corpora import PLAIN

from lumi.data import MixConfig, ShardedTokenizedDataset, prepare_mix
from lumi.model import count_parameters
from lumi.pretraining import PretrainConfig

SHIPPED = Path("config/datasets/training_configs")


def mix(weights, budget=1000, **settings):
    parts = [{"name": f"p{n}", "corpus": "x.json", "weight": weight} for n, weight in enumerate(weights)]
    return MixConfig.from_values({"name": "m", "token_budget": budget, "parts": parts, **settings}, "test")


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(1, 10**12))
def test_shares_add_up_to_the_budget_and_none_is_off_by_a_token(weights, budget):
    shares = mix(weights, budget).shares
    assert sum(shares) == budget
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - budget * weight / sum(weights)) < 1 + budget * 1e-12


def test_a_third_each():
    assert mix([1, 1, 1], 1000).shares == [334, 333, 333]
    assert mix([0.3, 0.7], 10).shares == [3, 7]


def test_each_part_is_packed_to_exactly_its_share(artifacts, tmp_path, capsys):
    for name, seed in (("a", 5), ("b", 6)):
        source = {"name": name, "kind": "synthetic", "seed": seed, "max_bytes": 30_000, "licence": "made here"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "sources": [source], **PLAIN}))
    parts = [{"name": n, "corpus": str(tmp_path / f"{n}.json"), "weight": w} for n, w in (("a", 0.25), ("b", 0.75))]
    values = {"name": "m", "token_budget": 1001, "parts": parts, "sequence_length": 32, "val_fraction": 0.2,
              "tokenizer_path": str(artifacts / "tokenizer"), "data_dir": str(tmp_path)}  # fmt: skip
    manifests = prepare_mix(MixConfig.from_values(values, "test"))
    assert [manifest.counts["train"]["tokens"] for manifest in manifests] == [250, 751]
    assert len(ShardedTokenizedDataset(tmp_path / "processed/m/b_0k_32", "train")) == 24
    said = " ".join(capsys.readouterr().err.split())
    assert "--data_weights 0.25 0.75" in said


def test_a_corpus_that_is_too_small_is_said_to_be_repeated(artifacts, tmp_path, capsys):
    source = {"name": "a", "kind": "synthetic", "seed": 5, "max_bytes": 3000, "licence": "made here"}
    (tmp_path / "a.json").write_text(json.dumps({"name": "a", "sources": [source], **PLAIN}))
    values = {"name": "m", "token_budget": 100_000, "sequence_length": 32, "val_fraction": 0.2,
              "parts": [{"name": "a", "corpus": str(tmp_path / "a.json"), "weight": 1}],
              "tokenizer_path": str(artifacts / "tokenizer"), "data_dir": str(tmp_path)}  # fmt: skip
    (manifest,) = prepare_mix(MixConfig.from_values(values, "test"))
    times = 100_000 / manifest.counts["train"]["tokens"]
    assert f"training will see it {times:.1f} times" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "run, mixes", [("tiny", ["tiny"]), ("small", ["small"]), ("base", ["base_phase_a", "base_phase_b"])]
)
def test_shipped_budgets_are_twenty_tokens_a_parameter_and_what_the_run_trains_on(run, mixes):
    config = PretrainConfig.load(Path("config") / f"{run}.json")
    tokens = config.schedule.max_steps * config.training.batch_size * config.model.sequence_length
    budgets = [MixConfig.load(SHIPPED / f"{name}.json").token_budget for name in mixes]
    assert sum(budgets) == tokens
    assert tokens / count_parameters(config.model).total == pytest.approx(20, rel=0.005)
