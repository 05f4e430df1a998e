"""`lumi plan`: its figures against hand-counted ones, its limits, and what it prints."""

import json
import math
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training_runs import config as small_run

from lumi.cli import Stage, run_stage
from lumi.config import parse_config, read_json_object
from lumi.errors import ConfigError
from lumi.model import ModelConfig, count_parameters, largest_micro_batch, training_memory
from lumi.planning import PlanConfig, make_plan, plan
from lumi.planning.estimate import GIB, Target, estimated_utilisation, find_target
from lumi.pretraining import PretrainConfig, pretrain

REPOSITORY = Path(__file__).parents[3]
TINY_SHAPE = {"vocab_size": 320, "n_layer": 2, "d_model": 32, "n_head": 2, "head_dim": 16, "sequence_length": 32}


def shipped(name, **changes):
    """Return the plan config of a shipped run; ``training__x`` changes a value in a section."""
    values = read_json_object(REPOSITORY / "config" / f"{name}.json")
    for key, value in changes.items():
        section, _, field = key.rpartition("__")
        (values[section] if section else values)[field] = value
    return PlanConfig.from_values(values, where="test")


def small(**changes):
    return shipped("tiny", model=TINY_SHAPE, training={"batch_size": 4, "device": "cpu"}, **changes)


def card(gib, tflops=100.0):
    return Target("a card", int(gib * GIB), tflops, 2)


@pytest.mark.parametrize("name, millions", [("tiny", "23.07M"), ("small", "83.90M"), ("base", "276.86M")])
def test_shipped_runs_have_the_true_counts(capsys, name, millions):
    plan(shipped(name, card="RTX 4090"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name} on RTX 4090"
    assert lines[1].split()[:2] == ["parameters", millions]
    assert "20 per parameter" in lines[2]
    assert "(20.0 per parameter)" in lines[3]
    assert "ESTIMATED, not measured" in lines[6]


def test_figures_counted_by_hand():
    made = make_plan(shipped("tiny", training__save_total_limit=3, tokens_per_second=1000.0), card(24))
    total = 6 * (4 * 256 * 256 + 3 * 256 * 1024 + 2 * 256) + 256 + 2 * 32768 * 256
    assert made.parameters.total == total
    assert made.chinchilla_tokens == 20 * total
    assert made.tokens == 7040 * 64 * 1024
    per_token = 6 * (6 * (4 * 256 * 256 + 3 * 256 * 1024) + 32768 * 256) + 3 * 2 * 6 * 1024 * 256
    assert made.flops == made.tokens * per_token
    assert made.hours == pytest.approx(made.tokens / 1000 / 3600)
    assert made.packed_bytes == 7040 * 64 * 1025 * 2
    assert made.checkpoint_bytes == 12 * total
    assert made.num_checkpoints == 5
    assert made.fit.memory.weights == made.fit.memory.gradients == 4 * total
    assert made.fit.memory.optimizer == 8 * total


def test_all_checkpoints_are_counted_where_all_are_kept():
    assert make_plan(shipped("tiny", training__save_steps=1000), card(24)).num_checkpoints == 8


def test_a_checkpoint_takes_the_bytes_that_a_real_one_has(packed, tmp_path):
    run = small_run([packed], tmp_path / "run", schedule__max_steps=2)
    pretrain(run)
    written = sum(path.stat().st_size for path in (tmp_path / "run/final").rglob("*.safetensors"))
    values = json.loads(run.model_dump_json())
    made = make_plan(PlanConfig.from_values(values, where="test"), card(8))
    assert written == pytest.approx(made.checkpoint_bytes, rel=0.1)  # headers of the files, random state


def test_packed_data_take_the_bytes_that_are_written(packed):
    rows = json.loads((packed / "manifest.json").read_text())["counts"]["train"]["rows"]
    made = make_plan(small(), card(8))
    per_row = made.packed_bytes / (7040 * 4)
    written = sum(path.stat().st_size for path in packed.glob("train_*.npy"))
    assert written == pytest.approx(rows * per_row, rel=0.1)


SHAPES = st.builds(
    lambda layers, heads, kv: ModelConfig(
        vocab_size=512, n_layer=layers, d_model=16 * heads * kv, n_head=heads * kv, n_kv_head=kv, head_dim=16
    ),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 4),
)


