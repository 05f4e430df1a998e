"""One prompt on its way through the engine, and what it has become."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lumi.inference.detokenizer import IncrementalDetokenizer
from lumi.inference.settings import GenerationConfig
from lumi.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was, in nats, by the model itself: before penalties, temperature and cuts."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]  # (token, log-probability), likeliest first


@dataclass(eq=False, slots=True)
class Request:
    """A prompt and its answer as far as it has been written.

    Attributes:
        prompt_ids: at least one token.
        settings: how it is answered.
        limit: tokens that may be written; what the context has room for.
        token_ids: the answer without the token that ended it.
        logprobs: of each token, the one that ended the answer too; empty where nobody asked.
        finish_reason: None while it is being written.
        cached_tokens: of the prompt, found in a slot and not computed.
    """

    prompt_ids: tuple[int, ...]
    settings: GenerationConfig
    limit: int
    detokenizer: IncrementalDetokenizer
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    _text: list[str] = field(default_factory=list)  # bit by bit

    @classmethod
    def of(cls, prompt_ids: Sequence[int], settings: GenerationConfig, context: int, tokenizer: Tokenizer) -> "Request":
        """Return a request that nobody has begun yet."""
        limit = min(settings.max_new_tokens, context - len(prompt_ids))
        return cls(tuple(prompt_ids), settings, limit, IncrementalDetokenizer(tokenizer, settings.stop))

    @property
    def text(self) -> str:
        """The answer as far as it is certain; all of it once there is a finish reason. For any thread."""
        return "".join(self._text)

    def text_since(self, pieces: int) -> tuple[str, int]:
        """Return the text behind the first pieces, and how many pieces there are now; for any thread."""
        new = self._text[pieces:]
        return "".join(new), pieces + len(new)

    def accept(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Take the next token; sets ``finish_reason`` where it is the last."""
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token in self.settings.stop_ids:
            self.finish("stop")
            return
        self.token_ids.append(token)
        if text := self.detokenizer.push(token):
            self._text.append(text)
        if self.detokenizer.stopped:
            self.finish("stop")
        elif len(self.token_ids) == self.limit:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the answer here."""
        self._text.append(self.detokenizer.finish())
        # what was held back may have had a stop text in it only where the answer ended by itself
        self.finish_reason = "stop" if self.detokenizer.stopped else reason
