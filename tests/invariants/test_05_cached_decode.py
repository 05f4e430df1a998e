"""Invariant 5: decoding with a cache gives the logits of the full forward, padding and grouped heads included."""

import pytest
import torch

from lumi.inference import StaticCache
from lumi.model import ModelConfig, create_model

SHAPES = {
    "plain": {"n_head": 4},
    "grouped": {"n_head": 4, "n_kv_head": 2},
    "tied": {"n_head": 2, "tie_embeddings": True},
}


@pytest.fixture(params=SHAPES)
def model(request):
    config = ModelConfig(vocab_size=97, n_layer=3, d_model=32, head_dim=8, sequence_length=40, **SHAPES[request.param])
    model = create_model(config, seed=3).eval()
    with torch.no_grad():  # freshly drawn weights attend almost evenly; make positions matter
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(25)
    return model


@pytest.mark.parametrize("chunks", [[1] * 30, [30], [12, 1, 1, 9, 7]])
@torch.inference_mode()
def test_in_pieces_equals_at_once(model, chunks):
    tokens = torch.randint(6, 97, (3, 30), generator=torch.Generator().manual_seed(1))
    cache = StaticCache(model.config, 30, torch.zeros(3, dtype=torch.int64), dtype=torch.float32)
    pieces, start = [], 0
    for size in chunks:
        positions = torch.arange(start, start + size).expand(3, -1)
        pieces.append(model(tokens[:, start : start + size], positions_BT=positions, cache=cache))
        start += size
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_left_padding_changes_nothing(model):
    """Rows of different length, prefilled together and then decoded, give what each gives alone."""
    draw = torch.Generator().manual_seed(2)
    rows = [torch.randint(6, 97, (n,), generator=draw) for n in (20, 11, 3)]
    prompt, total = 8, 20
    lengths = [min(prompt, len(row)) for row in rows]
    padding = torch.tensor([prompt - n for n in lengths])
    tokens = torch.full((3, total), 3)
    for index, row in enumerate(rows):
        tokens[index, padding[index] : padding[index] + len(row)] = row[: total - padding[index]]
    positions = (torch.arange(total) - padding.unsqueeze(1)).clamp(min=0)
    cache = StaticCache(model.config, total, padding, dtype=torch.float32)
    logits = [model(tokens[:, :prompt], positions_BT=positions[:, :prompt], cache=cache)]
    for column in range(prompt, total):
        now = slice(column, column + 1)
        logits.append(model(tokens[:, now], positions_BT=positions[:, now], cache=cache))
    together = torch.cat(logits, dim=1)
    assert together.isfinite().all()
    for index, row in enumerate(rows):
        alone = model(row.unsqueeze(0))[0]
        begin = int(padding[index])
        seen = min(len(row), total - begin)
        torch.testing.assert_close(together[index, begin : begin + seen], alone[:seen], rtol=1e-4, atol=1e-5)


def test_a_full_cache_refuses_more(model):
    cache = StaticCache(model.config, 4, torch.zeros(1, dtype=torch.int64), dtype=torch.float32)
    with pytest.raises(AssertionError, match="full"):
        model(torch.full((1, 5), 7), cache=cache)
