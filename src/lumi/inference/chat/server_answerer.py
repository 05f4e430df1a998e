"""Answers by a server that speaks OpenAI's protocol, streamed as server-sent events; nothing beyond the standard
library is needed for it.
"""

import http.client
import json
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lumi.conversation import Message
from lumi.errors import ConfigError, DataError
from lumi.inference.chat.answerer import Answer, NoAnswer, Pieces, num_exchanges, without_oldest
from lumi.inference.settings import GenerationConfig

KEY_VARIABLE = "LUMI_API_KEY"  # of the environment; `lumi serve` reads it too
_CONNECT_SECONDS, _SILENT_SECONDS = 10.0, 600.0
_LONGEST_WAIT_SECONDS = 60.0  # where a busy server names a time
_AGAIN = "/regen asks again"
_RENAMED = {"max_new_tokens": "max_tokens", "stop_ids": "stop_token_ids"}
_NOT_SENT = frozenset({"logprobs", "batch_size"})
_ALWAYS_SENT = frozenset({"max_new_tokens", "temperature", "top_p", "seed"})  # other servers have other defaults


class _Refusal(NoAnswer):
    """A status that is not 200."""

    def __init__(self, status: int, code: str | None, retry_after: float, fact: str, way_out: str) -> None:
        super().__init__(fact, way_out)
        self.status, self.code, self.retry_after = status, code, retry_after


