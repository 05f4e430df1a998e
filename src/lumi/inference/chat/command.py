"""What `lumi chat` takes, and what it starts."""

import os
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.devices import DeviceName, DtypeName
from lumi.inference.chat.answerer import Answerer
from lumi.inference.chat.conversation import Chat
from lumi.inference.chat.server_answerer import KEY_VARIABLE, ServerAnswerer
from lumi.inference.chat.session import Session
from lumi.inference.settings import GenerationConfig


class ChatConfig(Config):
    """Talk to a model that was tuned to answer: one of this machine, or one behind a server."""

    model_path: Path | None = None
    """Checkpoint folder, such as checkpoints/sft_industrial/tiny/final."""
    url: str | None = None
    """Server that speaks OpenAI's protocol, such as http://127.0.0.1:8000; instead of --model_path."""
    model: str | None = None
    """Model of the server; default: the only one that it has."""
    api_key: str | None = None
    """Key that the server wants; better given as LUMI_API_KEY, which nobody else on the machine sees."""
    message: str | None = None
    """Ask this alone and end; default: a conversation."""
    system: str = ""
    """What the model is told before the conversation."""
    device: DeviceName = "auto"
    """Where to compute."""
    dtype: DtypeName = "auto"
    """Type to compute in."""
    generation: GenerationConfig = Field(default=GenerationConfig(max_new_tokens=256, temperature=0.7))

    @model_validator(mode="after")
    def _names_one_model(self) -> Self:
        if (self.model_path is None) == (self.url is None):
            raise ValueError("give --model_path FOLDER or --url ADDRESS, one of the two")
        if self.url is None and not self.model == self.api_key is None:
            raise ValueError("--model and --api_key are for a server: give --url ADDRESS too")
        return self


def run_chat(config: ChatConfig) -> None:
    """Hold a conversation, or ask one message.

    Raises:
        ConfigError: the model was not tuned to answer, or the server has no such model.
        LumiError: there was no answer to the message.
        SystemExit: 1, not all that was piped in was answered.
    """
    session = Session()
    chat = Chat(_answerer(config, session), config.generation, config.system)
    if config.message is not None:
        session.write(chat, chat.ask(config.message))
        return
    if sys.stdin.isatty():
        session.tell(f"{chat.answerer.name}: /help lists commands, Ctrl-D ends")
    if not session.converse(chat) and not sys.stdin.isatty():
        sys.exit(1)


def _answerer(config: ChatConfig, session: Session) -> Answerer:
    if config.url is not None:
        key = config.api_key or os.environ.get(KEY_VARIABLE)
        return ServerAnswerer(config.url, model=config.model, key=key, tell=session.tell)
    from lumi.inference.chat.engine_answerer import EngineAnswerer

    assert config.model_path is not None
    return EngineAnswerer.load(config.model_path, device=config.device, dtype=config.dtype)
