"""Ollama's Modelfile: the Go template writes our prompts, the model stops where it should."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from lumi.conversation import TEMPLATES, Message, render
from lumi.conversation.template import Frame
from lumi.export.modelfile import modelfile
from lumi.tokenizer import Tokenizer

CHATS = [
    [("user", 'Say "no" \\ {{ .x }}\n')],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello\nyou"), ("user", "Bye")],
    [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"), ("assistant", "So."), ("user", "\u4e2d")],
]
PROGRAM = """
package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template string; Messages []*Message }

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	out := json.NewEncoder(os.Stdout)
	for _, one := range cases {
		var text writer
		parsed := template.Must(template.New("").Parse(one.Template))
		if err := parsed.Execute(&text, map[string]any{"Messages": one.Messages}); err != nil { panic(err) }
		out.Encode(string(text))
	}
}

type writer []byte

func (text *writer) Write(more []byte) (int, error) { *text = append(*text, more...); return len(more), nil }
"""


def parts(text):
    """Return template and system message of a Modelfile."""
    system = re.search(r'^SYSTEM """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
    template = re.search(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
    return template[1], system and system[1]


def test_chatml():
    assert modelfile("model-f16.gguf", TEMPLATES["chatml"], 1024) == (
        'FROM ./model-f16.gguf\nTEMPLATE """{{- range $number, $_ := .Messages }}\n'
        "{{- $last := eq (len (slice $.Messages $number)) 1 }}\n"
        '{{- if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}\n'
        '{{- else if eq .Role "user" }}{{ "<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n" }}\n'
        '{{- if $last }}{{ "<|im_start|>assistant\\n" }}{{ end }}\n'
        '{{- else if eq .Role "assistant" }}{{ "<|im_start|>assistant\\n" }}{{ .Content }}\n'
        '{{- if not $last }}{{ "<|im_end|>\\n" }}{{ end }}\n'
        '{{- end }}\n{{- end }}"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER temperature 0.7\nPARAMETER num_ctx 1024\n'
    )


def test_a_base_model_continues_its_prompt():
    text = modelfile("model-f16.gguf", None, 256)
    assert 'TEMPLATE """{{ .Prompt }}"""\n' in text
    assert "stop" not in text


@pytest.mark.parametrize(("name", "stop"), [("instruct", "</s>"), ("chat", "</s>"), ("alpaca", "</s>")])
def test_stop_and_system_message_of_the_others(name, stop):
    text = modelfile("model-f16.gguf", TEMPLATES[name], 256)
    assert f'PARAMETER stop "{stop}"\n' in text
    assert parts(text)[1] == (TEMPLATES[name].default_system or None)


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go here")
def test_go_writes_our_prompts(artifacts, tmp_path):
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    cases, expected = [], []
    odd = Frame(('\U0001f600 {{ "you" }}:\t',), ("</s>", "\n"))
    for template in (*TEMPLATES.values(), replace(TEMPLATES["chat"], user=odd)):
        go, system = parts(modelfile("model-f16.gguf", template, 256))
        for chat in CHATS:
            messages = [Message(role, content.strip()) for role, content in chat]
            sent = [Message("system", system), *messages] if system and chat[0][0] != "system" else messages
            cases.append({"template": go, "messages": [one.to_json() for one in sent]})
            ids = render(messages, template, tokenizer, asks=True).ids
            expected.append(tokenizer.decode(ids[1:], keep_control=True))
        cases.append({"template": go, "messages": [Message(*one).to_json() for one in CHATS[1][:3]]})
        answered = tokenizer.decode(
            render([Message(*one) for one in CHATS[1][:3]], template, tokenizer).ids[1:], keep_control=True
        )
        expected.append(answered.removesuffix("".join(template.assistant.after)))  # the answer is to go on
    (tmp_path / "main.go").write_text(PROGRAM)
    found = subprocess.run(
        ["go", "run", str(tmp_path / "main.go")], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    assert [json.loads(line) for line in found.stdout.splitlines()] == expected
