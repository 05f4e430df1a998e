"""Conversations from raw rows: read in whatever shape, cleaned message by message, judged, each fault by its name.

    raw row -> messages -> clean -> is it a conversation? -> answers worth learning -> test sets, language -> outcome

This runs in the workers of the corpus stage, in the place where texts are judged. What dedup looks at is what the
user says: of two conversations with (nearly) the same questions the earlier one stays. A preference is a conversation
with a second, rejected last answer (`lumi.posttraining.preferences`); there dedup looks at the answers too, in an
order of their own, so that the same pair with its sides swapped is a duplicate.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lumi.config import Config, FileOnly
from lumi.conversation import Message, Role, problem_of
from lumi.corpus import CorpusConfig, Document, SourceConfig
from lumi.corpus.cleaning import clean
from lumi.corpus.contamination import Decontaminator
from lumi.corpus.language import languages_of
from lumi.corpus.minhash import bands_of
from lumi.corpus.outcome import Outcome, broken_outcome, document_line, excerpt_of
from lumi.corpus.quality import bins_of
from lumi.corpus.rows import BrokenRow, RawRow, row_values
from lumi.corpus.statistics import statistics_of
from lumi.corpus.words import Words
from lumi.posttraining.shapes import TEXT_KEYS, ShapeName, UnusableRow, messages_of
from lumi.workers import Shared

_LONGEST_METADATA = 80  # characters
_TELLING = 20  # characters: people do answer "Yes!" with "Yes!"
_NO_OUTPUT = {"<nooutput>", "nooutput", "no output", "n/a", "none", "nan"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row says: a conversation, for preferences a second last answer, and what is wrong with them together."""

    messages: Sequence[Message]
    rejected: str | None = None
    problem: str = ""


class MessagesSource(SourceConfig):
    """One data set whose rows hold messages, with its licence."""

    roles: dict[str, Role] = Field(default_factory=dict)
    """More names of roles, as this data set has them: {"SYSTEM": "assistant"}."""
    text_field: str = ""
    """Not used: rows hold messages."""
    text_keys: ClassVar[frozenset[str]] = TEXT_KEYS

    def read(self, values: dict[str, Any]) -> Reading:
        """Return the messages of a row.

        Raises:
            UnusableRow: it has none, or not in a form that is known.
        """
        raise NotImplementedError

    def wants_column(self, name: str, kind: Any) -> bool:
        """All but pictures and sound."""
        from pyarrow import types

        return not (types.is_binary(kind) or types.is_large_binary(kind))

    def missing_column(self, columns: Collection[str]) -> str | None:
        return None


class ConversationSource(MessagesSource):
    """One data set of conversations, with its licence."""

    shape: ShapeName = "auto"
    """How its rows hold messages; auto looks at their keys."""

    @property
    def layout(self) -> str:
        return f"shape ({self.shape})"

    def read(self, values: dict[str, Any]) -> Reading:
        return Reading(messages_of(values, self.shape, self.roles))


