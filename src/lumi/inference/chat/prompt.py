"""Questions as they are typed, piped or pasted, and the file that remembers them."""

import contextlib
import importlib.util
import os
import sys
import time
from pathlib import Path

_MOST_LINES = 1000
_LATE_SECONDS = 1.0  # a Ctrl-C so soon was meant for the answer, which had just ended
_BLOCK = '"""'


class Prompt:
    """Reads from standard input; line by line, or as a block of lines."""

    def __init__(self) -> None:
        self.is_typed = sys.stdin.isatty()
        self._history = InputHistory(state_folder() / "chat_history") if self.is_typed else None

    def read(self) -> str | None:
        """Return what was asked; None at the end, which Ctrl-C is too."""
        begun = time.monotonic()
        try:
            question = self._question()
        except KeyboardInterrupt:
            if not self.is_typed:
                raise
            print(file=sys.stderr)  # behind the prompt
            return "" if time.monotonic() - begun < _LATE_SECONDS else None
        except EOFError:
            if self.is_typed:
                print(file=sys.stderr)
            return None
        if self._history is not None and question.strip():
            self._history.add(question)
        return question

    def _question(self) -> str:
        line = self._line("> ")
        lines = [line]
        if line.lstrip().startswith(_BLOCK):
            lines = [line.lstrip().removeprefix(_BLOCK)]
            with contextlib.suppress(EOFError):
                while not lines[-1].rstrip().endswith(_BLOCK):
                    lines.append(self._line(". "))
            lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
            return "\n".join(lines).strip("\n")
        with contextlib.suppress(EOFError):
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(self._line(". "))
        return "\n".join(lines).rstrip()

    def _line(self, prompt: str) -> str:
        shown = prompt if self.is_typed else ""
        if shown and not sys.stdout.isatty():
            print(shown, end="", file=sys.stderr, flush=True)
            shown = ""
        return input(shown).encode("utf8", "replace").decode()  # what is not UTF-8 comes as lone surrogates


class InputHistory:
    """What was typed, now and in earlier sessions, for the arrow keys; without readline, or a place for the file,
    there is as much of it as there can be.

    Args:
        path: of the file, which is for its owner's eyes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readline = importlib.import_module("readline") if importlib.util.find_spec("readline") else None
        if self._readline is None:
            return
        self._readline.set_auto_history(False)
        self._readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one question
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf8", errors="replace").splitlines()
            if len(lines) > 2 * _MOST_LINES:
                self._write("".join(f"{line}\n" for line in lines[-_MOST_LINES:]), os.O_TRUNC)
            for line in lines[-_MOST_LINES:]:
                self._readline.add_history(line)

    def add(self, question: str) -> None:
        line = " ".join(question.splitlines())
        if self._readline is not None:
            self._readline.add_history(line)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(f"{line}\n", os.O_APPEND)

    def _write(self, text: str, flag: int) -> None:
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text.encode("utf8", "replace"))


def state_folder() -> Path:
    """Return where programs keep what is worth keeping, by the XDG's rules."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named / "lumi"
    try:
        return Path.home() / ".local/state/lumi"
    except RuntimeError:  # a user without a name
        return Path("/nonexistent")
