"""Make the environment in .venv: torch first and pinned, then Lumi and what it needs. Standard library only.

An NVIDIA driver -> the registry's torch (CUDA build). None -> a CPU build: a local wheel where pip is set up to
find one, else PyTorch's CPU index through uv. TORCH="..." (arguments for pip install) overrides both. A stamp
makes a second run return at once, without the network.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lumi-installed"
TORCH = "torch==2.13.0"


def main() -> None:
    """Install what is not there yet."""
    if sys.version_info < (3, 11):
        fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "make install PYTHON=python3.12")
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    wanted = hashlib.sha256(b"".join(f.read_bytes() for f in files) + os.environ.get("TORCH", "").encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted and PYTHON.exists():
        return
    if not PYTHON.exists():
        step(f"making {VENV.name} with Python {sys.version.split()[0]}")
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            fail("python -m venv failed", "install the venv module (on Debian: apt install python3-venv)")
    install_torch()
    step("installing Lumi and what it needs")
    pip("install", "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[dev,demo,parquet]")
    STAMP.write_text(wanted)
    step("done; `make check-env` shows what this machine has")


def install_torch() -> None:
    """Install torch before anything that depends on it could choose another build."""
    if asked := os.environ.get("TORCH"):
        step(f"installing torch as asked: {asked}")
        pip("install", *asked.split())
    elif subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode == 0:
        step("torch is there")
    elif has_nvidia_driver() or sys.platform == "darwin" or pip_offers_cpu_build():
        step(f"installing {TORCH}")
        pip("install", TORCH)
    else:
        step(f"installing the CPU build of {TORCH}")
        pip("install", "uv")
        uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), "--torch-backend", "cpu", TORCH]
        if subprocess.run(uv, check=False).returncode:
            fail("no CPU build of torch could be had", f'make install TORCH="{TORCH}" takes the registry\'s own build')


def has_nvidia_driver() -> bool:
    """Say whether an NVIDIA driver is loaded."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi], capture_output=True, check=False).returncode == 0


def pip_offers_cpu_build() -> bool:
    """Say whether pip, as it is set up on this machine, would take torch from a local file or as a +cpu build."""
    command = [PYTHON, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--report", "-", TORCH]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        return False
    chosen = json.loads(found.stdout)["install"][0]
    return chosen["metadata"]["version"].endswith("+cpu") or chosen["download_info"]["url"].startswith("file:")


def pip(*arguments: str) -> None:
    """Run pip in the environment."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(command, check=False).returncode:
        fail(f"pip {' '.join(arguments)} failed (see above)", "mend that and run the same command again")


def step(message: str) -> None:
    """Tell what happens."""
    print(f"install: {message}", file=sys.stderr, flush=True)


def fail(fact: str, way_out: str) -> None:
    """Stop with a fact and a way out."""
    sys.exit(f"error: {fact}\n  -> {way_out}")


if __name__ == "__main__":
    main()
