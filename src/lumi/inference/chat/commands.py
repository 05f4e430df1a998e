"""What a line that begins with a slash does to a conversation."""

import contextlib
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lumi.errors import ConfigError
from lumi.inference.chat.answerer import Pieces, num_exchanges
from lumi.inference.chat.conversation import Chat
from lumi.inference.settings import GenerationConfig

Reply = str | Pieces  # something to say, or an answer that is being written


class EndOfChat(Exception):
    """The person wants no more."""


class Command(NamedTuple):
    """One command; ``run`` takes what stands behind its name."""

    argument: str
    about: str
    run: Callable[[Chat, str], Reply]


def run_command(chat: Chat, line: str) -> Reply:
    """Do what a line asks for.

    Raises:
        LumiError: there is no such command, or not with this argument; the conversation is as it was.
        EndOfChat: it was /quit.
    """
    name, _, argument = line[1:].partition(" ")
    name = _ALIASES.get(name, name)
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"there is no /{name}", f"did you mean /{nearest}? /help lists all")
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.argument:
        raise ConfigError(f"/{name} stands alone, {argument!r} is one too many", f"/{name}")
    if not argument and command.argument[:1] not in ("", "["):
        raise ConfigError(f"/{name} needs a {command.argument}", f"/{name} {command.argument}")
    return command.run(chat, argument)


def _help(_chat: Chat, _argument: str) -> str:
    lines = [f"/{name} {command.argument}".ljust(17) + command.about for name, command in COMMANDS.items()]
    return "\n".join([*lines, *_KEYS])


def _system(chat: Chat, text: str) -> str:
    if text:
        chat.system = "" if text == "-" else text
    return f"system: {chat.system}" if chat.system else "no system message"


def _setting(name: str) -> Callable[[Chat, str], str]:
    """Return the command that shows or changes a number of the settings."""
    number = type(getattr(GenerationConfig(), name))

    def run(chat: Chat, text: str) -> str:
        before = getattr(chat.settings, name)
        if not text:
            return f"{name}: {before}"
        try:
            changed = {**chat.settings.resolved(), name: number(text)}
            chat.settings = GenerationConfig.from_values(changed, "")
        except ConfigError as error:
            raise ConfigError(error.fact.removeprefix(": "), f"it stays {before}") from None
        except ValueError:
            raise ConfigError(f"{name} cannot be {text!r}", f"it stays {before}") from None
        return f"{name}: {getattr(chat.settings, name)}"

    return run


def _undo(chat: Chat, _argument: str) -> str:
    question = chat.undo().content
    return f"forgotten: {question.splitlines()[0]:.60}"


def _clear(chat: Chat, _argument: str) -> str:
    chat.turns = []
    return "a new conversation" + (", with the same system message" if chat.system else "")


def _save(chat: Chat, file: str) -> str:
    path = _path(file)
    chat.save(path)
    return f"saved: {path}"


def _load(chat: Chat, file: str) -> str:
    path = _path(file)
    chat.load(path)
    return f"loaded: {path}, exchanges: {num_exchanges(chat.turns)}" + (
        "; the last question has no answer, /regen asks it" if chat.turns[-1].role == "user" else ""
    )


def _path(text: str) -> Path:
    with contextlib.suppress(RuntimeError):  # nobody's home
        if text.isprintable():
            return Path(text).expanduser()
    raise ConfigError(f"{text!r} is not the name of a file", "give its path")


def _quit(_chat: Chat, _argument: str) -> str:
    raise EndOfChat


COMMANDS = {
    "help": Command("", "this list", _help),
    "system": Command("[TEXT]", "what the model is told before the conversation; - for nothing", _system),
    "temp": Command("[X]", "temperature: 0 takes the likeliest token each time", _setting("temperature")),
    "top_p": Command("[X]", "draw from the likeliest tokens that have this probability", _setting("top_p")),
    "max": Command("[N]", "tokens of an answer at most", _setting("max_new_tokens")),
    "seed": Command("[N]", "the same seed gives the same answer", _setting("seed")),
    "regen": Command("", "another answer to the last question (also /again)", lambda chat, _: chat.ask_again()),
    "undo": Command("", "forget the last question and its answer", _undo),
    "clear": Command("", "begin anew", _clear),
    "save": Command("FILE", "as .json, which /load reads, or as .md", _save),
    "load": Command("FILE", "go on with a conversation that was saved", _load),
    "stats": Command("", "tokens, their rate, how full the context is", lambda chat, _: statistics(chat)),
    "quit": Command("", "end (also Ctrl-D)", _quit),
}
_ALIASES = {"again": "regen", "exit": "quit"}
_KEYS = (
    "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one; several",
    'lines stand between two """, or pasted. A blank before a slash makes it text.',
)


def statistics(chat: Chat) -> str:
    """Say what was written so far and how full the context is, as far as that is known."""
    counted = [answer for answer in chat.answers if answer.num_tokens]
    if not counted:
        return "nothing was answered yet"
    num_tokens = sum(answer.num_tokens or 0 for answer in counted)
    seconds = sum(answer.writing_seconds for answer in counted)
    rate = f", {(num_tokens - len(counted)) / seconds:,.0f} tokens/s" if seconds else ""
    last, most = counted[-1], chat.answerer.context
    used = (last.num_prompt_tokens or 0) + (last.num_tokens or 0)
    lines = [
        f"written: {num_tokens:,} tokens{rate}",
        f"context at the last answer: {used:,}{f' of {most:,} tokens ({used / most:.0%})' if most else ' tokens'}",
        f"of its prompt: {last.num_prompt_tokens or 0:,} tokens, {last.num_cached_tokens or 0:,} kept from before",
    ]
    return "\n".join(filter(None, [*lines, last.left_out]))
