"""Answers by an engine in this process; it stays for the whole conversation, and its slot keeps what was said."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lumi.conversation import Message, Template, read_template, render
from lumi.devices import DeviceName, DtypeName
from lumi.errors import ConfigError, DataError
from lumi.inference.chat.answerer import Answer, Pieces, num_exchanges, without_oldest
from lumi.inference.engine import Engine
from lumi.inference.settings import GenerationConfig
from lumi.model import choose_device, choose_dtype, load_model, model_name

_LEAST_ROOM = 64  # tokens that an answer has at least; less where the context is very short


class EngineAnswerer:
    """Answers with a model.

    Args:
        name: of the model, for people.
        engine: with one slot.
        template: that the model was tuned with.
    """

    def __init__(self, name: str, engine: Engine, template: Template) -> None:
        self.name = name
        self.context: int | None = engine.context
        self._engine, self._template = engine, template

    @classmethod
    def load(cls, folder: Path, *, device: DeviceName, dtype: DtypeName) -> "EngineAnswerer":
        """Load a checkpoint folder.

        Raises:
            ConfigError: the model was not tuned to answer.
            DataError, IntegrityError: it is missing, incomplete or damaged.
        """
        from lumi.tokenizer import Tokenizer

        place = choose_device(device)
        model = load_model(folder, device=place, dtype=choose_dtype(dtype, place))
        template = read_template(folder)
        if template is None:
            raise ConfigError(
                f"{folder} is a base model: it continues text and was never taught to answer",
                "tune it first (make sft-train-tiny), or let it go on: lumi generate --prompt ...",
            )
        engine = Engine(model, Tokenizer.load(folder), num_slots=1)
        engine.warm_up()  # here rather than in the middle of the first answer
        return cls(model_name(folder), engine, template)

    def answer(self, messages: Sequence[Message], settings: GenerationConfig, answer: Answer) -> Pieces:
        """Answer, as `Answerer` has it."""
        ids, answer.num_left_out = self._prompt(messages)
        ends = tuple(sorted({*settings.stop_ids, *self._template.stop_ids}))
        request = self._engine.submit(ids, settings.model_copy(update={"stop_ids": ends}))
        answer.num_prompt_tokens = len(ids)
        num_pieces, begun = 0, False
        try:
            while request.finish_reason is None:
                with _interrupts_held():
                    self._engine.step()
                answer.num_tokens, answer.num_cached_tokens = len(request.token_ids), request.cached_tokens
                text, num_pieces = request.text_since(num_pieces)
                text = text if begun else text.lstrip()
                if text:
                    begun = True
                    yield text
            answer.finish_reason = request.finish_reason
        finally:
            self._engine.cancel(request)

    def _prompt(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """Return the ids of the newest exchanges that leave room for an answer, and how many older ones do not."""
        assert self.context is not None
        room = self.context - min(_LEAST_ROOM, self.context // 4)
        for num_left_out in range(num_exchanges(messages)):
            kept = without_oldest(messages, num_left_out)
            ids: list[int] = render(kept, self._template, self._engine.tokenizer, asks=True).ids.tolist()
            if len(ids) <= room:
                return ids, num_left_out
        raise DataError(
            f"{'system message and question have' if len(kept) > 1 else 'the question has'} {len(ids):,} tokens, there"
            f" is room for {room:,} in the model's context",
            "ask something shorter",
        )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: a step that is broken off would leave the engine in between."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
