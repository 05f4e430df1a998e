import multiprocessing
import threading
from queue import SimpleQueue

import pytest
import torch
from tests.decoders import DRAWS, in_float32, sharp_model

from lumi.inference import GenerationConfig
from lumi.inference.cache import SlotCache
from lumi.inference.cpu.decoder import CpuDecoder
from lumi.inference.cpu.team import Team
from lumi.inference.decoder import Decoder, DecoderWeights, Span
from lumi.inference.sampling import Sampling, sample
from lumi.model import ModelConfig, create_model

SHAPES = {
    "usual": {"d_model": 64, "n_head": 4, "head_dim": 16},
    "grouped, odd": {"d_model": 40, "n_head": 6, "n_kv_head": 2, "head_dim": 10, "ffn_ratio": 3.3},
}


def weights_of(shape, dtype=torch.float32):
    return DecoderWeights.of(sharp_model(shape, dtype, sequence_length=60))


def empty_cache(config, slots=12):
    cache = SlotCache(config, slots, 60, dtype=torch.float32, device=torch.device("cpu"))
    cache.keys.fill_(float("nan"))  # what nobody has written must not count
    cache.values.fill_(float("nan"))
    return cache


def through_int8(matrix):
    scale = matrix.abs().amax(1, keepdim=True).float() / 127
    return (matrix / scale).round() * scale


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    """More than the tests' other engines have, and than there may be cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8"])
@torch.inference_mode()
def test_each_type_of_weights_decodes_as_the_plain_decoder_does_with_the_same_numbers(shape, kind):
    weights = weights_of(SHAPES[shape], torch.float32 if kind == "int8" else getattr(torch, kind))
    found = CpuDecoder(weights, empty_cache(weights.config), int8=kind == "int8")
    same = in_float32(weights, through_int8) if kind == "int8" else in_float32(weights)
    plain = Decoder(same, empty_cache(weights.config))
    draw = torch.Generator().manual_seed(1)
    lengths = [(7 * slot) % 30 for slot in range(12)]
    for decoder in (found, plain):
        spans = [Span(slot, 0, length) for slot, length in enumerate(lengths) if length]
        decoder.fill(torch.randint(6, 97, (sum(lengths),), generator=draw.manual_seed(2)), spans)
    for rows in (1, 2, 4, 5, 9, 12):  # below, at and between the tiles of the products
        slots = torch.randperm(12, generator=draw)[:rows].tolist()
        tokens = torch.randint(6, 97, (rows,), generator=draw)
        spans = [Span(slot, lengths[slot], 1) for slot in slots]
        torch.testing.assert_close(found.logits(tokens, spans), plain.logits(tokens, spans), rtol=1e-4, atol=1e-4)
        for slot in slots:
            lengths[slot] += 1
    for kept, wanted in ((found.cache.keys, plain.cache.keys), (found.cache.values, plain.cache.values)):
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)  # and nothing written elsewhere


def decoder_with(vocab_size):
    model = create_model(ModelConfig(vocab_size=vocab_size, n_layer=1, d_model=32, n_head=2, sequence_length=8), seed=1)
    weights = DecoderWeights.of(model)
    return CpuDecoder(weights, empty_cache(weights.config, slots=1))


@pytest.mark.parametrize("vocab_size", [97, 1000, 32768])
@torch.inference_mode()
def test_the_draw_is_the_plain_one(vocab_size):
    config = [GenerationConfig(**DRAWS[n % len(DRAWS)]) for n in range(8 * len(DRAWS))]
    draw = torch.Generator().manual_seed(vocab_size)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0]).repeat(2).repeat_interleave(len(DRAWS)).unsqueeze(1)
    logits_BV = torch.randn(len(config), vocab_size, generator=draw) * scales
    logits_BV[:, 3] = logits_BV[:, 4]  # equals stay or go together
    logits_BV[5, 7:90] = float("-inf")
    uniform_B, sampling = torch.rand(len(config), dtype=torch.float64, generator=draw), Sampling.of(config)
    uniform_B[1], uniform_B[2] = 0.0, 1 - 2**-53
    wanted_B = sample(logits_BV, uniform_B, sampling)
    found_B = decoder_with(vocab_size).sample(logits_BV, uniform_B, sampling)
    # a number that falls on a border may land on either side of it
    assert (found_B == wanted_B).float().mean().item() >= 1 - 1 / len(config)


@torch.inference_mode()
def test_a_row_without_numbers_still_gives_a_token():
    config = [GenerationConfig(**kind) for kind in DRAWS]
    logits_BV = torch.full((len(config), 97), float("nan"))
    found_B = decoder_with(97).sample(logits_BV, torch.rand(len(config), dtype=torch.float64), Sampling.of(config))
    assert ((found_B >= 0) & (found_B < 97)).all()


def answer_of(decoder):
    with torch.inference_mode():
        return decoder.logits(torch.tensor([9, 8]), [Span(0, 0, 1), Span(1, 0, 1)])


def test_nobody_waits_for_threads_that_do_not_come(monkeypatch):
    decoder = CpuDecoder((weights := weights_of(SHAPES["usual"])), empty_cache(weights.config))
    wanted = answer_of(decoder)
    alone = Team(1)
    alone._queues = [SimpleQueue(), SimpleQueue()]  # which nobody reads
    monkeypatch.setattr("lumi.inference.cpu.decoder.team", lambda size: alone)
    assert torch.equal(answer_of(decoder), wanted)


def test_a_thread_that_comes_late_leaves_out_what_is_done():
    begun, goes_on, seen = threading.Event(), threading.Event(), []

    def function(number, threads, meeting, name):
        if number:
            seen.append(name)
            begun.set()
            goes_on.wait()

    two = Team(2)
    two.run(function, 2, 1, "first")
    begun.wait()
    for name in ("second", "third", "fourth"):
        two.run(function, 2, 1, name)
    goes_on.set()
    two.run(function, 2, 1, "fifth")
    while len(seen) < 2:
        pass
    assert seen[0] == "first"
    assert "second" not in seen


def test_the_models_own_weights_can_still_be_freed():
    """Parameters that FSDP has gathered are freed while the engine lives; an array of one would forbid it."""
    weights = weights_of(SHAPES["usual"])
    embedding = weights.embedding_VD
    decoder = CpuDecoder(weights, empty_cache(weights.config))
    embedding.untyped_storage().resize_(0)
    assert not answer_of(decoder).isnan().any()


def test_an_interrupt_leaves_nothing_half_done():
    calls = []

    def function(number, threads, meeting, out):
        calls.append(number)
        if len(calls) == 1:
            raise KeyboardInterrupt
        out.append("whole")

    found: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        Team(1).run(function, 1, 1, found)
    assert found == ["whole"]


def test_engines_in_several_threads_do_not_disturb_each_other():
    weights = weights_of(SHAPES["usual"])
    decoders = [CpuDecoder(weights, empty_cache(weights.config)) for _ in range(3)]
    wanted = answer_of(decoders[0])
    wrong = []

    def work(decoder):
        for _ in range(200):
            if not torch.equal(answer_of(decoder), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work, args=(decoder,)) for decoder in decoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    weights = weights_of(SHAPES["usual"])
    decoder = CpuDecoder(weights, empty_cache(weights.config))
    wanted = answer_of(decoder).sum().item()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work():
        answer = answer_of(decoder).sum().item()
        queue.put((answer, [thread.name for thread in threading.enumerate()]))

    child = context.Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    answer, names = queue.get()
    assert answer == wanted
    assert {"team-1", "team-2"} <= set(names)
