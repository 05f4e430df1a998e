"""A whole model as one GGUF file, with its tokenizer and chat template, and a Modelfile for Ollama beside it.

The tokenizer goes in as SentencePiece: llama.cpp's "llama" tokenizer merges the pair with the highest score first,
the leftmost of equals, which is what SentencePiece's BPE does. It would also merge pieces into the name of a control
symbol, ``<s`` and ``>`` say; but no piece of a Lumi tokenizer joins a bracket and a letter (they are of two scripts).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lumi.conversation.template import symbol_id
from lumi.export.gguf_file import gguf_name, new_writer, reorder_rows, write_tensors
from lumi.export.modelfile import modelfile
from lumi.export.source import ModelSource, Words
from lumi.model import ModelConfig
from lumi.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from lumi.tokenizer.tokenizer import CHECKPOINT_MODEL
from lumi.training.model_facts import read_model_facts

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from sentencepiece import SentencePieceProcessor


def write_gguf_model(model: ModelSource, dtype: str, folder: Path) -> dict[str, str]:
    """Write ``model-DTYPE.gguf`` and ``Modelfile``; return the command for each program."""
    file = f"model-{dtype}.gguf"
    writer = new_writer(folder / file, model.words.name)
    writer.add_type("model")
    if licence := read_model_facts(model.folder).licence:
        writer.add_license(licence)
    _add_shape(writer, model.shape)
    _add_words(writer, model.words)
    tensors = {
        f"{gguf_name(name)}.weight": reorder_rows(name, weight, model.shape)
        for name, weight in ((name.removesuffix(".weight"), weight) for name, weight in model.weights.items())
    }
    write_tensors(writer, tensors, dtype)
    text = modelfile(file, model.words.template, model.shape.sequence_length)
    (folder / "Modelfile").write_text(text, encoding="utf8")
    path = f"{{folder}}/{file}"
    talk = "-cnv" if model.words.template else '-no-cnv -p "The history of"'
    return {
        "llama.cpp": f"llama-cli -m {path} {talk}, or llama-server -m {path}",
        "Ollama": "ollama create NAME -f {folder}/Modelfile, then ollama run NAME",
    }


def _add_shape(writer: "GGUFWriter", shape: ModelConfig) -> None:
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.sequence_length)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.d_ffn)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def _add_words(writer: "GGUFWriter", words: Words) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(words.folder / CHECKPOINT_MODEL))
    ids = range(pieces.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(token) for token in ids])
    writer.add_token_scores([pieces.get_score(token) for token in ids])
    writer.add_token_types([_kind(pieces, token) for token in ids])
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_pad_token_id(PAD_ID)
    writer.add_unk_token_id(UNK_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if words.template is not None:
        writer.add_chat_template(words.chat_template)
        writer.add_eot_token_id(symbol_id(words.template.end_symbol))


def _kind(pieces: "SentencePieceProcessor", token: int) -> int:
    from gguf import TokenType

    if pieces.is_unknown(token):
        return int(TokenType.UNKNOWN)
    if pieces.is_control(token):
        return int(TokenType.CONTROL)
    return int(TokenType.BYTE if pieces.is_byte(token) else TokenType.NORMAL)
