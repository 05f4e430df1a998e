"""Data sets of preferences, as the corpus stage reads them."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from lumi.config import FileOnly
from lumi.conversation import Message
from lumi.corpus import Document
from lumi.posttraining.conversations import MessagesConfig, MessagesSource, Reading, messages_in
from lumi.posttraining.preference_shapes import PREFERENCE_KEYS, preference_of


class PreferenceSource(MessagesSource):
    """One data set of preferences, with its licence."""

    text_keys: ClassVar[frozenset[str]] = PREFERENCE_KEYS

    @property
    def layout(self) -> str:
        return "keys (lumi.posttraining.preference_shapes)"

    def read(self, values: dict[str, Any]) -> Reading:
        found = preference_of(values, self.roles)
        return Reading([*found.prompt, Message("assistant", found.chosen)], found.rejected, found.problem)


class PreferencesConfig(MessagesConfig):
    """The corpus stage over preferences."""

    sources: Annotated[tuple[PreferenceSource, ...], FileOnly] = Field(min_length=1)
    """Read in this order."""


def sides_of(document: Document) -> tuple[list[Message], list[Message]]:
    """Return the conversation with the chosen answer, and that with the rejected one."""
    chosen = messages_in(document)
    return chosen, [*chosen[:-1], Message("assistant", document.metadata["rejected"])]
