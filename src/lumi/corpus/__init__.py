"""The corpus stage: document, sources, cleaning, quality, decontamination, dedup, shards, data card."""

from lumi.corpus.card import EXAMPLES_FILE
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.document import Document, read_documents, read_shard, read_shard_lines
from lumi.corpus.stage import prepare_corpus

__all__ = [
    "EXAMPLES_FILE",
    "CorpusConfig",
    "Document",
    "SourceConfig",
    "prepare_corpus",
    "read_documents",
    "read_shard",
    "read_shard_lines",
]
