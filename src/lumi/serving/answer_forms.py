"""Answers as a client reads them: OpenAI's bodies, whole or in chunks, for chat and for completions.

Both ways read an answer through `AnswerReader`: a stream whenever it has moved, a whole answer once at its end.
"""

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lumi.inference import FinishReason, Request, TokenLogprobs
from lumi.tokenizer import Tokenizer

# ASCII: some clients split lines where Unicode does, at U+2028 and U+0085, and would cut an event in two
_write_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode
_LEAST_LOGPROB = -9999.0  # JSON has no infinity; max() of it and NaN, in this order, is it


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer."""

    index: int
    text: str
    logprobs: Sequence[TokenLogprobs] | None  # None where nobody asked
    finish_reason: FinishReason | None
    is_first: bool


class AnswerReader:
    """Reads one answer in pieces that never overlap.

    Args:
        index: of the choice.
        request: in the engine; its thread writes while we read.
        strips: leave out white space at the beginning.
        before: text that is repeated before the answer.
    """

    def __init__(self, index: int, request: Request, *, strips: bool = False, before: str = "") -> None:
        self.request = request
        self._index, self._strips, self._before = index, strips, before
        self._num_pieces = self._num_logprobs = 0
        self._has_begun = self.is_done = False

    def read(self) -> Piece | None:
        """Return what came since the last time; None where nothing did."""
        request = self.request
        reason = request.finish_reason  # read first: where there is one, all the rest is whole
        if reason == "cancelled":
            return None  # the call has an error, or nobody who reads
        num_tokens = len(request.token_ids)
        new, self._num_pieces = request.text_since(self._num_pieces)
        if self._strips:
            new = new.lstrip()
            self._strips = not new
        new, self._before = self._before + new, ""
        logprobs = None
        if request.settings.logprobs is not None:
            logprobs = request.logprobs[self._num_logprobs : num_tokens]
        if self.is_done or not (new or logprobs or reason):
            return None
        piece = Piece(self._index, new, logprobs, reason, is_first=not self._has_begun)
        self._has_begun, self._num_logprobs, self.is_done = True, num_tokens, reason is not None
        return piece


class Form(Protocol):
    """How a kind of answer is written."""

    prefix: str
    whole: str
    chunk: str

    def choice(self, piece: Piece) -> dict[str, Any]:
        """Return a whole answer."""
        ...

    def delta(self, piece: Piece) -> dict[str, Any]:
        """Return a bit of one."""
        ...


class ChatForm:
    """Form of /v1/chat/completions."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def choice(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {**self._frame(piece), "message": message}

    def delta(self, piece: Piece) -> dict[str, Any]:
        role = {"role": "assistant"} if piece.is_first else {}
        return {**self._frame(piece), "delta": {**role, "content": piece.text}}

    def _frame(self, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if piece.logprobs is not None:
            logprobs = {"content": [self._token(one) for one in piece.logprobs], "refusal": None}
        return {"index": piece.index, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    def _token(self, one: TokenLogprobs) -> dict[str, Any]:
        likeliest = [self._pair(token, logprob) for token, logprob in one.likeliest]
        return {**self._pair(one.token, one.logprob), "top_logprobs": likeliest}

    def _pair(self, token: int, logprob: float) -> dict[str, Any]:
        name, spelled = self._tokenizer.decode([token], keep_control=True), self._tokenizer.piece_bytes(token)
        return {"token": name, "logprob": max(_LEAST_LOGPROB, logprob), "bytes": list(spelled) or None}


class CompletionForm:
    """Form of /v1/completions; one for each answer to a call, as it counts characters."""

    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._places: dict[int, _Place] = {}

    def choice(self, piece: Piece) -> dict[str, Any]:
        logprobs = None if piece.logprobs is None else self._logprobs(piece.index, piece.logprobs)
        return {"index": piece.index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish_reason}

    delta = choice

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        place = self._places.setdefault(index, _Place())
        return {
            "tokens": [self._name(one.token) for one in tokens],
            "token_logprobs": [max(_LEAST_LOGPROB, one.logprob) for one in tokens],
            "top_logprobs": [
                {self._name(token): max(_LEAST_LOGPROB, logprob) for token, logprob in one.likeliest} for one in tokens
            ],
            "text_offset": [place.pass_by(self._tokenizer.piece_bytes(one.token)) for one in tokens],
        }

    def _name(self, token: int) -> str:
        """Return a name of a token that no other has: bytes that are no character are spelled out."""
        spelled = self._tokenizer.piece_bytes(token)
        try:
            return spelled.decode() or self._tokenizer.decode([token], keep_control=True)
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


class _Place:
    """Counts the characters of an answer token by token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def pass_by(self, spelled: bytes) -> int:
        """Return where a token begins: at a character that it goes on with, or behind one that was cut."""
        is_open, _ = self._decoder.getstate()
        goes_on = is_open and spelled and 0x80 <= spelled[0] < 0xC0
        begin = self._num_characters + bool(is_open and not goes_on)
        self._num_characters += len(self._decoder.decode(spelled))
        return begin


def usage(prompts: Sequence[Request], answers: Sequence[Request]) -> dict[str, Any]:
    """Count tokens; ``prompts`` has one request of each prompt."""
    prompt_tokens = sum(len(request.prompt_ids) for request in prompts)
    completion_tokens = sum(len(request.token_ids) for request in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(request.cached_tokens for request in prompts)},
    }


def event(data: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + _write_json(data).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"
