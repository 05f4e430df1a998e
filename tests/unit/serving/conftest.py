"""Checkpoints to serve, and engines that can be slowed down or broken."""

from functools import partial
from types import SimpleNamespace

import pytest
from tests.servers import slow_down, write_model

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
    return partial(slow_down, monkeypatch=monkeypatch)
