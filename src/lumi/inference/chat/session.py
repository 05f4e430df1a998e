"""The conversation as a person has it: questions and commands in, answers and remarks out."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rich.text import Text

from lumi.errors import LumiError
from lumi.inference.chat.answerer import Answer, Pieces
from lumi.inference.chat.commands import EndOfChat, run_command
from lumi.inference.chat.conversation import Chat
from lumi.inference.chat.prompt import Prompt
from lumi.inference.chat.views import View, open_view
from lumi.inference.chat.visible import visible
from lumi.progress import console, say


class Session:
    """Holds a conversation in this terminal, or with what stands in its place."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._is_watched = sys.stdout.isatty()

    def tell(self, line: str) -> None:
        """Say something that is not of an answer, even while one is written."""
        (self._view.note if self._view is not None else _remark)(line)

    def converse(self, chat: Chat) -> bool:
        """Go on until there is no more to ask; say whether all went well."""
        prompt = Prompt()
        went_well = True
        while (line := prompt.read()) is not None:
            if not line.strip():
                continue
            try:
                reply = run_command(chat, line) if line.startswith("/") else chat.ask(line)
                if isinstance(reply, str):
                    _remark(reply)
                else:
                    self.write(chat, reply)
            except EndOfChat:
                break
            except KeyboardInterrupt:
                if not prompt.is_typed:
                    raise
            except LumiError as error:
                went_well = False
                say(f"error: {visible(' '.join(f'{error.fact}; {error.way_out}'.split()))}")
        return went_well

    def write(self, chat: Chat, reply: Pieces) -> None:
        """Show an answer as it comes.

        Raises:
            LumiError: it did not come to its end; what came is shown.
            KeyboardInterrupt: as well.
        """
        answer = chat.answers[-1]
        try:
            with quiet_keyboard(), closing(open_view()) as self._view, closing(reply):
                for text in reply:
                    self._view.write(text)
        except KeyboardInterrupt:
            answer.finish_reason = "stopped by Ctrl-C"
            self._remark_on(answer)
            raise
        finally:
            self._view = None
        self._remark_on(answer)

    def _remark_on(self, answer: Answer) -> None:
        if self._is_watched:
            _remark(f"{summary(answer)}\n")
        elif answer.left_out:
            _remark(answer.left_out)


def summary(answer: Answer) -> str:
    """Return a line about an answer."""
    parts = []
    if answer.num_tokens is not None:
        parts.append(f"{answer.num_tokens:,} tokens")
        if answer.writing_seconds and answer.num_tokens > 1:
            parts.append(f"{(answer.num_tokens - 1) / answer.writing_seconds:,.0f} tokens/s")
    if answer.seconds_to_first_token is not None:
        parts.append(f"first after {answer.seconds_to_first_token:.2f} s")
    if answer.finish_reason == "length":
        parts.append("cut off: no more tokens allowed or no more room (length)")
    elif answer.finish_reason not in ("stop", None):
        parts.append(answer.finish_reason)
    if not answer.text.strip():
        parts.append("nothing was answered")
    if answer.num_left_out:
        parts.append(answer.left_out)
    return ", ".join(parts)


def _remark(line: str) -> None:
    console().print(Text(visible(line), style="dim"))


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Let keys leave no mark in an answer; what is typed meanwhile is there at the next prompt."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = termios.tcgetattr(sys.stdin)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
