"""What stands before every route: who asks, by which name, how much, how long; and what every answer carries.

Host -> API key -> not draining -> answers of the key -> size of the body, time -> the route
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lumi.progress import say
from lumi.serving.api_error import ApiError, internal_error
from lumi.serving.keys import Keys
from lumi.serving.service import Service, stopping

logger = logging.getLogger(__name__)

_WITHOUT_KEY = ("/", "/health")
_WHILE_DRAINING = ("/", "/health", "/ready", "/metrics")
_GRACE_SECONDS = 5.0  # behind a request's time, for telling it to a client that reads
COUNT_ANSWERS = "lumi.count_answers"  # in the scope: a function that is told how many answers a request asks for
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_POLICY = b"content-security-policy"
_LEFT = 499  # nginx's status for a client that left


class Guard:
    """The outermost part of the app.

    Args:
        app: the routes.
        service: behind them.
        keys: that are let in.
        hosts: a Host must be one of these, where there are any: else a page of another site could reach a server on
            this machine under a name that it lets point here (DNS rebinding).
        routes: that there are, for the counters.
        logs: one line a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        keys: Keys,
        hosts: Collection[str],
        routes: Collection[str],
        logs: bool = False,
    ) -> None:
        self._app, self._service, self._keys, self._logs = app, service, keys, logs
        self._hosts, self._routes = frozenset(hosts), frozenset(routes)
        self._open: Counter[int | None] = Counter()  # answers of each key that are asked for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), _LEFT
        error: ApiError | None = None

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), *_HEADERS]
                if all(name != _POLICY for name, _ in headers):
                    headers.append((_POLICY, b"default-src 'none'; frame-ancestors 'none'"))
                message = {**message, "headers": headers}
            await send(message)

        self._service.num_open += 1
        try:
            async with asyncio.timeout(self._service.limits.request_seconds + _GRACE_SECONDS):
                await self._admit(scope, receive, send_marked)
        except TimeoutError:  # a client that does not send, or does not read; the latter's connection is closed
            error = ApiError(408, "the request did not come in time", code="timeout")
        except ApiError as refused:
            error = refused
        except ClientDisconnect:
            pass  # before its body was whole
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            error = internal_error()
        try:
            if error is not None and status == _LEFT:
                await error.response()(scope, receive, send_marked)
        finally:
            self._service.num_open -= 1
            path = getattr(scope.get("route"), "path", scope["path"])
            route = path if path in self._routes else "other"
            self._service.metrics.requests.labels(route, str(status)).inc()
            if self._logs:
                say(f"{scope['method']} {route} {status} {time.perf_counter() - begun:.3f} s")

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self._hosts and _name(headers.get("host", "")) not in self._hosts:
            raise ApiError(421, f"this server answers to {', '.join(sorted(self._hosts))} only", code="wrong_host")
        owner = self._keys.owner(headers.get("authorization", "")) if self._keys else None
        if self._keys and owner is None and path not in _WITHOUT_KEY:
            raise ApiError(401, "an API key is needed here: Authorization: Bearer KEY", code="invalid_api_key")
        if self._service.is_draining and path not in _WHILE_DRAINING:
            raise stopping()
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with self._counted(owner) as count_answers:
            scope[COUNT_ANSWERS] = count_answers
            await self._app(scope, _bounded(receive, headers, self._service.limits.max_body_bytes), send)

    @contextmanager
    def _counted(self, owner: int | None) -> Iterator[Callable[[int], None]]:
        """Count a request as one answer of its key until its body was read and says how many it asks for."""
        most, counted = self._service.limits.max_requests_per_key, 0

        def count(num_answers: int) -> None:
            nonlocal counted
            if self._open[owner] - counted + num_answers > most:
                raise ApiError(
                    429,
                    f"{most} requests at once are the most, each choice is one; wait for one to end",
                    code="too_many_requests",
                    retry_after=1,
                )
            self._open[owner] += num_answers - counted
            counted = num_answers

        count(1)
        try:
            yield count
        finally:
            self._open[owner] -= counted


def _name(host: str) -> str:
    """Return a Host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _bounded(receive: Receive, headers: Headers, most: int) -> Receive:
    """Return ``receive`` that ends with an error where the body is too long, announced or not."""
    error = ApiError(413, f"the body has more than {most:,} bytes", code="body_too_large")
    if int(headers.get("content-length", "0")) > most:  # h11 has seen that it is a number
        raise error
    received = 0

    async def receive_bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise error
        return message

    return receive_bounded
