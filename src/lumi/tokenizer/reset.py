"""Deleting the frozen tokenizer on purpose: shown first, asked once, done only on the word YES."""

import shutil
import sys
from pathlib import Path

from lumi.config import Config
from lumi.errors import DataError, TokenizerMissing
from lumi.progress import say
from lumi.tokenizer.tokenizer import Tokenizer


class ResetConfig(Config):
    """Delete the tokenizer, after asking."""

    tokenizer_dir: Path = Path("data/tokenizer")
    """What is deleted."""


def reset_tokenizer(config: ResetConfig) -> None:
    """Delete a tokenizer folder once the person at the terminal typed YES.

    Raises:
        TokenizerMissing: there is none.
        DataError: no terminal to ask at, or another answer; nothing is deleted then.
    """
    if not config.tokenizer_dir.is_dir():
        raise TokenizerMissing(f"No tokenizer found at {config.tokenizer_dir}", "there is nothing to reset")
    sha256 = Tokenizer.load(config.tokenizer_dir).sha256
    files = sorted(path.name for path in config.tokenizer_dir.iterdir())
    say(f"this deletes {config.tokenizer_dir} (sha256 {sha256[:12]}): {', '.join(files)}")
    say("packed data and checkpoints made with it stay, but fit no other tokenizer: data must be packed again")
    unchanged = "nothing was deleted"
    if not sys.stdin.isatty():
        raise DataError(f"{unchanged}: there is no terminal to ask at", "run it in a terminal and type YES")
    try:
        answer = input("Type YES to delete it: ")
    except EOFError:  # Ctrl-D
        answer = ""
    if answer != "YES":
        raise DataError(f"{unchanged}: the answer was not YES", "run it again if you meant to")
    shutil.rmtree(config.tokenizer_dir)
    say(f"deleted {config.tokenizer_dir}; train the next one with make tokenizer-train-mix")
