"""Templates: how messages are written down for a model, as data.

A template says what stands before and behind the content of each role. A part of it that is the name of a control
symbol (``<|im_end|>``) is that symbol, by its id; every other part is text. Contents are never read as symbols.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lumi.config import read_json_object
from lumi.conversation.messages import ROLES, Role
from lumi.errors import ConfigError
from lumi.tokenizer.ids import CONTROL_SYMBOLS, EOS_ID

Parts = tuple[str, ...]
TEMPLATE_FILE = "conversation_template.json"


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds the content of a role."""

    before: Parts
    after: Parts


@dataclass(frozen=True, slots=True)
class Template:
    """How a conversation is written down.

    ``assistant.before`` is what the model is prompted with, and the first part behind an answer is the control
    symbol by which the model ends it. ``answer_lead`` is what the model itself writes before the content.
    """

    name: str
    begin: Parts
    system: Frame
    user: Frame
    assistant: Frame
    answer_lead: str = ""
    default_system: str = ""  # stands in where there is no system message

    def frame(self, role: Role) -> Frame:
        frames: dict[Role, Frame] = {"system": self.system, "user": self.user, "assistant": self.assistant}
        return frames[role]

    @property
    def end_symbol(self) -> str:
        return self.assistant.after[0]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: the template's own, and the end of a document."""
        return tuple(sorted({symbol_id(self.end_symbol), EOS_ID}))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a template.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        values = dict(data)
        for role in ROLES:
            values[role] = Frame(**{side: _parts(parts) for side, parts in values[role].items()})
        template = cls(**{**values, "begin": _parts(values["begin"])})
        if template.assistant.after[:1] not in [(symbol,) for symbol in CONTROL_SYMBOLS]:
            raise ValueError("no control symbol ends an answer")
        if not all(isinstance(text, str) for text in (template.name, template.answer_lead, template.default_system)):
            raise TypeError("its name, answer_lead or default_system is no text")
        return template

    def write(self, folder: Path) -> str:
        """Write the template into a checkpoint folder; return the file's name."""
        (folder / TEMPLATE_FILE).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf8")
        return TEMPLATE_FILE


def _parts(values: Any) -> Parts:
    if not isinstance(values, list | tuple) or not all(isinstance(part, str) for part in values):
        raise TypeError(f"{values!r:.40} is no list of texts")
    return tuple(values)


def symbol_id(name: str) -> int:
    """Return the id of a control symbol."""
    return 1 + CONTROL_SYMBOLS.index(name)


def read_template(folder: Path) -> Template | None:
    """Return the template that a checkpoint was tuned with, or None for a base model."""
    path = folder / TEMPLATE_FILE
    if not path.is_file():
        return None
    try:
        return Template.from_json(read_json_object(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not a template: {error}", "restore the checkpoint, or train again") from None


def find_template(name: str) -> Template:
    """Return one of Lumi's templates.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"there is no template {name!r}", f"use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


_TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

TEMPLATES = {
    template.name: template
    for template in (
        Template(
            "chatml",
            begin=("<s>",),
            system=Frame(("<|im_start|>", "system\n"), ("<|im_end|>", "\n")),
            user=Frame(("<|im_start|>", "user\n"), ("<|im_end|>", "\n")),
            assistant=Frame(("<|im_start|>", "assistant\n"), ("<|im_end|>", "\n")),
        ),
        Template(
            "instruct",
            begin=("<s>",),
            system=Frame((), ("\n\n",)),
            user=Frame(("### Instruction:\n",), ("\n\n",)),
            assistant=Frame(("### Response:\n",), ("</s>",)),
        ),
        Template(
            "chat",
            begin=("<s>",),
            system=Frame((), ("\n\n",)),
            user=Frame(("Human: ",), ("\n\n",)),
            assistant=Frame(("Assistant:",), ("</s>",)),
            answer_lead=" ",
        ),
        Template(
            "alpaca",
            begin=("<s>",),
            system=Frame((), ("\n\n",)),
            user=Frame(("### Instruction:\n",), ("\n\n",)),
            assistant=Frame(("### Response:\n",), ("</s>",)),
            default_system=_TASK,
        ),
    )
}
