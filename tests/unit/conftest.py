"""A whole chain of small real artifacts: corpus, tokenizer, packed data, checkpoint, and the run around it."""

import json
from types import SimpleNamespace

import pytest
from tests.corpora import PLAIN
from tests.training_runs import write_checkpoint

from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.data import PackConfig, ShardedTokenizedDataset, pack_dataset
from lumi.model import ModelConfig, count_parameters, create_model
from lumi.model.pretrained import weights as model_weights
from lumi.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from lumi.training import WholeModel

WORDS = """the history of a small old town and its water mill where many people lived in years of good
weather""".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders of the chain; nobody may write into them."""
    root = tmp_path_factory.mktemp("made")
    texts = [
        " ".join(WORDS[(n * k + k) % len(WORDS)] for k in range(30)) + f".\n  Na\u00efve {n}.\n" for n in range(60)
    ]
    raw = root / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, "x", "y", "z", *texts[:2]]))
    corpus = root / "corpus"
    source = {"name": "test", "kind": "jsonl", "files": [str(raw)], "licence": "CC0 of the tests"}
    values = {"name": "c", "sources": [source], **PLAIN, "min_characters": 5, "output_dir": str(corpus)}
    prepare_corpus(CorpusConfig.from_values(values, "test"))
    train_tokenizer(TokenizerConfig(corpus_dirs=(corpus,), output_dir=root / "tokenizer", vocab_size=360))
    pack = PackConfig(
        corpus_dir=corpus,
        tokenizer_path=root / "tokenizer",
        output_dir=root / "packed",
        sequence_length=32,
        val_fraction=0.2,
        num_workers=1,
    )
    pack_dataset(pack)
    tokenizer = Tokenizer.load(root / "tokenizer")
    dataset = ShardedTokenizedDataset(root / "packed", "val")
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=1, d_model=32, n_head=2, head_dim=16, sequence_length=32
    )
    run = {
        "config": {"name": "tiny <test>", "description": "A & B", "model": shape.resolved()},
        "tokenizer_sha256": tokenizer.sha256,
        "parameters": {"total": count_parameters(shape).total, "non_embedding": 1},
        "step": 20,
        "tokens": 1000,
        "data": [
            {"name": "packed", "path": str(root / "packed"), "manifest_sha256": dataset.manifest_sha256, "rows": 1}
        ],
        "versions": {"torch": "2"},
        "git_commit": None,
    }
    metrics = [
        {"step": s, "loss": 6.0 - s / 10, "learning_rate": 0.01, "grad_norm": 1.0 + s, "tokens": 50 * s,
         "tokens_per_second": 100.0, "utilisation": None, "mix": {"packed": s}}
        for s in range(1, 21)
    ] + [{"step": 20, "val_loss": {"packed": 4.2}}]  # fmt: skip
    final = root / "run" / "final"
    files = WholeModel(shape, tokenizer)
    write_checkpoint(final, files, model_weights(create_model(shape)), run, metrics, step=20, tokens=1000)
    return SimpleNamespace(root=root, raw=raw, packed=root / "packed", tokenizer=root / "tokenizer", final=final)


@pytest.fixture
def tokenizer(made):
    return Tokenizer.load(made.tokenizer)


@pytest.fixture
def packed_dataset(made):
    return ShardedTokenizedDataset(made.packed, "val")
