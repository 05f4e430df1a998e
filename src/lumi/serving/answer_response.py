"""The response that answers: it hands its requests to the engine, and writes what comes, whole or as a stream."""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from lumi.serving.answer_forms import LAST_EVENT, AnswerReader, Form, event, usage
from lumi.serving.api_error import ApiError, internal_error
from lumi.serving.bodies import SampledBody
from lumi.serving.engine_thread import Call
from lumi.serving.guard import COUNT_ANSWERS
from lumi.serving.served_model import ServedModel
from lumi.serving.service import Service

logger = logging.getLogger(__name__)


class AnswerResponse(Response):
    """Answers to one body.

    Args:
        service: submits and counts.
        model: that answers.
        readers: of the requests, the choices of a prompt one behind the other.
        form: how they are written.
        body: what was asked.
    """

    def __init__(
        self, service: Service, model: ServedModel, readers: Sequence[AnswerReader], form: Form, body: SampledBody
    ) -> None:
        super().__init__()
        self._service, self._model, self._readers, self._form, self._body = service, model, readers, form, body
        self._id, self._created = f"{form.prefix}-{secrets.token_hex(12)}", int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the engine is rid of the requests when this ends, however it ends."""
        scope[COUNT_ANSWERS](len(self._readers))
        thread, seconds = self._model.thread, self._service.limits.request_seconds
        streams = bool(self._body.stream)
        call = self._service.submit(self._model, [reader.request for reader in self._readers], streams=streams)
        expiry = asyncio.get_running_loop().call_later(
            seconds, call.fail, ApiError(504, f"not answered within {seconds:g} s", code="timeout")
        )
        watcher = asyncio.create_task(_fail_when_left(call, receive))
        try:
            if streams:
                await self._stream(call, send)
            else:
                while not call.is_done:
                    await call.wait()
                await JSONResponse(self._whole())(scope, receive, send)
        finally:
            expiry.cancel()
            watcher.cancel()
            if not call.is_done:
                thread.cancel(call)
            self._service.metrics.count(self._model.id, call)

    def _whole(self) -> dict[str, Any]:
        pieces = [reader.read() for reader in self._readers]
        choices = [self._form.choice(piece) for piece in pieces if piece is not None]
        return {**self._head(self._form.whole), "choices": choices, "usage": self._usage()}

    async def _stream(self, call: Call, send: Send) -> None:
        """Write events; the status is only sent with the first of them, so that an error before it has its own.

        Raises:
            ApiError, Exception: before the first event; later an error is the last event.
        """
        begun = False
        try:
            while not all(reader.is_done for reader in self._readers):
                await call.wait()
                events = b"".join(map(event, self._chunks()))
                if events and not begun:
                    begun = True
                    await send(_STREAM_START)
                if events:
                    await send({"type": "http.response.body", "body": events, "more_body": True})
            last = LAST_EVENT
            if self._body.includes_usage:
                last = event({**self._head(self._form.chunk), "choices": [], "usage": self._usage()}) + last
        except ApiError as error:
            if not begun:
                raise
            last = event(error.body())
        except Exception:
            if not begun:
                raise
            logger.exception("a stream failed")
            last = event(internal_error().body())
        await send({"type": "http.response.body", "body": last})

    def _chunks(self) -> list[dict[str, Any]]:
        head = self._head(self._form.chunk)
        if self._body.includes_usage:
            head["usage"] = None
        pieces = [piece for reader in self._readers if (piece := reader.read()) is not None]
        return [{**head, "choices": [self._form.delta(piece)]} for piece in pieces]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model.id}

    def _usage(self) -> dict[str, Any]:
        requests = [reader.request for reader in self._readers]
        return usage(requests[:: self._body.n or 1], requests)


async def _fail_when_left(call: Call, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.fail(ApiError(499, "the client left"))


_STREAM_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")],
}
