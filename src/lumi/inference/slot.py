"""A slot of the cache in use: whose it is, and how far that request has come."""

from dataclasses import dataclass

from lumi.inference.request import Request


@dataclass(eq=False, slots=True)
class Slot:
    """A place in the cache and who has it.

    Attributes:
        index: its place.
        request: whose it is.
        filled: tokens of the prompt whose keys and values are there.
        started: tokens of the answer that were asked for.
    """

    index: int
    request: Request | None = None
    filled: int = 0
    started: int = 0

    @property
    def holder(self) -> Request:
        assert self.request is not None
        return self.request

    @property
    def is_full(self) -> bool:
        """Whether the prompt is there but for its last token, which is fed like a drawn one."""
        return self.filled == len(self.holder.prompt_ids) - 1

    @property
    def position(self) -> int:
        """Where the next token is fed."""
        return self.filled + self.started
