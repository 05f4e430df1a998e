"""Text as it comes: token ids in, whole characters out, nothing lost at the seams, nothing behind a stop text.

A piece may be a part of a UTF-8 character (byte fallback) or begin with a space, so pieces cannot be decoded one
by one: their bytes are joined, and what does not yet make a character is held back. So is what may be the beginning
of a text that ends the answer.
"""

import codecs
from collections.abc import Sequence

from lumi.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Decodes one answer; the texts it returns, joined, equal ``tokenizer.decode`` of all ids, up to a stop text.

    Args:
        tokenizer: the model's.
        stop: texts that end the answer; they are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_inside = False  # of a character
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next id and return the text that is certain now, perhaps none."""
        text = self._tokenizer.piece_text(token)
        if text is None or self._is_inside:
            text = self._decoder.decode(self._tokenizer.piece_bytes(token))
            self._is_inside = bool(self._decoder.getstate()[0])
        return self._settle(text) if self._stop else text

    def finish(self) -> str:
        """Return what was held back; bytes that never became a character show as U+FFFD."""
        rest = "" if self.stopped else self._decoder.decode(b"", final=True)
        if not self._stop:
            return rest
        text = self._settle(rest) + self._held
        self._held = ""
        return text

    def _settle(self, text: str) -> str:
        """Look for the stop texts; hold back what may become one."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a stop text."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
