"""llama.cpp finds our ids in every text, and our prompt in every conversation."""

import json
from pathlib import Path

import pytest
from benchmarks.difficult_texts import DIFFICULT, stretches
from benchmarks.llama_server import LlamaServer
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from tests.conversations import conversations
from tests.corpora import PLAIN
from tests.exports import make_model, our_text

from lumi.conversation import TEMPLATES, Message, render
from lumi.conversation.template import symbol_id
from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.export import ExportConfig, export
from lumi.tokenizer import BOS_ID, Tokenizer, TokenizerConfig, train_tokenizer

REAL = Path("../shared/data/wikipedia/wikipedia-boolq-articles-valid.jsonl.xz")
templates = pytest.mark.parametrize("name", TEMPLATES)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer with merges, of prose and of HTML: had it a piece ``<s``, llama.cpp would make ``<s>`` of it."""
    root = tmp_path_factory.mktemp("words")
    rows = [f"<s class={n}>word<s title={n}></s>" for n in range(200)]
    (root / "html.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    sources = [
        {"name": "html", "kind": "jsonl", "files": [str(root / "html.jsonl")], "licence": "made here"},
        {"name": "prose", "kind": "synthetic", "seed": 9, "max_bytes": 100_000, "licence": "made here"},
    ]
    corpus = {"name": "c", "sources": sources, **PLAIN, "min_characters": 5, "output_dir": str(root / "corpus")}
    prepare_corpus(CorpusConfig.from_values({**corpus, "num_workers": 1}, "test"))
    train_tokenizer(TokenizerConfig(corpus_dirs=(root / "corpus",), output_dir=root / "tokenizer", vocab_size=600))
    return root / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer(words):
    return Tokenizer.load(words)


@pytest.fixture(scope="module")
def chatting(words, tmp_path_factory):
    """By template: a checkpoint, and llama.cpp with its export."""
    root = tmp_path_factory.mktemp("chatting")
    found = {}
    for name, template in TEMPLATES.items():
        folder = make_model(root / name, words, template)
        config = ExportConfig(model_path=folder, output_dir=root / f"{name}-gguf", format="gguf", dtype="f32")
        found[name] = (folder, LlamaServer(export(config) / "model-f32.gguf"))
    return found


@pytest.fixture(scope="module")
def server(chatting):
    return chatting["chatml"][1]


@pytest.mark.parametrize("text", [*DIFFICULT, "<s>", "</s><s>", "a<s>b", "<s class=1>"])
def test_difficult_texts(text, server, tokenizer):
    assert server.encode(text) == tokenizer.encode(text)
    assert server.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_a_prompt_begins_a_document(server, tokenizer):
    assert server.encode("  The fox", whole_prompt=True) == [BOS_ID, *tokenizer.encode("  The fox")]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text(text, server, tokenizer):
    assert server.encode(text) == tokenizer.encode(text)


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data")
def test_real_text(server, tokenizer):
    for text in stretches([REAL], 500):
        assert server.encode(text) == tokenizer.encode(text)


# llama.cpp strips the white space of ASCII alone
plain_contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\u2581"), min_size=1).filter(
    lambda text: text.strip() and text.strip() == text.strip(" \t\n\r\v\f")
)


@templates
@given(data=st.data())
def test_the_chat_template_gives_our_prompt(name, chatting, tokenizer, data):
    messages = data.draw(conversations(asks=True, contents=plain_contents))
    ours = render(messages, TEMPLATES[name], tokenizer, asks=True).ids.tolist()
    assert chatting[name][1].chat_ids([message.to_json() for message in messages]) == ours


@templates
def test_an_answer_is_ours_and_ends_where_ours_does(name, chatting, tokenizer):
    folder, server = chatting[name]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    reader = GGUFReader(next((folder.parent / f"{name}-gguf").glob("*.gguf")))
    assert reader.get_field("tokenizer.chat_template").contents() == settings["chat_template"]
    assert reader.get_field("tokenizer.ggml.eot_token_id").contents() == symbol_id(TEMPLATES[name].end_symbol)
    chats = [[Message("user", f"Where is the {animal}?")] for animal in ("fox", "dog", "cat", "owl", "hen", "ant")]
    prompts = [render(chat, TEMPLATES[name], tokenizer, asks=True).ids.tolist() for chat in chats]
    ours = our_text(folder, prompts, 40)
    for chat, prompt, one in zip(chats, prompts, ours, strict=True):
        theirs = server.continue_greedily(prompt, 40)
        assert (theirs.ids, theirs.ended) == (one.token_ids, one.finish_reason == "stop")
        assert server.chat([message.to_json() for message in chat], 40) == one.text


@templates
def test_the_symbol_that_ends_an_answer_ends_it_there_too(name, chatting):
    """Whatever a model with drawn weights writes: with the end symbol alone allowed, nothing."""
    stop = TEMPLATES[name].stop_ids[-1]
    body = {"prompt": [BOS_ID], "n_predict": 5, "temperature": 0, "logit_bias": [[stop, 1e6]]}
    found = chatting[name][1]._post("/completion", body)
    assert (found["content"], found["stop_type"]) == ("", "eos")
