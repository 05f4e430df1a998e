"""Checkpoints to serve, and engines that can be slowed down or broken."""

import threading
from types import SimpleNamespace

import pytest
from tests.servers import write_model

from lumi.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def checkpoints(made, tmp_path_factory):
    """A tuned model and a base model; nobody may write into them."""
    tokenizer, root = Tokenizer.load(made.tokenizer), tmp_path_factory.mktemp("checkpoints")
    return SimpleNamespace(
        tuned=write_model(root / "sft/tiny/final", tokenizer),
        base=write_model(root / "pretrain/tiny/final", tokenizer, template=None),
    )


@pytest.fixture
def slow(monkeypatch):
    """Let each step of an engine wait this long first, until the event that is returned is set."""

    def slow_down(model, seconds):
        engine, hurry = model.thread.engine, threading.Event()
        step = engine.step
        monkeypatch.setattr(engine, "step", lambda: (hurry.wait(seconds), step())[1])
        return hurry

    return slow_down
