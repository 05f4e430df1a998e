"""How good a tokenizer is: fertility, bytes per token on prose and on code, coverage, unknowns, round trips."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumi.tokenizer.ids import UNK_ID
from lumi.tokenizer.tokenizer import Tokenizer

_SAMPLE_CHARACTERS = 2_000_000
_CODE = (json.__file__, textwrap.__file__)  # two files that every Python has, as a sample of code


def measure(tokenizer: Tokenizer, documents: Sequence[str]) -> dict[str, Any]:
    """Measure a tokenizer on documents spread evenly over its text (about 2 MB) and on Python source files.

    Fertility is tokens per whitespace-separated word; coverage the share of characters with a piece of their own
    (the others are spelled in bytes); the round-trip rate the share of texts that come back exactly.
    """
    prose = _spread(documents)
    size = sum(len(text.encode()) for text in prose)
    code = [Path(path).read_text(encoding="utf8") for path in _CODE]
    tokens = np.concatenate(tokenizer.encode_batch(prose))
    characters = Counter("".join(prose))
    own = {tokenizer.piece_bytes(token).decode("utf8", errors="replace") for token in range(tokenizer.vocab_size)
           if not tokenizer.is_byte(token)}  # fmt: skip
    covered = sum(count for character, count in characters.items() if character in own)
    texts = prose + code
    return {
        "sample_bytes": size,
        "fertility": round(len(tokens) / max(1, sum(len(text.split()) for text in prose)), 4),
        "bytes_per_token_prose": round(size / len(tokens), 4),
        "bytes_per_token_code": round(
            sum(len(text.encode()) for text in code) / sum(map(len, tokenizer.encode_batch(code))), 4
        ),
        "coverage": round(covered / characters.total(), 6),
        "unknown_rate": float((tokens == UNK_ID).mean()),
        "round_trip_rate": sum(tokenizer.decode(tokenizer.encode(text)) == text for text in texts) / len(texts),
    }


def _spread(documents: Sequence[str]) -> list[str]:
    size = sum(map(len, documents))
    texts: list[str] = []
    passed = taken = 0
    for text in documents:
        if passed * min(_SAMPLE_CHARACTERS, size) >= taken * size:  # behind its share of what was passed
            texts.append(text)
            taken += len(text)
        passed += len(text)
    return texts


def write_card(path: Path, name: str, tokenizer: Tokenizer, report: dict[str, Any]) -> None:
    """Write TOKENIZER_CARD.md."""
    sample = f"{report['sample_bytes'] / 1e6:.1f} MB of the training text"
    path.write_text(
        f"""# Tokenizer {name}

SentencePiece BPE with byte fallback, {tokenizer.vocab_size} pieces. **Frozen**: packed data and checkpoints carry
its sha256 and are refused with any other.

sha256 of {name}.model: `{tokenizer.sha256}`

| measured on | what | value |
| --- | --- | ---: |
| {sample} | fertility (tokens per word) | {report["fertility"]:.3f} |
| {sample} | bytes per token | {report["bytes_per_token_prose"]:.3f} |
| Python's json and textwrap modules | bytes per token | {report["bytes_per_token_code"]:.3f} |
| {sample} | characters with a piece of their own (coverage) | {report["coverage"]:.4%} |
| {sample} | unknown tokens | {report["unknown_rate"]:.4%} |
| both | texts that come back exactly | {report["round_trip_rate"]:.4%} |

Control symbols (`<s>` 1, `</s>` 2, `<pad>` 3, `<|im_start|>` 4, `<|im_end|>` 5 and reserved ones) enter by id only:
spelled out in a text, they are ordinary characters. In transformers, use `split_special_tokens=True` for the same ids.
""",
        encoding="utf8",
    )
