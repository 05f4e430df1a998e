"""Bodies of requests: OpenAI's fields, what else Lumi's sampling knows, and strict reading.

A field that asks for something that is not offered (tools, images) is refused by name; so is one that nobody knows. A
field that changes nothing about the answer (``user``, ``store``) is taken and left alone; null is the same as absent.
"""

import json
import re
import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lumi.conversation import Message, Role
from lumi.inference import GenerationConfig
from lumi.serving.api_error import ApiError

_MOST_NAMES = 1024  # in an object; each that is wrong would be an error of its own
_LEAST_TEMPERATURE = 1e-3  # below, logits over temperature leave float32; the most likely token is all but certain
_NOT_OFFERED = frozenset({
    "audio", "best_of", "function_call", "functions", "modalities", "prediction", "reasoning_effort",
    "response_format", "suffix", "tool_choice", "tool_calls", "tools", "web_search_options",
})  # fmt: skip

_Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_StopText = Annotated[str, Field(min_length=1, max_length=100)]
_StopTexts = Annotated[
    list[_StopText],
    Field(max_length=16, fail_fast=True),
    BeforeValidator(
        lambda stop: [stop] if isinstance(stop, str) else stop, json_schema_input_type=str | list[_StopText]
    ),
]


class Body(BaseModel):
    """Base of all that a client sends."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(Body):
    """How a stream is written."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SampledBody(Body):
    """What chat and completions have in common."""

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=1e-6, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=1 << 31)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[_TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=1024)
    seed: _Int64 | None = None
    stop: _StopTexts | None = None
    stop_token_ids: list[_TokenId] | None = Field(default=None, max_length=64, fail_fast=True)
    max_tokens: int | None = Field(default=None, gt=0)
    n: int | None = Field(default=None, gt=0)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def settings(self, max_new_tokens: int, stop_ids: tuple[int, ...], logprobs: int | None) -> GenerationConfig:
        """Return how to answer; without a seed, one is drawn."""
        names = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        chosen = {name: value for name in (*names, "logit_bias") if (value := getattr(self, name)) is not None}
        if chosen.get("temperature", 1.0) < _LEAST_TEMPERATURE:
            chosen["temperature"] = 0.0
        return GenerationConfig(
            **chosen,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            stop=tuple(self.stop or ()),
            stop_ids=tuple(sorted({*stop_ids, *(self.stop_token_ids or ())})),
            max_new_tokens=max_new_tokens,
            logprobs=logprobs,
            seed=secrets.randbits(48) if self.seed is None else self.seed,
        )


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


_Parts = Annotated[
    list[TextPart],
    Field(max_length=1024, fail_fast=True),
    BeforeValidator(
        lambda content: [{"type": "text", "text": content}] if isinstance(content, str) else content,
        json_schema_input_type=str | list[TextPart],
    ),
]


class ChatMessage(Body):
    """One turn; an assistant's may be what this server answered, as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: _Parts
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = Field(default=None, max_length=0, fail_fast=True)
    audio: None = None
    function_call: None = None
    tool_calls: list[Any] | None = Field(default=None, max_length=0, fail_fast=True)

    def message(self) -> Message:
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, "".join(part.text for part in self.content))


class TextFormat(Body):
    """The one form of answers."""

    type: Literal["text"]


class ChatBody(SampledBody):
    """Body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, gt=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None

    audio: None = None
    function_call: Literal["none", "auto"] | None = None
    functions: list[Any] | None = Field(default=None, max_length=0, fail_fast=True)
    modalities: list[Literal["text"]] | None = Field(default=None, fail_fast=True)
    prediction: None = None
    reasoning_effort: Literal["none"] | None = None
    response_format: TextFormat | None = None
    tool_choice: Literal["none", "auto"] | None = None
    tools: list[Any] | None = Field(default=None, max_length=0, fail_fast=True)
    web_search_options: None = None


_Ids = Annotated[list[_TokenId], Field(fail_fast=True)]


def _prompts(prompt: Any) -> Any:
    """Return a list of prompts, whichever of OpenAI's four forms it had; null is a document's beginning."""
    if prompt is None:
        return [""]
    one = isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int))
    return [prompt] if one else prompt


class CompletionBody(SampledBody):
    """Body of /v1/completions."""

    prompt: Annotated[
        list[str | _Ids],
        Field(min_length=1, max_length=1024, fail_fast=True),
        BeforeValidator(_prompts, json_schema_input_type=str | list[str] | _Ids | list[_Ids] | None),
    ] = [""]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)

    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None


BodyT = TypeVar("BodyT", bound=Body)


def read_body(kind: type[BodyT], data: bytes) -> BodyT:
    """Read JSON.

    Raises:
        ApiError: it is none, or a field is not as it has to be.
    """
    try:
        # names and constants alone; numbers may be longer than Python reads, and are pydantic's to judge
        json.loads(data, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=len)
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _problem(error) from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > _MOST_NAMES:
        raise ValueError(f"an object has {len(pairs):,} names, {_MOST_NAMES:,} are the most")
    names = [name for name, _ in pairs]
    if len({*names}) < len(names):
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.80} stands twice")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _problem(error: ValidationError) -> ApiError:
    """Return the first problem as a client is told it: of all the forms that a field may have, the nearest one's."""
    problems = error.errors(include_url=False, include_context=False)
    first = max((one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not valid JSON: {first['msg'].partition(': ')[2]}", code="invalid_json")
    # names of fields and places in lists; what pydantic calls the members of a union is nothing to a client
    path = [str(part) for part in first["loc"] if not re.search(r"[^\w]|^(str|int|float|bool)$", str(part))]
    param = ".".join(path)[:200] or None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: there is no such parameter", param=param, code="unknown_parameter")
    if not _NOT_OFFERED.isdisjoint(path):
        return ApiError(400, f"{param}: this is not offered here", param=param, code="unsupported_parameter")
    missing = first["type"] == "missing"
    shown = "" if missing or isinstance(first["input"], dict | list) else f" (it is {first['input']!r:.60})"
    return ApiError(400, f"{param or 'the body'}: {first['msg'][0].lower()}{first['msg'][1:]}{shown}", param=param)