@given(SHAPES, st.integers(1, 96), st.floats(1e6, 1e10), st.booleans(), st.sampled_from([1, 2, 8]))
def test_the_largest_micro_batch_fits_and_no_larger_one_does(shape, rows, memory, recompute, shards):
    how = {"sequence_length": 64, "compute_bytes": 2, "recompute": recompute, "shards": shards}
    found = largest_micro_batch(shape, rows=rows, memory_bytes=int(memory), **how)

    def fits(size):
        return training_memory(shape, micro_batch_size=size, **how).total <= memory

    divisors = [size for size in range(1, rows + 1) if rows % size == 0]
    if found is None:
        assert not any(fits(size) for size in divisors)
    else:
        assert found in divisors
        assert fits(found)
        assert not any(fits(size) for size in divisors if size > found)


@given(SHAPES, st.sampled_from([2, 4, 8]))
def test_shards_divide_what_belongs_to_parameters_alone(shape, shards):
    how = {"micro_batch_size": 2, "sequence_length": 64, "compute_bytes": 2, "recompute": False}
    whole, shard = training_memory(shape, **how), training_memory(shape, **how, shards=shards)
    count = count_parameters(shape).total
    assert (shard.weights, shard.gradients) == (4 * count // shards, 4 * count // shards)
    assert shard.optimizer == 8 * count // shards
    assert (shard.activations, shard.logits) == (whole.activations, whole.logits)


def test_presets_fit_their_cards_and_say_what_to_pass():
    for name in ("tiny", "small", "base"):
        made = make_plan(shipped(name), card(24))
        sizes = []
        for preset in made.presets:
            assert preset.fit is not None
            assert preset.fit.memory.total <= 0.9 * preset.memory_gb * GIB
            sizes.append(preset.fit.micro_batch_size)
        assert sizes == sorted(sizes)


def test_presets_are_those_of_a_card_whatever_this_machine_is():
    here = Target("a CPU", 16 * GIB, None, 4)
    assert make_plan(shipped("base"), here).presets == make_plan(shipped("base"), card(24)).presets


def test_checkpointing_is_advised_only_where_nothing_else_fits(capsys):
    made = make_plan(shipped("base", model__n_layer=36, model__d_model=1024), card(24))
    fits = {preset.memory_gb: preset.fit for preset in made.presets}
    assert fits[8] is None
    assert not fits[24].recompute
    plan(shipped("base", model__n_layer=36, model__d_model=1024, memory_gb=24.0))
    assert "8 GB                          cannot fit" in capsys.readouterr().out


def test_a_micro_batch_that_does_not_fit_is_replaced_and_told(capsys):
    plan(shipped("base", training__micro_batch_size=256, card="RTX 4090"))
    assert "that does not fit; pass --micro_batch_size 16 --no_activation_checkpointing" in capsys.readouterr().out
    made = make_plan(shipped("base", training__micro_batch_size=8), card(24))
    assert (made.fit.micro_batch_size, made.fit_is_as_asked) == (8, True)


def test_the_advised_options_are_options_of_the_stage():
    file = ["--config", str(REPOSITORY / "config/base.json")]
    for flag, expected in (("--activation_checkpointing", True), ("--no_activation_checkpointing", False)):
        found = parse_config(PlanConfig, [*file, "--micro_batch_size", "16", flag], prog="lumi plan")
        assert found.training.activation_checkpointing is expected
        assert found.training.micro_batch_size == 16


def test_a_shape_that_cannot_fit_is_one_clear_error(capsys):
    stage = Stage("lumi.planning:PlanConfig", "lumi.planning:plan", "")
    options = ["--config", str(REPOSITORY / "config/base.json"), "--memory_gb", "2"]
    assert run_stage(stage, options, prog="lumi plan") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "base cannot be trained on a card with 2.0 GiB" in captured.err
    assert len(captured.err.splitlines()) == 2


def test_shards_let_a_model_fit_that_would_not_alone():
    with pytest.raises(ConfigError, match="cannot be trained"):
        make_plan(shipped("base", num_gpus=8), card(5))
    assert make_plan(shipped("base", num_gpus=8, training__parallel="fsdp"), card(5)).fit.micro_batch_size >= 1


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"num_gpus": 7}, "num_gpus 7 must divide batch_size 64"),
        ({"probe": True, "card": "L4"}, "probe measures this machine"),
        ({"card": "RTX 9999"}, "not in the table"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        find_target(shipped("tiny", **changes))


def test_time_needs_a_speed_and_is_shared_by_the_cards():
    config = shipped("small", num_gpus=4)
    one, four = make_plan(shipped("small"), card(24)), make_plan(config, card(24))
    assert one.hours == pytest.approx(4 * four.hours)
    assert make_plan(config, card(24, tflops=None)).hours is None
    flops = one.flops / one.tokens
    assert one.speed.tokens_per_second == pytest.approx(100e12 * 0.371 / flops)


def test_checkpointing_costs_a_third_more_time():
    plain, recomputed = (
        make_plan(shipped("small", training__activation_checkpointing=on), card(24)) for on in (False, True)
    )
    assert recomputed.hours == pytest.approx(plain.hours * 4 / 3)


def test_utilisation_is_interpolated_between_the_measured_widths():
    assert [estimated_utilisation(width) for width in (64, 256, 512, 768, 4096)] == [0.271, 0.271, 0.371, 0.408, 0.408]
    assert math.isclose(estimated_utilisation(384), 0.321)


def test_targets(monkeypatch):
    assert find_target(shipped("tiny", card="RTX 4090")).memory_bytes == 24 * GIB
    assert find_target(shipped("tiny", card="RTX 4090", memory_gb=20.0)).memory_bytes == 20 * GIB
    assert find_target(shipped("tiny", memory_gb=20.0)).peak_tflops is None
    assert find_target(shipped("tiny", memory_gb=20.0, training__peak_tflops=50.0)).peak_tflops == 50
    wide = find_target(shipped("tiny", card="RTX 4090", training__precision="fp32"))
    assert (wide.compute_bytes, wide.peak_tflops) == (4, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = find_target(shipped("tiny"))
    assert (here.name, here.compute_bytes, here.peak_tflops) == ("the CPU of this machine", 4, None)


def test_the_probe_measures_real_steps(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan(small(probe=True))
    out = capsys.readouterr().out
    assert "measured here in 20 steps" in out
    assert "resident" in out
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_a_terminal_gets_tables(capsys, monkeypatch):
    plan(shipped("tiny", card="RTX 4090"))
    plain = capsys.readouterr().out
    assert plain.isascii()
    assert "\x1b" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    plan(shipped("tiny", card="RTX 4090"))
    assert "23.07M" in capsys.readouterr().out


PAGE = (REPOSITORY / "CHINCHILLA_PIPELINE.md").read_text(encoding="utf8")
SHOWN = re.findall(r"^```text\n\$ lumi plan (.*?)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("options, output", SHOWN, ids=[options for options, _ in SHOWN])
def test_the_page_shows_what_is_printed(capsys, monkeypatch, options, output):
    monkeypatch.chdir(REPOSITORY)
    plan(parse_config(PlanConfig, shlex.split(options), prog="lumi plan"))
    assert capsys.readouterr().out == output


def test_the_commands_of_the_page_are_there():
    assert len(SHOWN) == 4
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf8"), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+(?:-[a-z]+)+)", PAGE)) <= targets
    launched = re.findall(r"04_pretrain\.py (--config.*?)\n(?:\n|```)", PAGE, flags=re.DOTALL)
    assert len(launched) == 3
    steps = []
    for options in launched:
        words = shlex.split(options.replace("\\\n", " ").replace("config/", f"{REPOSITORY}/config/"))
        steps.append(parse_config(PretrainConfig, words, prog="04_pretrain.py").schedule.max_steps)
    assert steps == [10565, 10565, 70400]


@pytest.mark.parametrize("mix", ["tiny", "small", "base_phase_a", "base_phase_b"])
def test_the_page_has_the_budgets_of_the_mixes(mix):
    values = read_json_object(REPOSITORY / "config/datasets/training_configs" / f"{mix}.json")
    assert f"{values['token_budget']:,}" in PAGE
    assert f"{values['token_budget'] * 5.0 / 1e9:.1f} GB" in PAGE