class AnswersConfig(Config):
    """Which answers are worth learning."""

    min_answer_characters: int = Field(default=1, ge=1)
    """A conversation with a shorter answer is dropped."""
    max_answer_characters: int = Field(default=20_000, gt=0)
    """A conversation with a longer answer is dropped."""
    max_repetition: float = Field(default=0.3, ge=0, le=1)
    """Largest share of an answer's words in runs of 8 that stood before in it."""
    drop_answers_with: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Drop conversations with an answer in which one of these strings stands, such as "As an AI language model"."""


class MessagesConfig(CorpusConfig):
    """The corpus stage over messages; its rules for the length of texts are about what the user says."""

    answers: AnswersConfig = AnswersConfig()


class ConversationsConfig(MessagesConfig):
    """The corpus stage over conversations."""

    sources: Annotated[tuple[ConversationSource, ...], FileOnly] = Field(min_length=1)
    """Read in this order."""


@dataclass
class _Draft:
    row: RawRow
    messages: list[Message]
    changed: list[str]
    metadata: dict[str, Any]
    rejected: str | None = None
    reason: str = ""
    cuts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def asked(self) -> str:
        return "\n\n".join(message.content for message in self.messages if message.role == "user")

    @property
    def answered(self) -> str:
        return "\n\n".join(message.content for message in self.messages if message.role == "assistant")

    @property
    def whole(self) -> str:
        said = [message.content for message in self.messages]
        return "\n\n".join(said if self.rejected is None else [*said, self.rejected])

    @property
    def compared(self) -> str:
        """What dedup looks at."""
        if self.rejected is None:
            return self.asked
        return "\n\n".join([self.asked, *sorted([self.messages[-1].content, self.rejected], key=normal)])


def conversation_outcomes(
    rows: Sequence[RawRow],
    *,
    config: MessagesConfig,
    source: MessagesSource,
    decontaminator: Shared[Decontaminator] | None = None,
) -> list[Outcome]:
    """Return what becomes of each row, in order (see `Judge`)."""
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
    judged = _judged(drafts, config, source, decontaminator.get() if decontaminator else None)
    return [next(judged) if outcome is None else outcome for outcome in outcomes]


def _draft(row: RawRow, config: MessagesConfig, source: MessagesSource) -> _Draft:
    values = row_values(row)
    try:
        reading = source.read(values)
        for text in (*(message.content for message in reading.messages), reading.rejected or ""):
            text.encode()
    except UnusableRow as error:
        raise BrokenRow(str(error)) from None
    except UnicodeError as error:
        raise BrokenRow(f"not UTF-8: {error}") from None
    cleaned, changed = _clean(reading.messages, config, source)
    rejected = None
    if reading.rejected is not None:
        (side,), of_side = _clean([Message("assistant", reading.rejected)], config, source)
        rejected, changed = side.content, changed + of_side
    if cleaned and cleaned[-1].role == "user":  # a question that nobody answered
        cleaned.pop()
        changed.append("unanswered_question")
    single = {
        key: value
        for key, value in values.items()
        if key not in source.text_keys and isinstance(value, str | int | float) and len(str(value)) < _LONGEST_METADATA
    }
    draft = _Draft(row, cleaned, list(dict.fromkeys(changed)), {**single, "num_messages": len(cleaned)}, rejected)
    draft.reason = reading.problem or _reason(draft, values, config, source)
    return draft


def _clean(
    messages: Sequence[Message], config: MessagesConfig, source: MessagesSource
) -> tuple[list[Message], list[str]]:
    out, steps = [], []
    for message in messages:
        text, changed = clean(message.content, config.cleaning, source.drop_lines_with)
        out.append(Message(message.role, text.strip()))
        steps += changed
    return out, steps


def _reason(draft: _Draft, values: dict[str, Any], config: MessagesConfig, source: MessagesSource) -> str:
    """Return the rule that drops a conversation before its words are looked at, or nothing."""
    if any(values.get(key) in named for key, named in source.drop_where.items()):
        return "named_in_config"
    if draft.rejected is not None and draft.messages:
        chosen = draft.messages[-1].content
        if not chosen or not draft.rejected:
            return "empty_side"
        if chosen == draft.rejected:
            return "identical_sides"
    if problem := problem_of(draft.messages):
        return problem
    if not config.min_characters <= len(draft.asked) <= config.max_characters:
        return "question_too_short" if len(draft.asked) < config.min_characters else "question_too_long"
    asked = ""
    for message in draft.messages:
        if message.role == "assistant" and (reason := _of_answer(message.content, asked, config.answers)):
            return reason
        asked = message.content
    if draft.rejected is not None and len(draft.rejected) > config.answers.max_answer_characters:
        return "answer_too_long"
    return ""


def _of_answer(answer: str, asked: str, config: AnswersConfig) -> str:
    if answer.lower() in _NO_OUTPUT:
        return "no_output"
    if len(answer) < config.min_answer_characters:
        return "answer_too_short"
    if len(answer) > config.max_answer_characters:
        return "answer_too_long"
    if answer == asked and len(answer) >= _TELLING:
        return "answer_repeats_the_question"
    if any(part in answer for part in config.drop_answers_with):
        return "answer_named_in_config"
    return ""


def _judged(
    drafts: Sequence[_Draft],
    config: MessagesConfig,
    source: MessagesSource,
    decontaminator: Decontaminator | None,
) -> Iterator[Outcome]:
    """Yield the outcomes of what is a conversation."""
    if not drafts:
        return
    words = Words.of([draft.whole for draft in drafts])
    if decontaminator:
        for number, cut in decontaminator.cuts(words).items():
            drafts[number].cuts = [(name, excerpt_of(paragraph)) for name, paragraph in cut.paragraphs]
            drafts[number].reason = "contaminated"
    repeated = statistics_of(Words.of([draft.answered for draft in drafts])).duplicate_8_gram
    languages = languages_of([draft.whole for draft in drafts])
    bins = bins_of(statistics_of(words))
    bands = bands_of(Words.of([draft.compared for draft in drafts])).astype("<u8")
    for number, draft in enumerate(drafts):
        language, confidence = languages[number]
        if repeated[number] > config.answers.max_repetition:
            draft.reason = draft.reason or "repetitive_answer"
        if config.languages and (language not in config.languages or confidence < config.language_confidence):
            draft.reason = draft.reason or "language"
        kept_bands = config.near_duplicates.drop_near_duplicates * bands[:, number].tobytes()
        yield _outcome(draft, source, language, bins[:, number].tobytes(), kept_bands)


def _outcome(draft: _Draft, source: MessagesSource, language: str, bins: bytes, bands: bytes) -> Outcome:
    if draft.reason:
        return _dropped(draft, language=language, bins=bins)
    compared = draft.compared
    digest = hashlib.sha256(normal(compared).encode()).digest()
    metadata = {**draft.metadata, "messages": [message.to_json() for message in draft.messages]}
    if draft.rejected is not None:
        metadata["rejected"] = draft.rejected
    document = Document(digest.hex()[:32], compared, source.name, metadata)
    try:
        line = document_line(document)
    except BrokenRow as error:
        return broken_outcome(draft.row, error)
    whole = draft.whole
    return Outcome(
        draft.row.place,
        digest,
        line,
        excerpt=excerpt_of(whole),
        changed=tuple(draft.changed),
        language=language,
        num_bytes=len(whole.encode()),
        num_characters=len(whole),
        bins=bins,
        bands=bands,
    )


def _dropped(draft: _Draft, *, language: str = "", bins: bytes = b"") -> Outcome:
    whole = draft.whole
    return Outcome(
        draft.row.place,
        reason=draft.reason,
        excerpt=excerpt_of(whole),
        changed=tuple(draft.changed),
        cuts=tuple(draft.cuts),
        language=language,
        num_bytes=len(whole.encode()),
        num_characters=len(whole),
        bins=bins,
    )


def normal(question: str) -> str:
    """Return a question as it is compared: without regard to case and blanks."""
    return " ".join(question.lower().split())


def messages_in(document: Document) -> list[Message]:
    """Return the messages of a conversation that was kept."""
    return [Message.from_json(message) for message in document.metadata["messages"]]
