"""Rules: a document in, a verdict with its reason out. Counting is the stage's business."""

from collections.abc import Callable
from dataclasses import dataclass

from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.document import Document


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a document stays; ``reason`` is the rule that drops it."""

    keep: bool
    reason: str = ""


KEEP = Verdict(keep=True)
Rule = Callable[[Document], Verdict]


def length_rule(config: CorpusConfig) -> Rule:
    """Drop documents with fewer or more characters than the config allows."""

    def judge(document: Document) -> Verdict:
        if len(document.text) < config.min_characters:
            return Verdict(keep=False, reason="too_short")
        if len(document.text) > config.max_characters:
            return Verdict(keep=False, reason="too_long")
        return KEEP

    return judge


def named_rule(source: SourceConfig) -> Rule:
    """Drop documents that the source's config names by their metadata."""

    def judge(document: Document) -> Verdict:
        for key, values in source.drop_where.items():
            if document.metadata.get(key) in values:
                return Verdict(keep=False, reason="named_in_config")
        return KEEP

    return judge


def rules_of(config: CorpusConfig, source: SourceConfig) -> list[Rule]:
    """Return the rules of a source in the order in which they are asked."""
    return [named_rule(source), length_rule(config)]
