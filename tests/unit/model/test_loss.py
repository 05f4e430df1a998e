"""The chunked loss against the plain one."""

import pytest
import torch
import torch.nn.functional as F

from lumi.model import IGNORE, ModelConfig, create_model, next_token_losses, summed_loss
from lumi.model import loss as loss_module

CONFIG = ModelConfig(vocab_size=50, n_layer=1, d_model=32, n_head=2, head_dim=16, sequence_length=16)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(loss_module._CHUNK_LOGITS, "cpu", 7 * 50)  # 7 positions: does not divide 32


def plain(model, tokens, labels):
    return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def batch():
    tokens = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(1))
    labels[0, 3:9] = IGNORE
    return tokens, labels


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("scale", [1.0, 0.125])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_equal_the_plain_ones(scale, tied):
    tokens, labels = batch()
    grads = []
    for compute in (lambda m: summed_loss(m, m.hidden(tokens), labels), lambda m: plain(m, tokens, labels)):
        model = create_model(CONFIG.model_copy(update={"tie_embeddings": tied}))
        loss = compute(model)
        (loss * scale).backward()
        grads.append((loss.detach(), *[p.grad for p in model.parameters()]))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_chunks")
def test_without_gradients_it_is_the_same_loss():
    model = create_model(CONFIG)
    tokens, labels = batch()
    with torch.no_grad():
        no_grad = summed_loss(model, model.hidden(tokens), labels)
    torch.testing.assert_close(no_grad, plain(model, tokens, labels))


def test_losses_by_position():
    model = create_model(CONFIG)
    tokens, labels = batch()
    losses = next_token_losses(model, tokens, labels)
    assert losses.shape == labels.shape
    assert torch.all(losses[labels == IGNORE] == 0)
    torch.testing.assert_close(losses.sum(), plain(model, tokens, labels).detach())


def test_all_ignored_gives_zero_loss_and_gradient():
    model = create_model(CONFIG)
    tokens, labels = batch()
    loss = summed_loss(model, model.hidden(tokens), torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in model.parameters())


def test_a_wrapped_head_is_called_as_it_is():
    class Wrapped(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.weight = base.weight

        def forward(self, x):
            return self.base(x) + 1.5 * x.sum(-1, keepdim=True)

    model = create_model(CONFIG)
    tokens, labels = batch()
    model.lm_head = Wrapped(model.lm_head)
    torch.testing.assert_close(summed_loss(model, model.hidden(tokens), labels), plain(model, tokens, labels))
