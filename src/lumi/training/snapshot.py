"""A moment of a run, copied to the host while training goes on.

On a card the copies run beside the next forward and backward pass, which only read what is copied; the step that
would overwrite it waits for them (`HostCopies.let_finish`). Nothing in this waits on the host's side.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class Snapshot:
    """Tensors on their way to the host.

    Args:
        tensors: on the host; valid once ``arrived``.
        arrived: when the last of them is there; None: they are.
        sources: kept alive until then.
    """

    def __init__(
        self, tensors: dict[str, Tensor], arrived: "torch.cuda.Event | None" = None, sources: object = None
    ) -> None:
        self._tensors, self._arrived, self._sources = tensors, arrived, sources

    def tensors(self) -> dict[str, Tensor]:
        """Wait for the copies and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived = self._sources = None
        return self._tensors


class HostCopies:
    """Makes snapshots. On a card they share one set of buffers: one must be done with before the next is taken."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._buffers: dict[str, Tensor] = {}
        self._arrived: torch.cuda.Event | None = None

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Get the buffers that a snapshot of these will need: page-locking gigabytes takes a while."""
        if self._stream is None:
            return
        for name, tensor in tensors.items():
            held = self._buffers.get(name)
            if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
                self._buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def take(self, tensors: Mapping[str, Tensor]) -> Snapshot:
        """Begin to copy tensors to the host."""
        if self._stream is None:
            return Snapshot({name: tensor.detach().clone() for name, tensor in tensors.items()})
        self.reserve(tensors)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, tensor in tensors.items():
                self._buffers[name].copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(self._stream)
        return Snapshot({name: self._buffers[name] for name in tensors}, self._arrived, dict(tensors))

    def let_finish(self) -> None:
        """Let what the device does next begin after the copies; called before copied tensors are overwritten."""
        if self._arrived is not None:
            torch.cuda.current_stream().wait_event(self._arrived)
            self._arrived = None
