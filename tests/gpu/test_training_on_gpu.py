"""What only a CUDA card can show; skips itself without one."""

import shutil

import pytest
import torch
from tests.training_runs import FixedRows, assert_same_checkpoint, config, losses

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
    for name in ("step_20", "final"):
        shutil.rmtree(tmp_path / "parts" / name)
    pretrain(config([packed], tmp_path / "parts", **shared))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


def test_a_step_takes_the_memory_that_the_formula_says(tmp_path):
    config = ModelConfig(
        n_layer=6, d_model=384, n_head=6
    )  # smaller ones have another peak: no blocks beside the logits
    before = torch.cuda.memory_allocated()
    trainer = Trainer(
        model=create_model(config).cuda(),
        objective=CausalLMObjective(),
        loader=FixedRows(32, 1024, config.vocab_size),
        tokenizer=None,
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
