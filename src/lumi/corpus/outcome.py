"""What becomes of one raw row: a document, a verdict against it, or the reason why it cannot be used at all.

    raw row -> parse -> clean -> length and names -> cut test sets -> quality -> language -> outcome

This is the part of the corpus stage that workers run. Rows come in chunks, because words are counted for many texts
at once; no row's outcome depends on another's, so any worker may do any chunk.
"""

import datetime
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lumi.corpus.cleaning import clean
from lumi.corpus.config import CorpusConfig, SourceConfig
from lumi.corpus.contamination import Decontaminator
from lumi.corpus.document import Document
from lumi.corpus.language import languages_of
from lumi.corpus.minhash import bands_of
from lumi.corpus.quality import bins_of, verdicts
from lumi.corpus.rows import BrokenRow, RawRow, row_values
from lumi.corpus.rules import judge
from lumi.corpus.statistics import statistics_of
from lumi.corpus.words import Words
from lumi.workers import Shared

_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's fate; the text itself is only in ``line``, as it will stand in a shard."""

    place: str
    digest: bytes = b""  # sha256 of the cleaned text
    line: bytes = b""  # the document, where no rule dropped it
    reason: str = ""  # the rule that dropped it
    broken: str = ""  # why the row could not be used at all
    excerpt: str = ""
    changed: tuple[str, ...] = ()  # the cleaning steps that changed something
    cuts: tuple[tuple[str, str], ...] = ()  # test set and beginning of each paragraph that was cut
    language: str = ""
    num_bytes: int = 0  # of the cleaned text, in UTF-8
    num_characters: int = 0
    bins: bytes = b""  # where its statistics fall (`quality.HISTOGRAMS`)
    bands: bytes = b""  # of its MinHash signature


@dataclass
class _Draft:
    """A row with a text, on its way."""

    row: RawRow
    text: str
    metadata: dict[str, Any]
    changed: Sequence[str]
    reason: str = ""
    cuts: list[tuple[str, str]] = field(default_factory=list)


def outcomes_of(
    rows: Sequence[RawRow],
    *,
    config: CorpusConfig,
    source: SourceConfig,
    decontaminator: Shared[Decontaminator] | None = None,
) -> list[Outcome]:
    """Return what becomes of each row, in order."""
    outcomes: list[Outcome | None] = []
    drafts: list[_Draft] = []
    for row in rows:
        try:
            draft = _draft(row, config, source)
        except BrokenRow as error:
            outcomes.append(broken_outcome(row, error))
            continue
        outcomes.append(_dropped(draft) if draft.reason else None)
        if not draft.reason:
            drafts.append(draft)
    judged = iter(_judged(drafts, config, source, decontaminator.get() if decontaminator else None))
    return [next(judged) if outcome is None else outcome for outcome in outcomes]


def _draft(row: RawRow, config: CorpusConfig, source: SourceConfig) -> _Draft:
    text, metadata = _text_and_rest(row, source.text_field)
    text, changed = clean(text, config.cleaning, source.drop_lines_with)
    if not text.strip():
        raise BrokenRow("the text is empty")
    return _Draft(row, text, metadata, changed, reason=judge(text, metadata, config, source))


