"""`lumi check-env`: what is there, what is missing, and the way to it."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest
import torch

from lumi.environment import CheckConfig, check_environment, look, nvidia_driver


def findings():
    return {finding.what: finding for finding in look()}


@pytest.fixture
def installed(monkeypatch):
    """Pretend other versions; None is 'not installed'."""
    real = importlib.metadata.version

    def pretend(**versions):
        def version(name):
            if name not in versions:
                return real(name)
            if versions[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_here_nothing_required_is_missing(capsys):
    check_environment(CheckConfig())
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= {
        "Python",
        "torch",
        "transformers",
        "attention",
        "processors",
        "memory",
    }
    assert any(line.startswith("free disk here") for line in lines)


def test_piped_output_is_plain_one_line_each(capsys):
    check_environment(CheckConfig())
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert len(text.splitlines()) == len(list(look()))


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    check_environment(CheckConfig())
    assert "how to get it" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_command_and_exits_1(installed, capsys):
    installed(transformers=None)
    with pytest.raises(SystemExit) as caught:
        check_environment(CheckConfig())
    assert caught.value.code == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("transformers")]
    assert "MISSING: not installed" in line
    assert line.endswith("-> make install")


def test_a_version_that_is_too_old_is_missing_too(installed):
    installed(transformers="4.57.0")
    found = findings()["transformers"]
    assert found.state == "missing"
    assert found.found.startswith("4.57.0, ")
    assert "5.17" in found.found


def test_without_torch_the_rest_is_still_shown(installed):
    installed(torch=None)
    found = findings()
    assert found["torch"].state == "missing"
    assert "attention" not in found
    assert "memory" in found


def test_a_missing_extra_is_optional(installed):
    installed(pyarrow=None)
    assert findings()["extra parquet"].state == "optional"
    check_environment(CheckConfig())


def test_a_card_is_described(monkeypatch):
    card = SimpleNamespace(name="Card", total_memory=24 * 2**30, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    found = findings()
    assert found["CUDA card 0"].found == "Card, 24 GiB, compute capability 8.9, bf16"
    assert found["attention"].state == "ok"
    card.major, card.minor = 7, 5
    assert findings()["CUDA card 0"].found.endswith("7.5, fp16")


def fake_driver(folder, monkeypatch, *, works=True):
    smi = folder / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 580.65.06\n" if works else "#!/bin/sh\necho no devices found\nexit 9\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr("lumi.environment.DRIVER_FILE", folder / "none")


def test_a_driver_with_a_cpu_build_names_the_way_to_the_cuda_build(tmp_path, monkeypatch):
    fake_driver(tmp_path, monkeypatch)
    no_card(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = findings()
    assert found["NVIDIA driver"].found == "580.65.06"
    assert 'make install TORCH="torch==2.13.0"' in found["CUDA"].way_out


def test_a_driver_too_old_for_torch(tmp_path, monkeypatch):
    fake_driver(tmp_path, monkeypatch)
    no_card(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "580.65.06 too old for CUDA 13.0" in findings()["CUDA"].way_out


def test_no_driver_is_nothing_to_worry_about(tmp_path, monkeypatch):
    fake_driver(tmp_path, monkeypatch, works=False)
    no_card(monkeypatch)
    assert nvidia_driver() is None
    assert findings()["NVIDIA driver"].state == "optional"
    assert findings()["CUDA"].way_out.startswith("all runs on the CPU")


def test_the_driver_file_is_read_first(tmp_path, monkeypatch):
    fake_driver(tmp_path, monkeypatch, works=False)
    for line in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n",
    ):
        (tmp_path / "none").write_text(line + "GCC version: gcc version 12.2.0\n")
        assert nvidia_driver() == "550.54.15"
