"""SFT on a card: attention inside of conversations without a mask, adapters in bf16, exact resume."""

import shutil

import pytest
import torch
from tests.sft_runs import config
from tests.training_runs import assert_same_checkpoint, losses

from lumi.model import create_model, document_mask, summed_loss
from lumi.model.attention import document_attention, documents_of, sdpa_attention
from lumi.posttraining import sft
from lumi.tokenizer import BOS_ID

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_documents_by_borders_attend_as_under_the_mask(kv_heads):
    draw = torch.Generator("cuda").manual_seed(0)
    tokens = torch.randint(0, 60, (3, 256), generator=draw, device="cuda")
    most = int((tokens[:, 1:] == BOS_ID).sum(1).max()) + 1
    grads = []
    shapes = [(3, heads, 256, 64) for heads in (4, kv_heads, kv_heads)]
    values = [torch.randn(shape, generator=draw, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    for fast in (False, True):
        q, k, v = (value.clone().requires_grad_() for value in values)
        if fast:
            out = document_attention(q, k, v, documents_of(tokens, BOS_ID, most + 3))
        else:
            out = sdpa_attention(q, k, v, document_mask(tokens, BOS_ID))
        out.float().square().sum().backward()
        grads.append([out.detach(), q.grad, k.grad, v.grad])
    for plain, fast in zip(*grads, strict=True):
        torch.testing.assert_close(fast.float(), plain.float(), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_bf16_learns_what_fp32_on_the_cpu_learns(base, chats, tmp_path, method, compiled):
    shared = {"method": method, "lora": {"r": 4, "alpha": 8}, "schedule__max_steps": 30}
    gpu = {"training__device": "cuda", "training__precision": "bf16", "training__compile": compiled}
    found = [
        [r["loss"] for r in losses(sft(config(base, [chats], tmp_path / name, **shared, **changes))) if r["loss"]]
        for name, changes in (("cpu", {}), ("gpu", gpu))
    ]
    assert found[1] == pytest.approx(found[0], abs=0.15)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(base, chats, tmp_path, compiled):
    shared = {"training__device": "cuda", "training__precision": "bf16", "training__compile": compiled,
              "training__deterministic": True, "neftune_alpha": 5.0}  # fmt: skip
    for name in ("whole", "parts"):
        sft(config(base, [chats], tmp_path / name, **shared))
    for name in ("step_20", "final", "best"):
        shutil.rmtree(tmp_path / "parts" / name)
    sft(config(base, [chats], tmp_path / "parts", **shared))
    assert_same_checkpoint(tmp_path / "whole/final", tmp_path / "parts/final")


def test_a_head_of_which_rows_are_trained_compiles_to_the_same():
    from tests.sft_runs import SHAPE

    from lumi.model.lora import LoraConfig, adapter_parameters, add_lora

    tokens = torch.randint(0, 320, (4, 65), device="cuda")
    grads = []
    for compiled in (False, True):
        model = create_model(SHAPE)
        add_lora(model, LoraConfig(r=4), (4, 5))
        model.cuda()

        def loss_of(rows, model=model):
            return summed_loss(model, model.hidden(rows[:, :-1]), rows[:, 1:])

        loss = (torch.compile(loss_of) if compiled else loss_of)(tokens)
        loss.backward()
        grads.append([loss.detach(), *[p.grad for p in adapter_parameters(model).values()]])
    for plain, fast in zip(*grads, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-3)