def _judged(
    drafts: Sequence[_Draft], config: CorpusConfig, source: SourceConfig, decontaminator: Decontaminator | None
) -> list[Outcome]:
    """Return the outcomes of texts that are of a usable length."""
    if not drafts:
        return []
    words = Words.of([draft.text for draft in drafts])
    if decontaminator and (cuts := decontaminator.cuts(words)):
        for number, cut in cuts.items():
            draft = drafts[number]
            draft.cuts = [(name, excerpt_of(paragraph)) for name, paragraph in cut.paragraphs]
            if cut.share > config.decontamination.largest_cut:
                draft.reason = "contaminated"
            else:
                draft.text = cut.text.strip("\n")
                draft.reason = judge(draft.text, draft.metadata, config, source)
        words = Words.of([draft.text for draft in drafts])
    statistics = statistics_of(words)
    if config.quality.judge_quality:
        for draft, reason in zip(drafts, verdicts(statistics, config.quality), strict=True):
            draft.reason = draft.reason or reason
    found = languages_of([draft.text for draft in drafts])
    if config.languages:
        for draft, (language, confidence) in zip(drafts, found, strict=True):
            if language not in config.languages or confidence < config.language_confidence:
                draft.reason = draft.reason or "language"
    bins = bins_of(statistics)
    bands = bands_of(words).astype("<u8")
    outcomes = []
    for number, draft in enumerate(drafts):
        try:
            outcome = _outcome(draft, source, config.near_duplicates.drop_near_duplicates * bands[:, number].tobytes())
        except BrokenRow as error:  # metadata that JSON cannot hold
            outcomes.append(broken_outcome(draft.row, error))
            continue
        outcomes.append(replace(outcome, language=found[number][0], bins=bins[:, number].tobytes()))
    return outcomes


def _outcome(draft: _Draft, source: SourceConfig, bands: bytes) -> Outcome:
    if draft.reason:
        return _dropped(draft)
    data = draft.text.encode()
    digest = hashlib.sha256(data).digest()
    return Outcome(
        draft.row.place,
        digest,
        document_line(Document(digest.hex()[:32], draft.text, source.name, draft.metadata)),
        excerpt=excerpt_of(draft.text),
        changed=tuple(draft.changed),
        cuts=tuple(draft.cuts),
        num_bytes=len(data),
        num_characters=len(draft.text),
        bands=bands,
    )


def _dropped(draft: _Draft) -> Outcome:
    return Outcome(
        draft.row.place,
        reason=draft.reason,
        excerpt=excerpt_of(draft.text),
        changed=tuple(draft.changed),
        cuts=tuple(draft.cuts),
        num_bytes=len(draft.text.encode()),
        num_characters=len(draft.text),
    )


def broken_outcome(row: RawRow, error: BrokenRow) -> Outcome:
    """Return the fate of a row that cannot be used."""
    return Outcome(row.place, broken=str(error), excerpt=_excerpt(row.data))


def _text_and_rest(row: RawRow, text_field: str) -> tuple[str, dict[str, Any]]:
    """Return the text of a row and its other values."""
    values = row_values(row)
    text = values.pop(text_field, None)
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise BrokenRow(f"no text under {text_field!r}")
        text.encode()  # lone surrogates, which JSON can spell and UTF-8 cannot
    except UnicodeError as error:
        raise BrokenRow(f"not UTF-8: {error}") from None
    return text, values


def document_line(document: Document) -> bytes:
    """Return a document as a line of a shard; metadata that are no JSON become the nearest that are.

    Raises:
        BrokenRow: they cannot.
    """
    try:
        return document.to_line()
    except UnicodeError as error:
        raise BrokenRow(f"metadata are not UTF-8: {error}") from None
    except (TypeError, ValueError):  # rare, so looked at only now
        return document_line(replace(document, metadata=_json_values(document.metadata)))
    except RecursionError as error:
        raise BrokenRow(f"metadata are nested too deeply: {error}") from None


def _json_values(value: Any) -> Any:
    """Return the nearest JSON: dates (parquet has them) in ISO form, non-finite numbers as null, others as text."""
    if isinstance(value, dict):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf8", "backslashreplace")
    return str(value)


def excerpt_of(text: str) -> str:
    """Return the beginning of a text, for people."""
    return text[:_EXCERPT]


def _excerpt(data: bytes | dict[str, Any]) -> str:
    if isinstance(data, dict):
        start = {key: value[:_EXCERPT] if isinstance(value, (str, bytes)) else value for key, value in data.items()}
        data = repr(start).encode("utf8", "backslashreplace")
    return data[:_EXCERPT].decode("utf8", "backslashreplace")
