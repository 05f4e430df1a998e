"""What only a CUDA card can show; skips itself without one."""

import json
import shutil

import pytest
import torch
from tests.training_runs import FixedRows, assert_same_checkpoint, config, losses, settings, train_ranks

from lumi.model import ModelConfig, create_model, summed_loss, training_memory
from lumi.pretraining import pretrain
from lumi.training import CausalLMObjective, OptimizerConfig, Ranks, RunFolder, ScheduleConfig, Trainer, TrainingConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]

CONFIG = ModelConfig(vocab_size=512, n_layer=2, d_model=64, n_head=2, head_dim=32, sequence_length=64)
ON_GPU = {"training__device": "cuda", "training__compile": False}


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # fp32 on purpose
def test_the_compiled_loss_equals_the_plain_one():
    tokens = torch.randint(0, 512, (4, 65), device="cuda")
    grads = []
    for compiled in (False, True):
        model = create_model(CONFIG).cuda()

        def loss_of(rows, model=model):
            return summed_loss(model, model.hidden(rows[:, :-1]), rows[:, 1:])

        loss = (torch.compile(loss_of) if compiled else loss_of)(tokens)
        loss.backward()
        grads.append([loss.detach(), *[p.grad for p in model.parameters()]])
    for plain, fast in zip(*grads, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_what_fp32_on_the_cpu_learns(packed, tmp_path, precision):
    pretrain(config([packed], tmp_path / "cpu"))
    pretrain(config([packed], tmp_path / "gpu", training__precision=precision, **ON_GPU))
    expected, found = (
        [r["loss"] for r in losses(tmp_path / name / "final") if r["loss"] is not None] for name in ("cpu", "gpu")
    )
    tolerance = 1e-3 if precision == "fp32" else 0.05
    # fp16 may skip its first steps while it looks for its scale
    assert found[-1] == pytest.approx(expected[-1], abs=tolerance if precision != "fp16" else 0.5)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(packed, tmp_path):
    shared = {**ON_GPU, "training__deterministic": True}
    for name in ("whole", "parts"):
        pretrain(config([packed], tmp_path / name, **shared))
    for name in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / name)
    pretrain(config([packed], tmp_path / "parts", **shared))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


CARDS = torch.cuda.device_count()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "world_size", [1, pytest.param(2, marks=pytest.mark.skipif(CARDS < 2, reason="needs 2 cards"))]
)
@pytest.mark.parametrize("precision, compiled", [("fp32", False), ("bf16", True)])
def test_launched_ranks_train_what_a_single_process_does(packed, tmp_path, parallel, world_size, precision, compiled):
    shared = {"training__device": "cuda", "training__precision": precision, "training__compile": compiled}
    pretrain(config([packed], tmp_path / "alone", **shared))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings([packed], tmp_path / "ranks", **shared, training__parallel=parallel)))
    train_ranks(file, world_size=world_size)
    expected, found = (
        [r["loss"] for r in losses(tmp_path / name / "final") if r["loss"] is not None] for name in ("alone", "ranks")
    )
    assert found == pytest.approx(expected, abs=2e-3 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "world_size", [1, pytest.param(2, marks=pytest.mark.skipif(CARDS < 2, reason="needs 2 cards"))]
)
def test_ranks_resume_bit_for_bit(packed, tmp_path, parallel, world_size):
    for name in ("whole", "parts"):
        file = tmp_path / f"{name}.json"
        changes = {"training__deterministic": True, "training__parallel": parallel, **ON_GPU}
        file.write_text(json.dumps(settings([packed], tmp_path / name, **changes)))
        train_ranks(file, world_size=world_size)
    for name in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / name)
    assert "resuming from" in train_ranks(file, world_size=world_size)
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


def test_what_is_saved_is_the_moment_of_the_save(packed, tmp_path):
    """The copies run beside the next step: it must not overwrite what is still being copied."""
    shape = {"model__vocab_size": 320, "model__d_model": 512, "model__n_head": 32, "model__n_layer": 8}
    shared = {**ON_GPU, **shape, "training__deterministic": True, "training__save_steps": 1, "sample_prompts": []}
    run = config([packed], tmp_path / "run", **shared, schedule__max_steps=6, training__eval_steps=100)
    pretrain(run)
    for step in range(1, 6):  # each of them must lead to the same end
        other = tmp_path / f"from-{step}"
        again = config([packed], other, **shared, schedule__max_steps=6, training__eval_steps=100,
                       resume_from_checkpoint=str(tmp_path / f"run/step_{step}"))  # fmt: skip
        pretrain(again)
        assert_same_checkpoint(tmp_path / "run/final", other / "final")


def test_a_step_takes_the_memory_that_the_formula_says(tmp_path):
    config = ModelConfig(
        n_layer=6, d_model=384, n_head=6
    )  # smaller ones have another peak: no blocks beside the logits
    before = torch.cuda.memory_allocated()
    trainer = Trainer(
        model=create_model(config).cuda(),
        objective=CausalLMObjective(),
        loader=FixedRows(32, 1024, config.vocab_size),
        files=None,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(max_steps=10),
        training=TrainingConfig(batch_size=32, precision="bf16"),
        ranks=Ranks(0, 1, torch.device("cuda", 0)),
        run=RunFolder(tmp_path, {}, {}),
    )
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        trainer.train_step()
    measured = torch.cuda.max_memory_allocated() - before
    memory = training_memory(config, micro_batch_size=32, sequence_length=1024, compute_bytes=2, recompute=False)
    assert memory.total == pytest.approx(measured, rel=0.1)
