"""SentencePiece's trainer in its own process: the same model, and each way in which it can end."""

import io
import os
import signal

import psutil
import pytest
from sentencepiece import SentencePieceTrainer

from lumi.tokenizer.sentencepiece_process import TrainerError, train_sentencepiece

SETTINGS = {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True, "num_threads": 1}
PARTS = [f"The quick brown fox jumps over the lazy dog {n}\nand home again \u00e9\U0001f600" for n in range(200)]


def children():
    return [child for child in psutil.Process().children() if "sentencepiece_process" in " ".join(child.cmdline())]


def test_the_model_is_the_one_that_is_made_in_this_process():
    written = io.BytesIO()
    SentencePieceTrainer.train(sentence_iterator=iter(PARTS), model_writer=written, minloglevel=2, **SETTINGS)
    assert train_sentencepiece(PARTS, SETTINGS) == written.getvalue()


def test_a_refusal_says_what_it_said():
    with pytest.raises(TrainerError, match="Vocabulary size too high"):
        train_sentencepiece(PARTS, {**SETTINGS, "vocab_size": 30_000})
    with pytest.raises(TrainerError, match="no_such_setting"):
        train_sentencepiece(PARTS, {**SETTINGS, "no_such_setting": 1})


def parts_until(event):
    yield from PARTS
    event()
    yield from PARTS * 5000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])  # out of memory; a failed check
def test_an_end_from_outside_is_an_error(number):
    def end():
        (child,) = children()
        os.kill(child.pid, number)

    with pytest.raises(TrainerError):
        train_sentencepiece(parts_until(end), SETTINGS)


def test_ctrl_c_ends_it_at_once():
    def interrupt():
        (child,) = children()
        os.kill(child.pid, signal.SIGINT)  # a terminal tells both
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sentencepiece(parts_until(interrupt), SETTINGS)
    assert not children()
