"""The server around the app: it ends in good order.

    SIGTERM, SIGINT --> draining: nothing new, running answers go on --> all ended, or the time is over and the rest
    end with an error --> connections closed --> exit code 143 or 130

A second signal does not wait for the answers.
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI

from lumi.errors import ConfigError
from lumi.progress import say
from lumi.serving.service import Service

_CLOSING_SECONDS = 5  # for clients to read what was written last
_UNREAD_MILLISECONDS = 60_000


class Server(uvicorn.Server):
    """Uvicorn, which closes its door first and asks later; here the door stays open to say 503.

    Args:
        app: what is served.
        service: behind it.
        greeting: printed once clients can connect.
    """

    def __init__(self, app: FastAPI, service: Service, greeting: str) -> None:
        # not what uvicorn would take where it is installed: httptools knows no limit for the size of headers, and with
        # uvloop a busy server begins its answers sooner, but writes fewer tokens (docs/results.md)
        config = uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="on", log_config=None, log_level="error",
            access_log=False, server_header=False, timeout_graceful_shutdown=_CLOSING_SECONDS,
        )  # fmt: skip
        super().__init__(config)
        self._service, self._greeting = service, greeting
        self._deadline: float | None = None
        self.signal: signal.Signals | None = None  # that ended it

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.drain, number)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what is there now stays: to look through it again and again held all streams for 0.2 s each time
        say(self._greeting)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `serve`."""
        yield

    def drain(self, number: signal.Signals) -> None:
        """Begin to end; the second time, end."""
        seconds = self._service.limits.drain_seconds if self.signal is None else 0.0
        self.signal = self.signal or number
        self._deadline = time.monotonic() + seconds
        self._service.drain()
        if self._service.num_open and seconds:
            say(f"ending: {self._service.num_open} requests may go on for {seconds:g} s; again ends at once")

    async def on_tick(self, counter: int) -> bool:
        if self._deadline is not None:
            if time.monotonic() >= self._deadline:
                self._service.fail_all()
                self.should_exit = True
            elif self._service.num_open == 0:
                self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that nobody can connect to yet.

    Raises:
        ConfigError: the address is none of this machine's, or in use.
    """
    with contextlib.ExitStack() as on_error:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = on_error.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform == "linux":  # what a client does not take in this time is given up, with its connection
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MILLISECONDS)
            bound.bind(address)
        except OSError as error:
            raise ConfigError(
                f"cannot serve at {host}:{port}: {(error.strerror or str(error)).lower()}",
                "choose another --port (0: any that is free), or another --host",
            ) from None
        on_error.pop_all()
        return bound
