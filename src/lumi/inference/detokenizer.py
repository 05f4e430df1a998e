"""Text as it comes: token ids in, whole characters out, nothing lost at the seams.

A piece may be a part of a UTF-8 character (byte fallback) or begin with a space, so pieces cannot be decoded one
by one: their bytes are joined, and what does not yet make a character is held back.
"""

import codecs

from lumi.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Decodes one answer; the texts it returns, joined, equal ``tokenizer.decode`` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Take the next id and return the text that is certain now, perhaps none."""
        return self._decoder.decode(self._tokenizer.piece_bytes(token))

    def finish(self) -> str:
        """Return what was held back; bytes that never became a character show as U+FFFD."""
        return self._decoder.decode(b"", final=True)
