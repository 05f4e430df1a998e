"""Invariant 21: knowing nothing costs log |V| a token and 8 bits a byte; what is scored is stated."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lumi.evaluation.baselines import TokenTrigram
from lumi.evaluation.language_model import LumiModel
from lumi.evaluation.likelihood import Request, score_continuations
from lumi.evaluation.perplexity import Score, document_windows, packed_rows, score_rows, sliding_windows
from lumi.evaluation.results import Measurement
from lumi.model import ModelConfig, create_model
from lumi.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID


def uniform_model(vocab_size):
    model = create_model(
        ModelConfig(vocab_size=vocab_size, n_layer=1, d_model=16, n_head=1, head_dim=16, sequence_length=32)
    )
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return LumiModel(model, SimpleNamespace(sha256="of the tests"))


def summed(model, rows):
    return score_rows(model, rows, batch_size=4).sum(), int(rows.scored.sum())


@pytest.mark.parametrize("vocab_size", [300, 32768])
@pytest.mark.parametrize("window, stride", [(32, 16), (20, 20)])
def test_a_uniform_model_has_perplexity_v(vocab_size, window, stride):
    stream = np.concatenate([[BOS_ID], np.random.default_rng(0).integers(6, vocab_size, 200)]).astype(np.uint16)
    nats, tokens = summed(uniform_model(vocab_size), sliding_windows(stream, window, stride))
    score = Score(nats, tokens, words=40, bytes=900)
    assert tokens == 200
    assert score.perplexity(tokens) == pytest.approx(vocab_size, rel=1e-5)


def test_a_uniform_byte_model_has_8_bits_per_byte():
    """256 tokens of one byte each: log2 256 bits a token, exactly 8 a byte."""
    stream = np.concatenate([[BOS_ID], np.random.default_rng(0).integers(6, 256, 500)]).astype(np.uint16)
    nats, tokens = summed(uniform_model(256), sliding_windows(stream, 32, 16))
    score = Score(nats, tokens, words=100, bytes=tokens)
    assert score.bits_per_byte == pytest.approx(8.0, rel=1e-6)
    assert score.perplexity(score.bytes) == pytest.approx(256, rel=1e-5)


def test_beginnings_and_padding_are_free_ends_are_not():
    row = [BOS_ID, 50, 51, EOS_ID, BOS_ID, 52, EOS_ID, PAD_ID, PAD_ID]
    nats, tokens = summed(uniform_model(300), packed_rows(np.array([row], dtype=np.uint16)))
    assert tokens == 5
    assert nats == pytest.approx(5 * math.log(300), rel=1e-6)


def test_documents_on_their_own_cost_the_same():
    documents = [np.array([BOS_ID, *range(10, 10 + length)]) for length in (1, 32, 70)]
    nats, tokens = summed(uniform_model(300), document_windows(documents, 32)[0])
    assert tokens == 103
    assert nats == pytest.approx(103 * math.log(300), rel=1e-6)


def test_an_answer_of_n_tokens_has_n_times_the_uniform_probability():
    asked = [Request((BOS_ID, 9, 8), tuple(range(10, 10 + length))) for length in (1, 2, 5)]
    found = score_continuations(uniform_model(300), asked)
    assert [one.log_prob for one in found] == pytest.approx([-n * math.log(300) for n in (1, 2, 5)], rel=1e-6)


def test_a_trigram_that_saw_nothing_alike_is_nearly_uniform():
    vocab_size = 300
    train = np.array([BOS_ID, *range(10, 110), EOS_ID], dtype=np.uint16)
    unseen = TokenTrigram(train, vocab_size).probabilities(
        (np.int64(200) * vocab_size + 201) * vocab_size + np.arange(vocab_size)
    )
    assert unseen.sum() == pytest.approx(1)
    assert unseen.min() > 0.5 / vocab_size


def test_the_protocol_is_part_of_every_figure():
    fields = Measurement.model_fields
    assert all(fields[name].is_required() for name in ("protocol", "window", "stride"))
