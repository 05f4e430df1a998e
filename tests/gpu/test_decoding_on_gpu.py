"""On a card: the decode kernels against the plain decoder, the draw against the plain one, the engine against a CPU's.

With TRITON_INTERPRET=1 the kernels' tests run on a CPU too, where triton is installed.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from tests.decoders import DRAWS, in_float32, sharp_model

from lumi.inference import Engine, GenerationConfig
from lumi.inference.cache import SlotCache
from lumi.inference.decoder import Decoder, DecoderWeights, Span
from lumi.inference.sampling import PROMPTED, Sampling, adjust, sample, sampling_row
from lumi.tokenizer import Tokenizer

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA card"),
]
SHAPES = {
    "wide": {"d_model": 640, "n_head": 10, "head_dim": 64},
    "plain": {"d_model": 64, "n_head": 4, "head_dim": 16},
    "grouped": {"d_model": 40, "n_head": 4, "n_kv_head": 2, "head_dim": 24},
    "long": {"d_model": 128, "n_head": 1, "head_dim": 128},
    "usual": {"d_model": 128, "n_head": 2, "head_dim": 64},
}
LARGEST_ERROR = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}  # of logits, of their norm


def model_on_card(shape, dtype, vocab_size=97):
    return sharp_model(shape, dtype, vocab_size=vocab_size, sequence_length=150).to(DEVICE)


CASES = (
    [("usual", torch.bfloat16, rows) for rows in (1, 3, 20, 70)]
    + [("wide", torch.bfloat16, 50), ("long", torch.float32, 5), ("long", torch.float16, 5)]
    + [
        (shape, dtype, rows)
        for shape, dtype in (("plain", torch.float32), ("grouped", torch.float16), ("grouped", torch.float32))
        for rows in (2, 5)
    ]
)


@pytest.mark.parametrize("shape, dtype, rows", CASES, ids=str)
@torch.inference_mode()
def test_kernels_give_the_logits_of_the_plain_decoder(shape, dtype, rows):
    from lumi.inference.card.decoder import Buffers, decode

    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter has no bf16")
    weights = DecoderWeights.of(model_on_card(SHAPES[shape], dtype))
    decoders = []
    for kind in (dtype, dtype, torch.float32):
        cache = SlotCache(weights.config, rows + 2, 150, dtype=kind, device=DEVICE)
        cache.keys.fill_(float("nan"))  # what nobody has written must not count
        cache.values.fill_(float("nan"))
        decoders.append(Decoder(weights if kind == dtype else in_float32(weights), cache))
    slots = [rows + 1 - row for row in range(rows)]
    lengths = [(67 * row) % 140 for row in range(rows)]
    draw = torch.Generator(DEVICE).manual_seed(rows)
    prompts = torch.randint(6, 97, (sum(lengths),), device=DEVICE, generator=draw)
    spans = [Span(slot, 0, length) for slot, length in zip(slots, lengths, strict=True) if length]
    for decoder in decoders:
        if spans:
            decoder.fill(prompts, spans)
    last_S = torch.zeros(rows + 2, dtype=torch.int32, device=DEVICE)
    lengths_S = torch.zeros_like(last_S)
    lengths_S[slots] = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    buffers = Buffers.of(weights, rows)
    slots_B = torch.tensor(slots, dtype=torch.int32, device=DEVICE)
    for step in range(3):
        tokens = torch.randint(6, 97, (rows,), device=DEVICE, generator=draw)
        last_S[slots] = tokens.int()
        wanted = decoders[0].logits(
            tokens, [Span(slot, length + step, 1) for slot, length in zip(slots, lengths, strict=True)]
        )
        found = torch.full_like(wanted, float("nan"))
        decode(weights, decoders[1].cache, buffers, slots_B, last_S, lengths_S, found)
        exact = decoders[2].logits(
            tokens, [Span(slot, length + step, 1) for slot, length in zip(slots, lengths, strict=True)]
        )
        error, plain_error = ((values - exact).norm() / exact.norm() for values in (found, wanted))
        assert error < 1.5 * plain_error + 2e-5, f"{error} beside {plain_error}"  # they round in about the same places
        lengths_S += 1
    assert not buffers.arrived.any()
    assert_caches_agree(decoders[1].cache, decoders[0].cache, dtype)


def assert_caches_agree(found, wanted, dtype):
    for kept, plain in ((found.keys, wanted.keys), (found.values, wanted.values)):
        assert torch.equal(kept.isnan(), plain.isnan())  # nothing written elsewhere
        error = (kept.nan_to_num().float() - plain.nan_to_num().float()).norm() / plain.nan_to_num().float().norm()
        assert error.item() < LARGEST_ERROR[dtype]


@pytest.mark.parametrize("shape, dtype", [(shape, dtype) for shape, dtype, rows in CASES if rows in (5, 20)], ids=str)
@torch.inference_mode()
def test_prompts_come_in_as_with_the_plain_decoder(shape, dtype):
    """Begun at once, and gone on with behind what a slot holds; across the borders of tiles."""
    from lumi.inference.card.decoder import CardDecoder

    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter has no bf16")
    weights = DecoderWeights.of(model_on_card(SHAPES[shape], dtype))
    decoders = []
    for kind in (CardDecoder, Decoder):
        cache = SlotCache(weights.config, 5, 150, dtype=dtype, device=DEVICE)
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
        decoders.append(kind(weights, cache))
    draw = torch.Generator(DEVICE).manual_seed(1)
    for spans in (
        [Span(3, 0, 70), Span(1, 0, 1), Span(0, 0, 64)],
        [Span(3, 70, 80), Span(1, 1, 63), Span(4, 0, 5)],
        [Span(1, 64, 86)],
    ):
        tokens = torch.randint(6, 97, (sum(span.length for span in spans),), device=DEVICE, generator=draw)
        for decoder in decoders:
            decoder.fill(tokens, spans)
    assert_caches_agree(decoders[0].cache, decoders[1].cache, dtype)


def squares_of(values):
    """Return what the squares of some columns of each row sum up to."""
    from lumi.inference.card.kernels import SQUARES

    width = SQUARES.value
    padded = torch.nn.functional.pad(values.float().square(), (0, -values.shape[1] % width))
    return padded.unflatten(1, (-1, width)).sum(2)


ODD, OURS = [(40, 50), (128, 97)], [(256, 1000), (768, 2304), (256, 32_768), (512, 32_768), (768, 32_768)]


@pytest.mark.parametrize("inputs, outputs", ODD + OURS * (not INTERPRETED))
@torch.inference_mode()
def test_products_of_every_tile(inputs, outputs):
    """Shapes that fit no tile found a tile that triton made wrong, and large ones another, now and then."""
    from lumi.inference.card.decoder import DOWN, GATE_UP, HEAD, OUT, QKV, multiply

    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    draw = torch.Generator(DEVICE).manual_seed(inputs)
    arrived = torch.zeros(10_000, dtype=torch.int32, device=DEVICE)
    for rows in (2, 5, 33, 70) if INTERPRETED else (1, 2, 3, 16, 17, 33, 64, 65, 70, 130, 256):
        for product in (QKV, OUT, GATE_UP, DOWN, HEAD):
            k, n = (inputs * 4 if product is DOWN else inputs), (inputs if product.add else outputs)
            a = torch.randn(rows, k, device=DEVICE, generator=draw).to(dtype)
            weight = (torch.randn(n * (1 + product.gated), k, device=DEVICE, generator=draw) / k**0.5).to(dtype)
            out = torch.randn(rows, n, device=DEVICE, generator=draw).to(torch.float32 if product is HEAD else dtype)
            wide = a.float()
            if product.norm:
                wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
            wanted = wide @ weight.float().t()
            if product.gated:
                gate, up = wanted.chunk(2, -1)
                wanted = torch.nn.functional.silu(gate) * up
            if product.add:
                wanted = wanted + out.float()
            shares = torch.full((4, rows, n), float("nan"), device=DEVICE)
            for _ in range(1 if INTERPRETED else 5):
                found, squares = out.clone(), squares_of(a)
                if product.add:
                    squares = squares_of(out).fill_(float("nan"))
                buffers = SimpleNamespace(squares_BQ=squares, shares=shares, arrived=arrived)
                multiply(product, a, weight, found, rows, 1e-5, buffers)
                worst = ((found.float() - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()
                assert worst < 1e-2, (product.name, rows, worst)
                if product.add and rows > 2:
                    torch.testing.assert_close(squares, squares_of(found), rtol=1e-5, atol=1e-5)
    assert not arrived.any()


KINDS = [
    *DRAWS,
    {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"temperature": 0.0, "logit_bias": {7: 50.0}}, {"temperature": 1.0, "top_p": 1.0, "frequency_penalty": -1.0},
]  # fmt: skip


@pytest.mark.parametrize("vocab_size", [97] if INTERPRETED else [97, 32768])
@torch.inference_mode()
def test_the_draw_is_the_plain_one(vocab_size):
    from lumi.inference.card.decoder import draw

    config = [GenerationConfig(**KINDS[n % len(KINDS)]) for n in range(4 * len(KINDS))]
    rows = len(config)
    generator = torch.Generator(DEVICE).manual_seed(1)
    scale = torch.tensor([1.0, 3.0, 6.0, 10.0], device=DEVICE).repeat_interleave(len(KINDS)).unsqueeze(1)
    logits_BV = torch.randn(rows, vocab_size, device=DEVICE, generator=generator) * scale
    counts_BV = torch.randint(0, 3, (rows, vocab_size), device=DEVICE, generator=generator).to(torch.int16)
    counts_BV += PROMPTED * (torch.rand(rows, vocab_size, device=DEVICE, generator=generator) < 0.3)
    bias_BV = torch.zeros(rows, vocab_size, device=DEVICE)
    for row, one in enumerate(config):
        for token, bias in one.logit_bias.items():
            bias_BV[row, token] = bias
    uniform_B = torch.rand(rows, device=DEVICE, generator=generator)
    settings_S8 = torch.tensor([(*sampling_row(one), one.adjusts_logits) for one in config], device=DEVICE).float()
    sampling = Sampling.of(config, DEVICE)
    adjusts_B1 = torch.tensor([[one.adjusts_logits] for one in config], device=DEVICE)
    adjusted_BV = torch.where(adjusts_B1, adjust(logits_BV, counts_BV, bias_BV, sampling), logits_BV)
    wanted_B = sample(adjusted_BV, uniform_B.double(), sampling)
    slots_B = torch.arange(rows - 1, -1, -1, dtype=torch.int32, device=DEVICE)  # row r has slot rows - 1 - r

    def by_slot(values):
        return values.flip(0).contiguous()

    last_S = torch.zeros(rows, dtype=torch.int32, device=DEVICE)
    lengths_S = torch.full((rows,), 2, dtype=torch.int32, device=DEVICE)
    chosen_B = torch.full((rows,), -1, dtype=torch.int32, device=DEVICE)
    before = counts_BV.clone()
    counts_SV = by_slot(counts_BV)
    draw(
        logits_BV, slots_B, last_S, lengths_S, by_slot(settings_S8), by_slot(uniform_B).unsqueeze(1).repeat(1, 4),
        counts_SV, by_slot(bias_BV), chosen_B, rows, 64,
    )  # fmt: skip
    # sums in float32 here and in float64 there: a number that falls on a border may land on either side
    assert (chosen_B == wanted_B).float().mean().item() >= 1 - 1 / rows
    assert torch.equal(by_slot(last_S), chosen_B)
    assert (lengths_S == 3).all()
    grown = by_slot(counts_SV) - before
    assert torch.equal(grown.sum(1) == 1, adjusts_B1.squeeze(1))


@pytest.mark.skipif(INTERPRETED, reason="graphs need a card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_engine_answers_as_on_a_cpu(artifacts, dtype):
    """Joined, left, cancelled, with log-probabilities, penalties and stop texts; through graphs and before them."""
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    texts = ["The history of the old town", "", "A", "Water is", "In the year of the great flood all of the mills"]
    shape = {"d_model": 64, "n_head": 4, "head_dim": 16}
    kinds = [
        {"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 0.7, "top_k": 20, "logprobs": 3},
        {"temperature": 1.0, "frequency_penalty": 1.0, "logit_bias": {40: 2.0}}, {"temperature": 1.0, "stop": ("e",)},
    ]  # fmt: skip

    def answers(device):
        model = model_on_card(shape, dtype, tokenizer.vocab_size).to(device)
        engine = Engine(model, tokenizer, num_slots=5)
        requests = []
        for n in range(40):
            settings = GenerationConfig(**kinds[n % 5], max_new_tokens=5 + n % 23, seed=n, stop_ids=(n % 50,))
            requests.append(engine.submit([1, *tokenizer.encode(texts[n % 4 if n % 7 else 4])], settings))
            engine.step()
        engine.run()
        return requests

    on_card, on_cpu = answers("cuda"), answers("cpu")
    if dtype == torch.float32:
        same = [one.token_ids == other.token_ids for one, other in zip(on_card, on_cpu, strict=True)]
        assert sum(same) >= 39, f"{sum(same)} of 40"
        for one, other, equal in zip(on_card, on_cpu, same, strict=True):
            if equal:
                assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
                for mine, theirs in zip(one.logprobs, other.logprobs, strict=True):
                    assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
                    assert [token for token, _ in mine.likeliest] == [token for token, _ in theirs.likeliest]
    else:  # what the card takes for the likeliest is nearly that on a CPU, all along the answer
        model = model_on_card(shape, dtype, tokenizer.vocab_size).to("cpu")
        for request in on_card[::5]:
            ids = [*request.prompt_ids, *request.token_ids]
            with torch.no_grad():
                logits = model(torch.tensor([ids]))[0, len(request.prompt_ids) - 1 : -1]
            chosen = logits.gather(1, torch.tensor(request.token_ids).unsqueeze(1)).squeeze(1)
            assert ((logits.amax(1) - chosen) / logits.std(1)).max() < 0.3
