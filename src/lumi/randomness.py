"""Keyed random generators: every random choice is named by (seed, purpose).

Nothing in Lumi draws from a global generator except torch's own layers, whose state is part of every
checkpoint. Two purposes never share a stream, so adding a random choice somewhere moves no other.
torch is imported only where it is used: the stages before training, and their workers, start without it.
"""

import hashlib
import os
import random
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _key(seed: int, purpose: tuple[str | int, ...]) -> bytes:
    named = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return hashlib.sha256(named.encode()).digest()


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the NumPy generator of this purpose, e.g. ``generator(seed, "rows", dataset, epoch)``."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_key(seed, purpose)[:16], "little")))


def torch_generator(seed: int, *purpose: str | int, device: "str | torch.device" = "cpu") -> "torch.Generator":
    """Return the torch generator of this purpose on ``device``."""
    import torch

    made = torch.Generator(device)
    made.manual_seed(int.from_bytes(_key(seed, purpose)[:8], "little") >> 1)
    return made


def seed_global_generators(seed: int, rank: int = 0, step: int = 0) -> None:
    """Seed Python's, NumPy's and torch's global generators, which layers of third parties (dropout) draw from."""
    import torch

    key = int.from_bytes(_key(seed, ("global", rank, step))[:8], "little") >> 1
    random.seed(key)
    np.random.seed(key % 2**32)
    torch.manual_seed(key)


def use_deterministic_kernels() -> None:
    """Let torch use kernels that give the same bits each time, or raise where there is none; before CUDA starts."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # none is read here


def unit_interval(seed: int, purpose: str, content: bytes) -> float:
    """Map content to [0, 1): the same bytes always land on the same point, whatever else exists.

    Used where a choice must not depend on order or company, such as the split of a document.
    """
    digest = hashlib.sha256(_key(seed, (purpose,)) + content).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
