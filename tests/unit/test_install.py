"""scripts/install.py: which torch, in which order, and nothing at all the second time.

The environment's Python is a stand-in that writes down what it is asked to do; nothing is downloaded.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

STAND_IN = """#!/bin/sh
here="$(dirname "$0")"
case "$*" in
  *"import torch"*) cat "$here/torch" 2>/dev/null; exit $? ;;
  *"--version") exit 0 ;;
  *"config list") cat "$here/pip-config" 2>/dev/null; exit 0 ;;
  *"--dry-run"*) cat "$here/report" 2>/dev/null; exit $? ;;
esac
echo "$*" >> "$here/asked"
case "$*" in
  *uninstall*) rm -f "$here/torch" ;;
  *"install torch"*|*"install /wheels/torch"*|*"--torch-backend cpu torch"*)
    test -e "$here/no-network" && exit 1
    echo 2.13.0+cpu > "$here/torch" ;;
  *"-e "*) test -e "$here/no-network" && exit 1 ;;
esac
exit 0
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """The module, at work in a folder of its own; without driver, without settings of pip."""
    spec = importlib.util.spec_from_file_location("install", REPOSITORY / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "uv"):
        (binaries / name).write_text(STAND_IN)
        (binaries / name).chmod(0o755)
    for name, value in (("ROOT", ""), ("VENV", ".venv"), ("PYTHON", ".venv/bin/python")):
        monkeypatch.setattr(module, name, tmp_path / value)
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    monkeypatch.setattr(module, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.delenv("TORCH", raising=False)
    module.binaries = binaries
    return module


def asked(install):
    """What the stand-in was asked since the last time."""
    log = install.binaries / "asked"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.replace("-m pip --disable-pip-version-check --quiet ", "") for line in lines]


def offer(install, version, url):
    (install.binaries / "pip-config").write_text("global.find-links='/wheels'\n")
    chosen = {"metadata": {"version": version}, "download_info": {"url": url}}
    (install.binaries / "report").write_text(json.dumps({"install": [chosen]}))


def test_torch_goes_first_and_nothing_can_exchange_it(install):
    install.main()
    first, second, last = asked(install)
    assert first == "install uv"
    assert second.endswith("--torch-backend cpu torch==2.13.0")
    assert last.startswith("install -c ")
    assert last.endswith("[dev,demo,parquet]")
    (kept,) = [word for word in last.split() if word.endswith("torch.txt")]
    assert Path(kept).read_text() == "torch==2.13.0+cpu\n"


def test_the_second_time_nothing_is_asked(install):
    install.main()
    asked(install)
    (install.binaries / "no-network").touch()
    install.main()
    assert asked(install) == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_requirements_are_installed_and_torch_stays(install, name):
    install.main()
    asked(install)
    with (install.ROOT / name).open("a") as file:
        file.write("# changed\n")
    install.main()
    (only,) = asked(install)
    assert only.endswith("[dev,demo,parquet]")


@pytest.mark.parametrize(
    "version, url, taken",
    [
        ("2.13.0+cpu", "file:///wheels/torch.whl", ["install torch==2.13.0"]),
        ("2.13.0", "file:///wheels/torch.whl", ["install torch==2.13.0"]),
        ("2.13.0+cpu", "https://mirror.example/torch.whl", ["install torch==2.13.0"]),
        ("2.13.0", "https://mirror.example/torch.whl", ["install uv", "pip install"]),
    ],
)
def test_a_cpu_build_that_pip_is_set_up_to_find_is_taken(install, version, url, taken):
    offer(install, version, url)
    install.main()
    lines = asked(install)[:-1]
    assert len(lines) == len(taken)
    assert all(line.startswith(start) for line, start in zip(lines, taken, strict=True))


def test_a_driver_means_the_registrys_own_build(install, monkeypatch):
    monkeypatch.setattr(install, "has_nvidia_driver", lambda: True)
    install.main()
    assert asked(install)[0] == "install torch==2.13.0"


def test_torch_can_be_named(install, monkeypatch):
    monkeypatch.setenv("TORCH", "torch==2.11.0 --index-url 'https://mirror.example/a b'")
    install.main()
    assert asked(install)[0] == "install torch==2.11.0 --index-url https://mirror.example/a b"
    install.main()
    monkeypatch.delenv("TORCH")
    install.main()  # `make test` after `TORCH=... make install`
    assert asked(install) == []


def test_another_named_build_of_the_same_version_replaces_the_first(install, monkeypatch):
    install.main()
    asked(install)
    monkeypatch.setenv("TORCH", "torch==2.13.0")
    install.main()
    assert asked(install)[:2] == ["uninstall --yes torch", "install torch==2.13.0"]


def test_no_cpu_build_is_one_clear_error_that_names_the_override(install):
    (install.binaries / "no-network").touch()
    with pytest.raises(SystemExit) as caught:
        install.main()
    assert "no CPU build of torch" in caught.value.code
    assert "make install TORCH=" in caught.value.code


def test_an_interrupted_installation_is_not_taken_for_a_finished_one(install):
    install.main()
    with (install.ROOT / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    (install.binaries / "no-network").touch()
    with pytest.raises(SystemExit, match="pip install"):
        install.main()
    asked(install)
    (install.binaries / "no-network").unlink()
    install.main()
    assert len(asked(install)) == 1


@pytest.mark.parametrize("why", ["moved", "broken"])
def test_an_environment_that_cannot_work_here_is_made_anew(install, monkeypatch, why):
    install.main()
    if why == "moved":
        stamp = json.loads(install.STAMP.read_text())
        install.STAMP.write_text(json.dumps({**stamp, "place": "/somewhere/else"}))
    else:
        install.STAMP.unlink()
        install.PYTHON.unlink()
    real, made = subprocess.run, []

    def run(command, **options):
        if "venv" in command:
            made.append(install.VENV.exists())
            install.binaries.mkdir(parents=True)
            for name in ("python", "uv"):
                (install.binaries / name).write_text(STAND_IN)
                (install.binaries / name).chmod(0o755)
            return subprocess.CompletedProcess(command, 0)
        return real(command, **options)

    monkeypatch.setattr(install.subprocess, "run", run)
    install.main()
    assert made == [False]  # the old one was gone by then
    assert len(asked(install)) == 3


def test_without_the_venv_module_it_says_what_to_install(install, monkeypatch):
    import shutil

    shutil.rmtree(install.VENV)
    monkeypatch.setattr(install.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(SystemExit, match="python3-venv"):
        install.main()


def test_an_old_python_says_so(install, monkeypatch):
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Python 3.11 or newer is needed"):
        install.main()


def test_an_old_python_hands_over_to_a_newer_one_that_works(install, monkeypatch):
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 2))
    broken = install.binaries / "python3.12"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(install.shutil, "which", {"python3.12": str(broken), "python3.11": sys.executable}.get)
    started = []

    def execv(path, command):
        started.append((path, command[0]))
        raise SystemExit(0)

    monkeypatch.setattr(install.os, "execv", execv)
    with pytest.raises(SystemExit):
        install.main()
    assert started == [(sys.executable, sys.executable)]
