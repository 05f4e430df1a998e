"""The files by which transformers (and vLLM, TRL, ...) read our tokenizer: made from the SentencePiece model alone.

Called with ``split_special_tokens=True``, transformers gives the same ids as we do; without it, it also reads the
spelling of control symbols inside a text as those symbols, which we never do.
"""

import json
import tempfile
from pathlib import Path

TRANSFORMERS_FILES = ("tokenizer.json", "tokenizer_config.json")

_SETTINGS = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "legacy": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 1 << 30,
}


def write_transformers_files(folder: Path, model: bytes) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` for the bytes of a SentencePiece model."""
    from transformers import AutoTokenizer

    settings = json.dumps(_SETTINGS, indent=1) + "\n"
    with tempfile.TemporaryDirectory() as scratch:
        # Through AutoTokenizer on a folder: LlamaTokenizerFast(vocab_file=...) of transformers 5 encodes to nothing.
        (Path(scratch) / "tokenizer.model").write_bytes(model)
        (Path(scratch) / "tokenizer_config.json").write_text(settings, encoding="utf8")
        AutoTokenizer.from_pretrained(scratch).save_pretrained(scratch)
        (folder / "tokenizer.json").write_bytes((Path(scratch) / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf8")
