"""Servers for the tests: small models made here, served by a thread of the test, or by the command in a process."""

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import uvicorn
from tests.training_runs import write_checkpoint

from lumi.conversation import find_template
from lumi.inference import Request
from lumi.model import ModelConfig, create_model
from lumi.model.pretrained import weights
from lumi.serving.app import create_app
from lumi.serving.limits import Limits
from lumi.serving.served_model import ServedModel, model_ids
from lumi.serving.server import bind
from lumi.serving.service import Service
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel

KEY = "a-key-of-the-tests-0123456789"
ENDLESS = {"logit_bias": {"2": -100, "4": -100, "5": -100}, "max_tokens": 60}
"""Of a body whose answer ends at its limit alone."""


def write_model(folder: Path, tokenizer: Tokenizer, *, template: str | None = "chatml", seed: int = 5) -> Path:
    """Write a checkpoint whose answers depend visibly on every token before."""
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=2, d_model=48, n_head=3, n_kv_head=1, head_dim=16, sequence_length=128
    )
    model = create_model(shape, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    files = WholeModel(shape, tokenizer, find_template(template) if template else None)
    run = {"tokenizer_sha256": tokenizer.sha256, "config": {}, "phases": [], "step": 0}
    write_checkpoint(folder, files, weights(model), run)
    return folder


def load(*folders: Path, num_slots: int = 4) -> list[ServedModel]:
    return [
        ServedModel.load(folder, model_id, device="cpu", dtype="fp32", num_slots=num_slots)
        for folder, model_id in zip(folders, model_ids(folders), strict=True)
    ]


def slow_down(model: ServedModel, seconds: float, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let each step of an engine wait this long first, until the event that is returned is set."""
    engine, hurry = model.thread.engine, threading.Event()
    step = engine.step

    def late_step() -> list[Request]:
        hurry.wait(seconds)
        return step()

    monkeypatch.setattr(engine, "step", late_step)
    return hurry


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def serving(
    models: list[ServedModel], limits: dict[str, Any] | None = None, *, send_buffer: int | None = None, **options: Any
) -> Iterator[SimpleNamespace]:
    """Serve in a thread on a free port; ``send_buffer``: bytes that the system takes for a reader that is slow."""
    service = Service(models, Limits(**(limits or {})))
    server = uvicorn.Server(
        uvicorn.Config(create_app(service, **options), log_config=None, log_level="error", lifespan="on", ws="none")
    )
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        if send_buffer:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{port}", port=port, service=service, models=models, model=models[0].id
            )
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive()


@contextlib.contextmanager
def command(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `lumi serve` on a free port; give the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lumi.cli", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        assert process.stderr is not None
        said = ""
        while (found := re.search(r"http://\S+:\d+", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()
