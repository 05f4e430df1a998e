"""What several tests share: small artifacts made by the real stages, and settings that keep runs repeatable."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from tests.corpora import PLAIN

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # for `tests.training_runs`
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores SIGINT, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# CI draws the same examples each time, so that a failure there is a failure here.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def make_packed(root: Path, name: str, seed: int, **packing) -> Path:
    from lumi.corpus import CorpusConfig, prepare_corpus
    from lumi.data import PackConfig, pack_dataset

    source = {"name": name, "kind": "synthetic", "seed": seed, "max_bytes": 20_000, "licence": "made here"}
    corpus = {"name": name, "sources": [source], **PLAIN, "output_dir": str(root / f"{name}-corpus"), "num_workers": 1}
    prepare_corpus(CorpusConfig.from_values(corpus, "test"))
    values = {
        "corpus_dir": corpus["output_dir"],
        "tokenizer_path": str(root / "tokenizer"),
        "output_dir": str(root / name),
        "sequence_length": 32,
        "val_fraction": 0.2,
        "num_workers": 1,
    }
    pack_dataset(PackConfig.from_values(values | packing, "test"))
    return root / name


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave a data card's pictures undrawn: where a test builds many corpora, they are most of its time."""
    for chart in ("bar_chart", "binned_histogram"):
        monkeypatch.setattr(f"lumi.corpus.card.{chart}", lambda *_, **__: "<svg></svg>")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory) -> Path:
    """A folder with a corpus and a tokenizer of 320 pieces, both from synthetic text."""
    from lumi.corpus import CorpusConfig, prepare_corpus
    from lumi.tokenizer import TokenizerConfig, train_tokenizer

    root = tmp_path_factory.mktemp("artifacts")
    source = {"name": "synthetic", "kind": "synthetic", "seed": 9, "max_bytes": 30_000, "licence": "made here"}
    corpus = {"name": "corpus", "sources": [source], **PLAIN, "output_dir": str(root / "corpus"), "num_workers": 1}
    prepare_corpus(CorpusConfig.from_values(corpus, "test"))
    tokenizer = {"corpus_dirs": [str(root / "corpus")], "output_dir": str(root / "tokenizer"), "vocab_size": 320}
    train_tokenizer(TokenizerConfig.from_values(tokenizer, "test"))
    return root


@pytest.fixture(scope="session")
def packed(artifacts) -> Path:
    """A packed data set: rows of 32 tokens, so few that 60 steps of 4 rows go through several epochs."""
    return make_packed(artifacts, "packed", seed=1, max_tokens=2500)


@pytest.fixture(scope="session")
def packed_other(artifacts) -> Path:
    return make_packed(artifacts, "packed_other", seed=2)


@pytest.fixture(scope="session")
def trained(packed, tmp_path_factory) -> Path:
    """The final checkpoint of a short real run."""
    from tests.training_runs import config

    from lumi.pretraining import pretrain

    return pretrain(config([packed], tmp_path_factory.mktemp("trained")))


@pytest.fixture(scope="session")
def base(artifacts, tmp_path_factory):
    """A base model's checkpoint."""
    from tests.sft_runs import make_base

    return make_base(tmp_path_factory.mktemp("base") / "final", artifacts / "tokenizer")


@pytest.fixture(scope="session")
def chats(artifacts, tmp_path_factory):
    """Prepared conversations."""
    from tests.sft_runs import make_conversations

    return make_conversations(tmp_path_factory.mktemp("chats"), artifacts / "tokenizer")
