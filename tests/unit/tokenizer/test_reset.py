"""Deleting the tokenizer asks first."""

import shutil

import pytest

from lumi.errors import DataError, TokenizerMissing
from lumi.tokenizer import ResetConfig, reset_tokenizer


@pytest.fixture
def folder(artifacts, tmp_path):
    return shutil.copytree(artifacts / "tokenizer", tmp_path / "tokenizer")


def answer(monkeypatch, text):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: text)


def test_yes_deletes_after_saying_what(folder, monkeypatch, capsys):
    answer(monkeypatch, "YES")
    reset_tokenizer(ResetConfig(tokenizer_dir=folder))
    assert not folder.exists()
    assert "spm32k.model" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["yes", "Y", "", " YES", "NO"])
def test_any_other_answer_deletes_nothing(folder, monkeypatch, text):
    answer(monkeypatch, text)
    with pytest.raises(DataError, match="nothing was deleted"):
        reset_tokenizer(ResetConfig(tokenizer_dir=folder))
    assert (folder / "spm32k.model").exists()


def test_without_a_terminal_nothing_is_deleted(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(DataError, match="no terminal"):
        reset_tokenizer(ResetConfig(tokenizer_dir=folder))
    assert (folder / "spm32k.model").exists()


def test_nothing_to_reset(tmp_path):
    with pytest.raises(TokenizerMissing, match="No tokenizer found"):
        reset_tokenizer(ResetConfig(tokenizer_dir=tmp_path / "none"))
