"""Make the environment in .venv: torch first and pinned, then Lumi and what it needs. Standard library only.

An NVIDIA driver -> the registry's torch (CUDA build). None -> a CPU build: a local wheel where pip is set up to
find one, else PyTorch's CPU index through uv. TORCH="..." (arguments for pip install) overrides both. A stamp
makes a second run return at once, without the network. Nothing newer than Python 3.6 is used before the version is
checked, so that an old one can say what is wrong.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lumi-installed.json"
TORCH = "torch==2.13.0"


def main() -> None:
    """Install what is not there yet."""
    if sys.version_info < (3, 11):
        start_again_with_newer_python()
    asked = os.environ.get("TORCH", "")
    files = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")))
    wanted = {"place": str(ROOT), "files": files.hexdigest()}
    stamp = json.loads(STAMP.read_text()) if STAMP.is_file() else {}
    # A plain run accepts the torch that an earlier TORCH="..." chose.
    if PYTHON.exists() and stamp == {**wanted, "torch": asked or stamp.get("torch")}:
        return
    make_environment(moved=stamp.get("place", wanted["place"]) != wanted["place"])
    STAMP.unlink(missing_ok=True)
    install_torch(asked)
    step("installing Lumi and what it needs")
    # Whatever else is installed, now or later, must take the torch that is there.
    kept = VENV / "torch.txt"
    kept.write_text(f"torch=={torch_version()}\n")
    pip("install", "-c", str(ROOT / "constraints.txt"), "-c", str(kept), "-e", f"{ROOT}[dev,demo,parquet]")
    STAMP.write_text(json.dumps({**wanted, "torch": asked or stamp.get("torch", "")}) + "\n")
    step("done; `make check-env` shows what this machine has")


def start_again_with_newer_python() -> None:
    """Go on with a newer Python that is on the path under its own name, where there is one."""
    for name in ("python3.12", "python3.11"):
        newer = shutil.which(name)
        if (
            newer
            and subprocess.run([newer, "-c", "import venv"], stderr=subprocess.DEVNULL, check=False).returncode == 0
        ):
            os.execv(newer, [newer, *sys.argv])
    found = sys.version.split()[0]
    fail(f"Python 3.11 or newer is needed, this is {found}", "make install PYTHON=path/to/python3.12")


def make_environment(*, moved: bool) -> None:
    """Make .venv, unless one is there that works in this place (its programs name the folder they were made in)."""
    works = PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False)
    if works and works.returncode == 0 and not moved:
        return
    if VENV.exists():
        step(f"{VENV.name} {'was made in another folder' if moved else 'is broken'}: making it anew")
        shutil.rmtree(VENV)
    step(f"making {VENV.name} with Python {sys.version.split()[0]}")
    if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        fail("python -m venv failed", "install the venv module (on Debian and Ubuntu: apt install python3-venv)")


def install_torch(asked: str) -> None:
    """Install torch before anything that depends on it could choose another build."""
    there = torch_version()
    if asked:
        step(f"installing torch as asked: {asked}")
        if there:  # to pip 2.13.0+cpu satisfies 2.13.0: it would keep the build that is to be exchanged
            pip("uninstall", "--yes", "torch")
        pip("install", *shlex.split(asked))
        if not torch_version():
            fail(f"TORCH={asked!r} installed no torch that can be imported", f'name one, such as TORCH="{TORCH}"')
    elif there:
        step(f"torch {there} is there")
    elif has_nvidia_driver() or sys.platform == "darwin" or pip_offers_cpu_build():
        step(f"installing {TORCH}")
        pip("install", TORCH)
    else:
        step(f"installing the CPU build of {TORCH}")
        pip("install", "uv")
        uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), "--torch-backend", "cpu", TORCH]
        if subprocess.run(uv, check=False).returncode:
            fail(
                "no CPU build of torch could be had (see above)",
                f'name a wheel file: make install TORCH="path/to/torch.whl"; '
                f'or take the registry\'s own build, several GB: make install TORCH="{TORCH}"',
            )


def torch_version() -> str:
    """Return the version of the torch in .venv; empty where there is none that can be imported."""
    shown = subprocess.run(
        [PYTHON, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=False
    )
    return "" if shown.returncode else shown.stdout.strip()


def has_nvidia_driver() -> bool:
    """Say whether an NVIDIA driver is loaded."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi], capture_output=True, check=False).returncode == 0


def pip_offers_cpu_build() -> bool:
    """Say whether pip, as it is set up on this machine, would take torch from a local file or as a +cpu build.

    Where pip is not set up at all the answer is known, and is not asked for: an older pip would download the CUDA
    build only to tell its version.
    """
    settings = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    if not any(name in settings.stdout for name in ("find-links", "index")):
        return False
    command = [PYTHON, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--report", "-", TORCH]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        return False
    chosen = json.loads(found.stdout)["install"][0]
    return chosen["metadata"]["version"].endswith("+cpu") or chosen["download_info"]["url"].startswith("file:")


def pip(*arguments: str) -> None:
    """Run pip in the environment; with its own progress in a terminal, silently elsewhere."""
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *quiet, *arguments]
    if subprocess.run(command, check=False).returncode:
        fail(
            f"pip {shlex.join(arguments)} failed (see above)",
            f"mend that and run the same command again; deleting {VENV.name} begins anew",
        )


def step(message: str) -> None:
    """Tell what happens."""
    print(f"install: {message}", file=sys.stderr, flush=True)


def fail(fact: str, way_out: str) -> None:
    """Stop with a fact and a way out."""
    sys.exit(f"error: {fact}\n  -> {way_out}")


if __name__ == "__main__":
    main()
