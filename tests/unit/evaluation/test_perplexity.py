"""Perplexity equals a plain loop in float64, whatever the batch, the window and the stride."""

import json
import lzma
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.errors import DataError
from lumi.evaluation.language_model import LumiModel
from lumi.evaluation.perplexity import (
    Score,
    document_windows,
    packed_rows,
    read_documents,
    read_held_out,
    score_documents,
    score_rows,
    score_stream,
    sliding_windows,
)
from lumi.model import ModelConfig, create_model
from lumi.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(vocab_size=90, n_layer=2, d_model=32, n_head=2, head_dim=16, sequence_length=24)
    model = create_model(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return LumiModel(model, SimpleNamespace(sha256="of the tests"))


def log_probability(model, tokens, target):
    """Return log P(target | tokens), the model's logits taken to float64."""
    with torch.no_grad():
        logits = model.model(torch.tensor([tokens]))[0, -1].double()
    return float(logits[target] - logits.logsumexp(0))


def stream_of(length, seed=0):
    return np.random.default_rng(seed).integers(6, 90, length).astype(np.uint16)


@pytest.mark.parametrize("window, stride", [(24, 12), (24, 24), (10, 3), (7, 1)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sliding_window_equals_a_plain_loop(model, window, stride, batch_size):
    stream = np.concatenate([[BOS_ID], stream_of(53)]).astype(np.uint16)
    rows = sliding_windows(stream, window, stride)
    nats, tokens = score_rows(model, rows, batch_size=batch_size).sum(), rows.scored.sum()

    expected, target, start = 0.0, 1, 0
    while target < len(stream):
        if target > start + window:  # the window moves just far enough to see the next target
            start += stride
        expected -= log_probability(model, stream[start:target].tolist(), int(stream[target]))
        target += 1
    assert tokens == 53
    assert math.isclose(nats, expected, rel_tol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(2, 50), st.data())
def test_every_target_is_scored_once_with_enough_context(length, window, data):
    stride = data.draw(st.integers(1, window))
    stream = np.arange(100, 100 + length, dtype=np.uint16)  # each token names its own place
    rows = sliding_windows(stream, window, stride)
    scored = []
    for row, marks in zip(rows.tokens, rows.scored, strict=True):
        targets = row[1:]
        for place in np.flatnonzero(marks):
            scored.append(int(targets[place]))
            context = int(place) + 1
            assert context >= min(window - stride + 1, int(targets[place]) - 100)
            assert context <= window
    assert scored == list(range(101, 100 + length))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_packed_rows_equal_a_plain_loop(model, batch_size):
    documents = [stream_of(n, seed=n).tolist() for n in (9, 30, 1, 17)]
    stream = [t for document in documents for t in (BOS_ID, *document, EOS_ID)]
    length = 16
    padded = stream + [PAD_ID] * (-(len(stream) - 1) % length)
    rows = np.array([padded[i : i + length + 1] for i in range(0, len(padded) - 1, length)], dtype=np.uint16)
    cut = packed_rows(rows)
    nats, tokens = score_rows(model, cut, batch_size=batch_size).sum(), cut.scored.sum()

    expected, count = 0.0, 0
    for row in rows.tolist():
        for place in range(length):
            if row[place + 1] not in (BOS_ID, PAD_ID):  # the end of a document counts, its beginning does not
                expected -= log_probability(model, row[: place + 1], row[place + 1])
                count += 1
    assert tokens == count == sum(len(document) + 1 for document in documents)
    assert math.isclose(nats, expected, rel_tol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(2, 90), min_size=1, max_size=5), st.integers(1, 40))
def test_documents_are_cut_as_lm_eval_cuts_them(lengths, window):
    """Each target once, in windows that do not overlap but for the last, which is full where the document is."""
    documents = [1000 * (n + 1) + np.arange(length) for n, length in enumerate(lengths)]
    rows, owners = document_windows(documents, window)
    scored = []
    for row, marks, owner in zip(rows.tokens, rows.scored, owners, strict=True):
        targets, places = row[1:], np.flatnonzero(marks)
        own = documents[owner]
        assert set(row[: places[-1] + 2]) <= set(own)
        scored += targets[places].tolist()
        assert places[-1] + 1 == min(window, len(own) - 1)
    assert scored == [int(token) for document in documents for token in document[1:]]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_documents_equal_a_plain_loop(model, batch_size):
    texts = [stream_of(length, seed=length).tolist() for length in (5, 24, 60)]
    told = SimpleNamespace(
        **{name: getattr(model, name) for name in ("losses", "device", "prefix", "context")},
        encode=lambda text: texts[int(text)],
    )
    score, blocks = score_documents(told, ["0", "1", "2"], window=24, batch_size=batch_size)
    expected = []
    for text in texts:
        stream = [BOS_ID, *text]
        nats = 0.0
        for target in range(1, len(stream)):
            window = (target - 1) // 24
            end = min(24 * (window + 1), len(stream) - 1)
            start = max(0, end - 24)
            nats -= log_probability(model, stream[start:target], stream[target])
        expected.append(nats)
    assert score.tokens == 89
    assert blocks.nats.tolist() == pytest.approx(expected, rel=1e-6)
    assert math.isclose(score.nats, sum(expected), rel_tol=1e-6)


def test_a_broken_model_is_named(model):
    broken = create_model(model.model.config)
    with torch.no_grad():
        broken.lm_head.weight[0] = float("nan")
    with pytest.raises(DataError, match="loss is nan"):
        score_rows(LumiModel(broken, SimpleNamespace(sha256="")), packed_rows(stream_of(10)[None]), batch_size=1)


def test_bytes_and_words_of_a_text(tokenizer):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=1, d_model=16, n_head=1, head_dim=16, sequence_length=32
    )
    text = "Na\u00efve words,\n\n  and   spaces\u2026 \U0001f600"
    model = LumiModel(create_model(config), tokenizer)
    score, _ = score_stream(model, text, window=32, stride=16)
    assert (score.words, score.bytes) == (5, len(text.encode()))
    assert score.tokens == len(tokenizer.encode(text))
    cut, _ = score_stream(model, text, window=32, stride=16, max_tokens=7)
    assert cut.tokens == 7
    assert cut.bytes == len(tokenizer.decode(tokenizer.encode(text)[:7]).encode())
    whole, _ = score_documents(model, [text, text], window=32)
    assert (whole.words, whole.bytes, whole.tokens) == (10, 2 * score.bytes, 2 * score.tokens)
    first, _ = score_documents(model, [text, text], window=32, max_tokens=7)
    assert first.tokens == score.tokens  # a document is never cut


def test_figures_of_a_score():
    score = Score(nats=math.log(2) * 100, tokens=50, words=10, bytes=200)
    assert score.bits_per_byte == pytest.approx(0.5)
    assert score.perplexity(score.tokens) == pytest.approx(4.0)
    assert score.perplexity(0) is None
    assert Score(1e6, 1, 1, 1).perplexity(1) is None  # no float holds it


def test_held_out_documents_are_the_documents(packed_dataset, tokenizer):
    held_out = read_held_out(packed_dataset, tokenizer)
    expected = [tokenizer.decode(tokens.tolist()).encode() for tokens in packed_dataset.documents()]
    assert list(held_out.documents) == expected
    assert held_out.text_bytes == sum(map(len, expected)) == packed_dataset.counts["text_bytes"]
    part = read_held_out(packed_dataset, tokenizer, max_tokens=packed_dataset.sequence_length)
    assert len(part.rows) == 1
    assert b"".join(held_out.documents).startswith(b"".join(part.documents))


def test_texts_are_read_as_documents(tmp_path):
    wikitext = " \n = One = \n \n Text . \n = = Part = = \n More . \n = Two = \n End . \n"
    for name, content, expected in (
        ("plain.txt", "one\r\n\ntwo \n", ["one\n\ntwo \n"]),
        ("wiki.test.raw", wikitext, [wikitext[: wikitext.index(" = Two")], wikitext[wikitext.index(" = Two") :]]),
        ("rows.jsonl", '{"text": "one"}\n\n{"text": " "}\n{"text": "two", "x": 1}\n', ["one", "two"]),
    ):
        (tmp_path / name).write_bytes(content.encode())
        assert read_documents(tmp_path / name) == expected
        (tmp_path / (name + ".xz")).write_bytes(lzma.compress(content.encode()))
        assert read_documents(tmp_path / (name + ".xz")) == expected


@pytest.mark.parametrize(
    "content, message", [(b"\xff\xfe", "not UTF-8"), (b" \n ", "no text"), (None, "does not exist")]
)
def test_texts_that_cannot_be_scored(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_documents(path)


@pytest.mark.parametrize("line", ["{", "[1]", '{"content": "x"}', '{"text": 3}'])
def test_a_row_without_text_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no JSON object with a `text`"):
        read_documents(path)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "text.txt.xz"
    path.write_bytes(lzma.compress(b"text " * 1000)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read_documents(path)
