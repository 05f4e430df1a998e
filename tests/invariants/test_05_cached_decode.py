"""Invariant 5: decoding with a cache gives the logits of the full forward, whatever stands in the other slots."""

import pytest
import torch

from lumi.inference.cache import SlotCache
from lumi.inference.cpu.decoder import CpuDecoder
from lumi.inference.decoder import Decoder, DecoderWeights, Span
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


@pytest.fixture(params=[Decoder, CpuDecoder])
def kind(request):
    return request.param


def decoder_of(model, slots, capacity=40, kind=Decoder):
    weights = DecoderWeights.of(model)
    cache = SlotCache(model.config, slots, capacity, dtype=torch.float32, device=torch.device("cpu"))
    cache.keys.fill_(float("nan"))  # what nobody has written must not count
    cache.values.fill_(float("nan"))
    return kind(weights, cache)


@pytest.mark.parametrize("chunks", [[1] * 30, [30], [12, 1, 1, 9, 7]])
@torch.inference_mode()
def test_in_pieces_equals_at_once(model, chunks, kind):
    tokens = torch.randint(6, 97, (30,), generator=torch.Generator().manual_seed(1))
    decoder = decoder_of(model, slots=2, kind=kind)
    pieces, start = [], 0
    for size in chunks:
        pieces.append(decoder.logits(tokens[start : start + size], [Span(1, start, size)]))
        start += size
    torch.testing.assert_close(torch.cat(pieces), model(tokens.unsqueeze(0))[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_company_changes_nothing(model, kind):
    """Rows of different length, filled in and decoded together, give what each gives alone."""
    draw = torch.Generator().manual_seed(2)
    rows = [torch.randint(6, 97, (n,), generator=draw) for n in (20, 11, 3)]
    prompts = [8, 11, 1]
    decoder = decoder_of(model, slots=4, kind=kind)
    spans = [Span(3 - row, 0, count) for row, count in enumerate(prompts)]
    filled = torch.cat([tokens[:count] for tokens, count in zip(rows, prompts, strict=True)])
    together = list(decoder.logits(filled, spans).split(prompts))
    for step in range(12):
        now = [row for row, tokens in enumerate(rows) if prompts[row] + step < len(tokens)]
        spans = [Span(3 - row, prompts[row] + step, 1) for row in now]
        logits = decoder.logits(torch.stack([rows[row][prompts[row] + step] for row in now]), spans)
        for place, row in enumerate(now):
            together[row] = torch.cat([together[row], logits[place : place + 1]])
    for tokens, logits in zip(rows, together, strict=True):
        torch.testing.assert_close(logits, model(tokens.unsqueeze(0))[0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_filled_and_copied_slots_hold_the_same(model, kind):
    """`fill` leaves in every layer what `logits` leaves, and a copied beginning goes on like the original."""
    tokens = torch.randint(6, 97, (20,), generator=torch.Generator().manual_seed(3))
    decoder = decoder_of(model, slots=3, kind=kind)
    decoder.fill(tokens[:5], [Span(0, 0, 5)])
    decoder.fill(tokens[5:19], [Span(0, 5, 14)])
    decoder.cache.copy(0, 2, 12)
    wanted = model(tokens.unsqueeze(0))[0]
    torch.testing.assert_close(decoder.logits(tokens[19:], [Span(0, 19, 1)]), wanted[19:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder.logits(tokens[12:], [Span(2, 12, 8)]), wanted[12:], rtol=1e-4, atol=1e-5)


def test_a_full_slot_refuses_more(model):
    with pytest.raises(AssertionError, match="full"):
        decoder_of(model, slots=1, capacity=20).logits(torch.full((21,), 7), [Span(0, 0, 21)])
