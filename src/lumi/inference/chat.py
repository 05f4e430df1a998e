"""`lumi chat`: a conversation in the terminal, written as the model answers."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from lumi.config import Config
from lumi.conversation import Message, Template, read_template, render
from lumi.errors import ConfigError, DataError
from lumi.inference.generation import stream
from lumi.inference.settings import GenerationConfig
from lumi.model import DeviceName, DtypeName, Llama, choose_device, choose_dtype, load_model
from lumi.progress import say
from lumi.tokenizer import Tokenizer

_HELP = "/clear begins anew, /again asks for another answer, /quit (or Ctrl-D) ends"


class ChatConfig(Config):
    """Talk to a model that was tuned to answer."""

    model_path: Path
    """Checkpoint folder, such as checkpoints/sft_industrial/tiny/final."""
    message: str | None = None
    """Ask this alone and end; default: a conversation."""
    system: str = ""
    """What the model is told before the conversation."""
    device: DeviceName = "auto"
    """Where to compute."""
    dtype: DtypeName = "auto"
    """Type to compute in."""
    generation: GenerationConfig = Field(default=GenerationConfig(max_new_tokens=256, temperature=0.7))


@dataclass
class Chat:
    """A conversation with a model."""

    model: Llama
    tokenizer: Tokenizer
    template: Template
    settings: GenerationConfig
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer bit by bit; it is part of the conversation once it has ended.

        Raises:
            DataError: the question alone is longer than the model's context.
        """
        yield from self._answer([*self.turns, Message("user", question)])

    def again(self) -> Iterator[str]:
        """Yield another answer to the last question."""
        turns = self.turns[:-1]
        self.settings = self.settings.model_copy(update={"seed": self.settings.seed + 1})
        yield from self._answer(turns)

    def _answer(self, turns: list[Message]) -> Iterator[str]:
        prompt, turns = self._prompt(turns)
        answer = ""
        begun = False
        for delta in stream(self.model, self.tokenizer, [prompt], self.settings):
            text = delta.text if begun else delta.text.lstrip()
            begun = begun or bool(text)
            answer += text
            yield text
        self.turns = [*turns, Message("assistant", answer.strip() or "...")]

    def _prompt(self, turns: list[Message]) -> tuple[list[int], list[Message]]:
        """Return the ids of the conversation, its oldest exchanges left out where the context is too short."""
        room = self.model.config.sequence_length - min(64, self.model.config.sequence_length // 4)
        system = [Message("system", self.system)] if self.system.strip() else []
        for start in range(0, len(turns), 2):
            ids: list[int] = render([*system, *turns[start:]], self.template, self.tokenizer, asks=True).ids.tolist()
            if len(ids) <= room:
                return ids, turns[start:]
        raise DataError(
            f"{'system message and question have' if system else 'the message has'} {len(ids):,} tokens, there is room"
            f" for {room:,} in the model's context",
            "ask something shorter",
        )


def run_chat(config: ChatConfig) -> None:
    """Hold a conversation, or answer one message.

    Raises:
        ConfigError: the model was not tuned to answer.
    """
    device = choose_device(config.device)
    model = load_model(config.model_path, device=device, dtype=choose_dtype(config.dtype, device))
    template = read_template(config.model_path)
    if template is None:
        raise ConfigError(
            f"{config.model_path} is a base model: it continues text and was never taught to answer",
            "tune it first (make sft-train-tiny), or let it go on: lumi generate --prompt ...",
        )
    settings = config.generation.model_copy(update={"stop_ids": template.stop_ids})
    chat = Chat(model, Tokenizer.load(config.model_path), template, settings, config.system)
    if config.message is not None:
        _write(chat.ask(config.message))
        return
    say(f"{config.model_path.parent.name}: {_HELP}")
    while (line := _read()) is not None:
        if line in ("/quit", "/exit"):
            return
        if line == "/clear":
            chat.turns = []
        elif line == "/again" and chat.turns:
            _write(chat.again())
        elif line.startswith("/"):
            say(_HELP)
        elif line:
            try:
                _write(chat.ask(line))
            except DataError as error:
                say(f"error: {error}")


def _read() -> str | None:
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
        return line.encode("utf8", "replace").decode()  # what is not UTF-8 comes as lone surrogates
    except EOFError:
        return None


def _write(parts: Iterator[str]) -> None:
    for part in parts:
        print(part, end="", flush=True)
    print()
