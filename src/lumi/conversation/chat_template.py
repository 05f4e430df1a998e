"""The same templates for transformers, vLLM and llama.cpp: a Jinja chat template, made from the data."""

import json
from pathlib import Path

from lumi.conversation.messages import ROLES
from lumi.conversation.template import Parts, Template

_CONFIG = "tokenizer_config.json"


def to_jinja(template: Template) -> str:
    """Return the chat template that writes what `render` writes, as one text.

    Tokenizers that read the names of control symbols inside of a text as those symbols (transformers does, unless
    told otherwise) give other ids for contents that hold such names.
    """
    lines = ["{{- " + _literal(template.begin) + " -}}"]
    if template.default_system:
        system = _literal((*template.system.before, template.default_system, *template.system.after))
        lines.append("{%- if messages[0]['role'] != 'system' -%}{{- " + system + " -}}{%- endif -%}")
    lines.append("{%- for message in messages -%}")
    for number, role in enumerate(ROLES):
        frame = template.frame(role)
        before = (*frame.before, template.answer_lead) if role == "assistant" else frame.before
        lines.append(f"{{%- {'elif' if number else 'if'} message['role'] == '{role}' -%}}")
        lines.append(f"{{{{- {_literal(before)} + message['content'] | trim + {_literal(frame.after)} -}}}}")
    lines.append("{%- else -%}{{- raise_exception('the roles are " + ", ".join(ROLES) + "') -}}{%- endif -%}")
    lines.append("{%- endfor -%}")
    lines.append("{%- if add_generation_prompt -%}{{- " + _literal(template.assistant.before) + " -}}{%- endif -%}")
    return "\n".join(lines)


def add_chat_template(folder: Path, template: Template) -> None:
    """Write the chat template into the tokenizer's files of a checkpoint folder."""
    path = folder / _CONFIG
    settings = {**json.loads(path.read_text(encoding="utf8")), "chat_template": to_jinja(template)}
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf8")


def _literal(parts: Parts) -> str:
    text = "".join(parts).replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{text}'"
