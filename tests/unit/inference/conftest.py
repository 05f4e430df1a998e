"""A real tokenizer of 360 pieces, trained on a corpus written by hand."""

import json

import pytest
import zstandard

from lumi.artifacts import Workspace
from lumi.config import Config
from lumi.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

WORDS = """the history of a small old town and its water mill where many people lived in years of good
weather""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizer")
    texts = [" ".join(WORDS[(n * k + k) % len(WORDS)] for k in range(30)) + ".\n  Indented, 123.\n" for n in range(40)]
    lines = "".join(
        json.dumps({"id": str(n), "text": t, "source": "test", "metadata": {}}) + "\n" for n, t in enumerate(texts)
    )
    with Workspace(root / "corpus", "corpus", Config(), []) as work:
        (work.open() / "shard_00000.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
        work.record("shard_00000.jsonl.zst", rows=len(texts))
        work.publish(counts={"documents": len(texts), "bytes": sum(len(t.encode()) for t in texts)}, versions={})
    train_tokenizer(TokenizerConfig(corpus_dirs=(root / "corpus",), output_dir=root / "tokenizer", vocab_size=360))
    return Tokenizer.load(root / "tokenizer")
