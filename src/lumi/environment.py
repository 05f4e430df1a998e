"""What this machine has for Lumi, what is missing, and the command that gets it."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumi.config import Config

DRIVER_FILE = Path("/proc/driver/nvidia/version")
State = Literal["ok", "optional", "missing"]
_GIB = 2**30
_MARK = {"ok": "", "optional": "(optional) ", "missing": "MISSING: "}


class CheckConfig(Config):
    """Show what this machine has, and how to get what is missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check; ``way_out`` is what to do, empty where nothing needs doing."""

    what: str
    found: str
    state: State = "ok"
    way_out: str = ""


def check_environment(config: CheckConfig) -> None:
    """Print the findings: a table in a terminal, one plain line each when piped.

    Raises:
        SystemExit: 1 when something that is required is missing.
    """
    findings = list(look())
    if sys.stdout.isatty():
        _print_table(findings)
    else:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            way_out = f"  -> {finding.way_out}" if finding.way_out else ""
            print(f"{finding.what:<{width}}  {_MARK[finding.state]}{finding.found}{way_out}")
    if any(finding.state == "missing" for finding in findings):
        raise SystemExit(1)


def look() -> Iterator[Finding]:
    """Yield what there is and what is not."""
    supported = sys.version_info[:2] >= (3, 11)
    yield Finding(
        "Python", platform.python_version(), "ok" if supported else "missing", "" if supported else "use 3.11 or 3.12"
    )
    yield from _packages()
    yield from _accelerator()
    yield from _resources()


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what Lumi's own metadata asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in importlib.metadata.requires("lumi-lab") or ()]
    core = [requirement for requirement in wanted if requirement.marker is None]
    fine = []
    for requirement in core:
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            found = "not installed" if version is None else f"{version}, {requirement.specifier} is needed"
            yield Finding(requirement.name, found, "missing", "make install")
        elif requirement.name in ("torch", "transformers"):
            yield Finding(requirement.name, version)
        else:
            fine.append(requirement.name)
    if fine:
        yield Finding("also there", ", ".join(sorted(fine)))
    for extra, purpose in (("demo", "embedded text of make demo"), ("parquet", "parquet sources")):
        of_extra = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": extra})]
        absent = [requirement.name for requirement in of_extra if _version(requirement.name) is None]
        if absent:
            yield Finding(f"extra {extra}", f"no {', '.join(absent)} ({purpose})", "optional", "make install")
        else:
            yield Finding(f"extra {extra}", f"there ({purpose})")


def _accelerator() -> Iterator[Finding]:
    driver = nvidia_driver()
    yield Finding("NVIDIA driver", driver or "none", "ok" if driver else "optional")
    if _version("torch") is None:
        return
    import torch

    from lumi.model import choose_attention

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(cards):
        card = torch.cuda.get_device_properties(index)
        kinds = "bf16" if card.major >= 8 else "fp16"
        about = (
            f"{card.name}, {card.total_memory / _GIB:.0f} GiB, compute capability {card.major}.{card.minor}, {kinds}"
        )
        yield Finding(f"CUDA card {index}", about)
    if cards:
        yield Finding("CUDA of torch", str(torch.version.cuda))
    else:
        yield Finding("CUDA", "torch sees no card", "optional", _way_to_cuda(driver, torch.version.cuda))
    chosen = choose_attention("auto")[0]
    shown = {"flash": "FlashAttention", "sdpa": "PyTorch's own kernels (SDPA)"}[chosen]
    yield Finding("attention", shown, "ok", "pip install flash-attn" if cards and chosen != "flash" else "")


def _way_to_cuda(driver: str | None, built_for: str | None) -> str:
    if driver is None:
        return "all runs on the CPU; for a card, install NVIDIA's driver"
    if built_for is None:
        return 'this torch is a CPU build: make install TORCH="torch==2.13.0"'
    return f"is driver {driver} too old for CUDA {built_for}, or CUDA_VISIBLE_DEVICES empty?"


def _resources() -> Iterator[Finding]:
    import psutil

    yield Finding("processors", str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()))
    memory = psutil.virtual_memory()
    enough = memory.total >= 3.5 * _GIB
    yield Finding(
        "memory",
        f"{memory.total / _GIB:.0f} GiB, {memory.available / _GIB:.0f} GiB of it free",
        "ok" if enough else "optional",
        "" if enough else "4 GiB are wanted; close other programs",
    )
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    yield Finding(
        "free disk here", f"{free:.0f} GiB", "ok" if free >= 5 else "optional", "" if free >= 5 else "free some space"
    )


def nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None where none is loaded."""
    if DRIVER_FILE.exists() and (match := re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", DRIVER_FILE.read_text())):
        return match[1]
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    shown = subprocess.run(
        [smi, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return shown.stdout.split()[0] if shown.returncode == 0 and shown.stdout.split() else None


def _print_table(findings: Sequence[Finding]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "found", "how to get it"):
        table.add_column(column)
    style = {"ok": "", "optional": "yellow", "missing": "bold red"}
    for finding in findings:
        table.add_row(finding.what, _MARK[finding.state] + finding.found, finding.way_out, style=style[finding.state])
    Console(highlight=False, markup=False).print(table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
