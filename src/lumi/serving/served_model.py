"""A model that is served: its engine in a thread, its tokenizer, its template, its id."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lumi.artifacts import MANIFEST
from lumi.conversation import Message, Template, read_template, render
from lumi.devices import DeviceName, DtypeName
from lumi.errors import ConfigError, DataError
from lumi.inference import Engine, GenerationConfig, most_slots
from lumi.model import choose_device, choose_dtype, count_parameters, load_model, model_name, read_stop_ids
from lumi.serving.api_error import ApiError
from lumi.serving.engine_thread import EngineThread
from lumi.tokenizer import BOS_ID, Tokenizer


@dataclass(frozen=True)
class ServedModel:
    """One of the models that a client can name.

    Attributes:
        id: by which it is named.
        thread: its engine.
        template: how conversations are written for it; None for a base model.
        end_ids: tokens that end its answers.
        num_slots: answers written at once.
        num_parameters: of the model.
        created: when its folder was written, in seconds since 1970.
    """

    id: str
    thread: EngineThread
    tokenizer: Tokenizer
    template: Template | None
    end_ids: tuple[int, ...]
    num_slots: int
    num_parameters: int
    created: int

    @classmethod
    def load(
        cls,
        folder: Path,
        model_id: str,
        *,
        device: DeviceName,
        dtype: DtypeName,
        num_slots: int | None = None,
        int8: bool = False,
    ) -> "ServedModel":
        """Load a checkpoint folder.

        Raises:
            DataError, IntegrityError: it is missing, incomplete or damaged.
        """
        place = choose_device(device)
        model = load_model(folder, device=place, dtype=choose_dtype(dtype, place))
        template, tokenizer = read_template(folder), Tokenizer.load(folder)
        config = model.config
        num_slots = num_slots or most_slots(config, config.sequence_length, model.compute_dtype, place)
        engine = Engine(model, tokenizer, num_slots=num_slots, int8=int8)
        engine.warm_up()
        engine.submit([BOS_ID], GenerationConfig(max_new_tokens=2))
        engine.run()  # what fails at the first step does so before anyone waits
        return cls(
            id=model_id,
            thread=EngineThread(engine),
            tokenizer=tokenizer,
            template=template,
            end_ids=template.stop_ids if template else read_stop_ids(folder),
            num_slots=num_slots,
            num_parameters=count_parameters(config).total,
            created=int((folder / MANIFEST).stat().st_mtime),
        )

    @property
    def context(self) -> int:
        return self.thread.engine.context

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation that asks for an answer.

        Raises:
            ApiError: this is a base model; or the messages are no conversation.
        """
        if self.template is None:
            raise ApiError(
                400,
                f"{self.id} is a base model: it has no template and was never taught to answer; use /v1/completions",
                param="model",
                code="no_chat_template",
            )
        # a message has a token or more, however short it is
        self._check_length(sum(max(len(message.content), self._longest_piece) for message in messages), "messages")
        try:
            ids: list[int] = render(messages, self.template, self.tokenizer, asks=True).ids.tolist()
        except DataError as error:
            raise ApiError(400, f"{error.fact}; {error.way_out}", param="messages") from None
        return ids

    def text_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the ids of a prompt; a text begins a document."""
        if not isinstance(prompt, str):
            return list(prompt)
        self._check_length(len(prompt), "prompt")
        return [BOS_ID, *self.tokenizer.encode(prompt)]

    def text(self, prompt: str | Sequence[int]) -> str:
        """Return a prompt as text."""
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _check_length(self, num_characters: int, param: str) -> None:
        """Refuse what cannot fit before it costs the time of encoding it."""
        if num_characters > self.context * self._longest_piece:
            raise ApiError(
                400,
                f"this is longer than the context of {self.context:,} tokens, which the answer stands in too",
                param=param,
                code="context_length_exceeded",
            )

    @cached_property
    def _longest_piece(self) -> int:
        return max(len(self.tokenizer.piece_bytes(token)) for token in range(self.tokenizer.vocab_size))


def model_ids(folders: Sequence[Path]) -> list[str]:
    """Return the last two folders of each path, more where that is not unique; ``final`` says nothing.

    Raises:
        ConfigError: a folder is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    if len({*paths}) < len(paths):
        raise ConfigError("a model is named twice in --model_path", "name each once")
    for num_folders in range(2, max(len(path.parts) for path in paths) + 1):
        ids = [model_name(path, num_folders) for path in paths]
        if len({*ids}) == len(ids):
            return ids
    raise ConfigError("--model_path names a folder and its final/", "name each model once")
