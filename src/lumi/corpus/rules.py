"""Rules of length and name: what is dropped before its words are looked at (those rules are in `quality`)."""

from collections.abc import Mapping
from typing import Any

from lumi.corpus.config import CorpusConfig, SourceConfig


def judge(text: str, metadata: Mapping[str, Any], config: CorpusConfig, source: SourceConfig) -> str:
    """Return the rule that drops a text, or nothing where it stays."""
    if any(metadata.get(key) in values for key, values in source.drop_where.items()):
        return "named_in_config"
    if len(text) < config.min_characters:
        return "too_short"
    if len(text) > config.max_characters:
        return "too_long"
    return ""
