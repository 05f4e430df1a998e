"""A Modelfile, by which Ollama makes a model of a GGUF file: how it is prompted, when it stops, how it is sampled.

Ollama writes prompts with a Go template over .Messages. It puts <s> before all by itself, does not strip contents, and
gives the system message of the Modelfile where a conversation has none.
"""

import json

from lumi.conversation import Template
from lumi.conversation.template import Parts
from lumi.tokenizer.ids import BOS_ID, CONTROL_SYMBOLS

_TEMPERATURE = 0.7  # as `lumi chat`


def modelfile(file: str, template: Template | None, context_tokens: int, *, adapter: str = "") -> str:
    """Return the text of a Modelfile for a GGUF file beside it; ``template`` is None for a base model."""
    lines = [f"FROM ./{file}"]
    if adapter:
        lines = ["# BASE.gguf: the export of the model that the adapter was trained on", *lines, f"ADAPTER ./{adapter}"]
    lines.append(f'TEMPLATE """{to_go(template) if template else "{{ .Prompt }}"}"""')
    if template is not None:
        if template.default_system:
            lines.append(f'SYSTEM """{template.default_system}"""')
        lines.append(f'PARAMETER stop "{template.end_symbol}"')
    lines += [f"PARAMETER temperature {_TEMPERATURE}", f"PARAMETER num_ctx {context_tokens}"]
    return "\n".join(lines) + "\n"


def to_go(template: Template) -> str:
    """Return the Go template that writes what `render` writes behind ``<s>``, as one text."""
    begin = template.begin[1:] if template.begin[:1] == (CONTROL_SYMBOLS[BOS_ID - 1],) else template.begin
    system, user, assistant = template.system, template.user, template.assistant
    lines = [
        _literal(begin) + "{{- range $number, $_ := .Messages }}",
        "{{- $last := eq (len (slice $.Messages $number)) 1 }}",
        '{{- if eq .Role "system" }}' + _literal(system.before) + "{{ .Content }}" + _literal(system.after),
        '{{- else if eq .Role "user" }}' + _literal(user.before) + "{{ .Content }}" + _literal(user.after),
        "{{- if $last }}" + _literal(assistant.before) + "{{ end }}",
        '{{- else if eq .Role "assistant" }}' + _literal((*assistant.before, template.answer_lead)) + "{{ .Content }}",
        "{{- if not $last }}" + _literal(assistant.after) + "{{ end }}",
        "{{- end }}",
        "{{- end }}",
    ]
    return "\n".join(lines)


def _literal(parts: Parts) -> str:
    """Return the action that writes a text: a string in JSON's form is one of Go's."""
    text = "".join(parts)
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""
