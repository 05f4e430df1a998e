"""The corpus stage: document, sources, cleaning, rules, exact dedup, shards, data card."""

from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.document import Document, read_documents, read_shard, read_shard_lines
from lumi.corpus.rules import Verdict
from lumi.corpus.stage import prepare_corpus

__all__ = [
    "CorpusConfig",
    "Document",
    "SourceConfig",
    "Verdict",
    "prepare_corpus",
    "read_documents",
    "read_shard",
    "read_shard_lines",
]
