"""Workers on a Ray cluster: the same functions as in `lumi.workers`, on other machines too.

Every node needs this version of Lumi. The driver reads the sources and writes the result; nodes need no common
folder. A task whose node dies is done again on another: tasks are pure functions, so that changes nothing.
"""

import importlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from lumi.errors import DataError
from lumi.workers import Shared

T = TypeVar("T")


class RayPool:
    """The CPUs of a Ray cluster; leaving the ``with`` block ends this program's tasks and leaves the cluster.

    Args:
        address: of a running cluster (``auto``, ``HOST:PORT``); None starts one on this machine.

    Raises:
        DataError: Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise DataError("--engine ray needs Ray, which is not installed", "pip install 'lumi-lab[ray]'") from None
        self._ray = ray
        local = {} if address else {"include_dashboard": False}
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="error", **local)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"no Ray cluster at {address}: {reason}",
                "start one (ray start --head, and ray start --address=... on each node), or use --engine native",
            ) from None
        self._task = ray.remote(num_cpus=1, max_retries=3)(_call)
        self.num_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run a function somewhere in the cluster."""
        future: Future[T] = self._task.remote(function, *arguments).future()
        return future

    def share(self, value: T) -> "Shared[T]":
        """Hand a value to every node once."""
        return _InCluster(self._ray.put(value))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()
        failures = self._ray.exceptions
        if isinstance(error, failures.RayTaskError):  # the function's own error, wrapped
            raise error.cause from None
        if isinstance(error, failures.RayError):
            raise DataError(
                f"the Ray cluster failed: {str(error).splitlines()[0]}",
                "run the same command again: what was finished is kept, and --engine native may finish it too",
            ) from None


@dataclass(frozen=True)
class _InCluster:
    reference: Any

    def get(self) -> Any:
        return importlib.import_module("ray").get(self.reference)  # from the node's own store, arrays not copied


def _knock(address: str | None) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, separator, port = (address or "").rpartition(":")
    if separator and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _call(function: Callable[..., T], *arguments: Any) -> T:
    return function(*arguments)