class ServerAnswerer:
    """Answers through a server.

    Args:
        url: with or without ``/v1``.
        model: id; the only one that chats where none is given.
        key: API key, if any.
        tell: says a line to the person who waits.

    Raises:
        ConfigError: no such address or model.
        NoAnswer: the server does not say what it serves.
    """

    def __init__(self, url: str, *, model: str | None, key: str | None, tell: Callable[[str], None]) -> None:
        self._place, self._tell = _split(url), tell
        if key and not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(
                "the API key has blanks in it, or what is not ASCII", f"check --api_key or {KEY_VARIABLE}"
            )
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.name, self.context = self._find(model)
        self._characters_per_token = 0.0  # of the last prompt; 0: not known yet

    def answer(self, messages: Sequence[Message], settings: GenerationConfig, answer: Answer) -> Pieces:
        """Answer, as `Answerer` has it."""
        body = {
            "model": self.name,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_sampling(settings),
        }
        answer.num_left_out = self._first_guess(messages)
        while True:
            kept = without_oldest(messages, answer.num_left_out)
            try:
                yield from self._stream({**body, "messages": [message.to_json() for message in kept]}, answer)
            except _Refusal as refusal:
                if refusal.code != "context_length_exceeded":
                    raise
                answer.num_left_out += 1
                if answer.num_left_out >= num_exchanges(messages):
                    raise DataError(refusal.fact, "ask something shorter") from None
            else:
                break
        if answer.num_prompt_tokens:
            self._characters_per_token = _num_characters(kept) / answer.num_prompt_tokens

    def _first_guess(self, messages: Sequence[Message]) -> int:
        """Return how many exchanges to leave out so that an answer has room; a server refuses only what has none."""
        left_out = 0
        if self.context and self._characters_per_token:
            room = (self.context - min(64, self.context // 4)) * self._characters_per_token
            while left_out + 1 < num_exchanges(messages) and _num_characters(without_oldest(messages, left_out)) > room:
                left_out += 1
        return left_out

    def _stream(self, body: dict[str, Any], answer: Answer) -> Pieces:
        begun = False
        with closing(self._lines_when_free("/chat/completions", body)) as lines:
            for event in _events(lines):
                if "error" in event:
                    raise NoAnswer(f"the server broke the answer off: {_message(event)}", _AGAIN)
                if usage := event.get("usage"):
                    answer.num_prompt_tokens = usage.get("prompt_tokens")
                    answer.num_tokens = usage.get("completion_tokens")
                    answer.num_cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
                for choice in event.get("choices", ())[:1]:
                    answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
                    text = _as_text((choice.get("delta") or {}).get("content"))
                    if text := text if begun else text.lstrip():
                        begun = True
                        yield text

    def _lines_when_free(self, path: str, body: dict[str, Any]) -> Generator[bytes, None, None]:
        """Ask, and once more where the server is busy."""
        try:
            yield from self._lines("POST", path, body)
            return
        except _Refusal as refusal:
            if refusal.status != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            seconds = min(refusal.retry_after, _LONGEST_WAIT_SECONDS)
        self._tell(f"the server is busy; asking again in {seconds:g} s")
        time.sleep(seconds)
        yield from self._lines("POST", path, body)

    def _lines(self, method: str, path: str, body: dict[str, Any] | None = None) -> Generator[bytes, None, None]:
        """Yield the lines that the server answers with.

        Raises:
            _Refusal: it has another status than 200.
            NoAnswer: it is not there, or went away.
        """
        connection, response = self._connect(), None
        headers = {**self._headers, "Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request(method, self._place.path + path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            if response.status != HTTPStatus.OK:
                raise _refusal(response)
            yield from response
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"the connection to the server was lost ({_reason(error)})", _AGAIN) from None
        finally:
            if response is not None:
                response.close()
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._place.netloc, timeout=_CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise NoAnswer(
                f"no server answers at {self._place.geturl()} ({_reason(error)})",
                "start one (lumi serve --model_path ...), or check --url",
            ) from None
        connection.sock.settimeout(_SILENT_SECONDS)
        return connection

    def _find(self, asked: str | None) -> tuple[str, int | None]:
        """Return the id and the context of the model that is to answer."""
        listed = _parse(b"".join(self._lines("GET", "/models"))).get("data")
        models = {str(one.get("id")): one for one in listed or () if isinstance(one, dict)}
        about = {name: one.get("lumi") or {} for name, one in models.items()}  # what other servers do not say
        chatting = [name for name in models if about[name].get("chats", True)]
        if not chatting:
            raise ConfigError(
                f"{self._place.geturl()} serves no model that was taught to answer ({', '.join(models) or 'none'})",
                "serve one that was tuned: make serve",
            )
        if asked is None and len(chatting) > 1:
            raise ConfigError(f"{self._place.geturl()} serves {', '.join(chatting)}", "name one of them with --model")
        name = chatting[0] if asked is None else asked
        if name not in chatting:
            fact = "is a base model, never taught to answer" if name in models else f"is not at {self._place.geturl()}"
            raise ConfigError(f"the model {name} {fact}", f"--model can be {', '.join(chatting)}")
        context = about[name].get("context", models[name].get("max_model_len"))
        return name, context if isinstance(context, int) else None


def _split(url: str) -> SplitResult:
    """Return the address of the API."""
    place = urlsplit(url)
    try:
        is_good = place.scheme in ("http", "https") and bool(place.hostname) and (place.port or 1) > 0
    except ValueError:  # the port
        is_good = False
    if not is_good or place.query or place.fragment or "@" in place.netloc or not url.isascii():
        raise ConfigError(f"{url!r} is not the address of a server", "give one such as http://127.0.0.1:8000")
    return place._replace(path=place.path.rstrip("/").removesuffix("/v1") + "/v1")


def _sampling(settings: GenerationConfig) -> dict[str, Any]:
    """Return the fields of a body: what every server knows, and what was changed of the rest."""
    defaults = GenerationConfig().resolved()
    return {
        _RENAMED.get(name, name): value
        for name, value in settings.resolved().items()
        if name in _ALWAYS_SENT or (value != defaults[name] and name not in _NOT_SENT)
    }


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream up to its last.

    Raises:
        NoAnswer: it ends before that.
    """
    for line in lines:
        name, _, data = line.partition(b":")
        if name == b"data":
            if data.strip() == b"[DONE]":
                return
            yield _parse(data)
    raise NoAnswer("the connection was lost in the middle of the answer", _AGAIN)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise NoAnswer("the server does not speak OpenAI's protocol", "check --url; `lumi serve` starts one that does")
    return parsed


def _as_text(content: Any) -> str:
    """Return what can be written: JSON may hold halves of characters."""
    return content.encode("utf8", "replace").decode() if isinstance(content, str) else ""


def _refusal(response: http.client.HTTPResponse) -> _Refusal:
    try:
        data = json.loads(response.read(1 << 16))
    except (ValueError, RecursionError):
        data = None
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    said = _message(data) if error else response.reason
    after = response.getheader("Retry-After", "")
    retry_after = float(after) if re.fullmatch(r"\d{1,9}(\.\d+)?", after) else 1.0
    way_out: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: f"give its key with {KEY_VARIABLE} or --api_key",
        HTTPStatus.FORBIDDEN: f"give its key with {KEY_VARIABLE} or --api_key",
        HTTPStatus.BAD_REQUEST: "change what was asked",
    }
    return _Refusal(
        response.status,
        code,
        retry_after,
        f"the server answers {response.status}: {said}",
        way_out.get(response.status, _AGAIN),
    )


def _message(data: dict[str, Any]) -> str:
    error = data.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return f"{message:.500}" if isinstance(message, str) else "it does not say why"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__


def _num_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
