"""Ranks: who this process is among those that train together, read from the launcher's environment.

`python`, `accelerate launch`, `torchrun` and Slurm's srun all end here; accelerate is a launcher only. Tensors
travel by the device's own backend (NCCL, gloo); what the hosts tell one another goes over gloo, so that it never
waits for a device.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from lumi.devices import DeviceName
from lumi.errors import ConfigError, LumiError
from lumi.model import choose_device
from lumi.progress import say
from lumi.training.heartbeat import Heartbeat

_MEETING = timedelta(minutes=5)  # how long ranks wait for one another at the start


class Channel:
    """Messages between the hosts of all ranks; every rank makes the same calls in the same order.

    A thread that talks while others do needs a channel of its own.
    """

    def __init__(self, world_size: int = 1) -> None:
        self.world_size = world_size
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON value of every rank, in their order, on all ranks."""
        if self._group is None:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        longest = int(max(size.item() for size in sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(parts, padded, group=self._group)
        return [json.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]

    def from_first(self, value: Any) -> Any:
        """Return rank 0's JSON value on all ranks."""
        return self.gather(value)[0]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Say of each flag whether any rank has set it; all ranks get the same answer."""
        if self._group is None:
            return flags
        seen = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(seen, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(bool(flag) for flag in seen.tolist())


@dataclass(frozen=True)
class Ranks:
    """This process's place."""

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    hosts: Channel = field(default_factory=Channel)  # of the main threads
    heartbeat: Heartbeat | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on all ranks; the tensor itself is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        self.hosts.any(False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let an error of any rank end all of them, told once, by rank 0.

        Raises:
            LumiError: as raised inside, in a process that is alone.
            SystemExit: 1 on every rank, where there are several.
        """
        error: LumiError | None = None
        try:
            yield
        except LumiError as raised:
            error = raised
        if self.world_size == 1:
            if error is not None:
                raise error
            return
        told = self.hosts.gather(None if error is None else str(error))
        if any(told):
            if self.is_first:
                for text in dict.fromkeys(text for text in told if text):
                    on = [str(rank) for rank, other in enumerate(told) if other == text]
                    say(f"error: {text}" if len(on) == self.world_size else f"error on rank {', '.join(on)}: {text}")
            self.barrier()  # a launcher ends the others as soon as one has gone
            raise SystemExit(1)

    def require_agreement(self, facts: Mapping[str, Any]) -> None:
        """Check that all ranks see the same.

        Raises:
            ConfigError: they do not; names what differs.
        """
        seen = self.hosts.gather(facts)
        for name in facts:
            values = [each.get(name) for each in seen]
            if len({json.dumps(value) for value in values}) > 1:
                shown = ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
                raise ConfigError(
                    f"the ranks do not agree on {name} ({shown})", "give every node the same files and command"
                )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the failures by which a lost rank shows into one clear error.

        Raises:
            LumiError: the connection to another rank broke.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _is_lost_connection(error):
                raise
            raise LumiError(
                f"rank {self.rank} lost the connection to another rank, which has ended or hangs",
                "its own output says why; the same command resumes from the newest checkpoint",
            ) from None

    def close(self, *, failed: bool = False) -> None:
        """Leave the group; after a failure of this rank alone, the others are told to end."""
        if self.heartbeat is not None:
            self.heartbeat.stop(failed=failed)
        if dist.is_initialized() and not failed:  # nothing more may be waited for
            dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    return any(sign in str(error) for sign in ("gloo", "Connection closed by peer", "NCCL"))


def join_ranks(device: DeviceName = "auto") -> Ranks:
    """Join the process group that the launcher describes (RANK, WORLD_SIZE, LOCAL_RANK, or Slurm's names).

    Raises:
        ConfigError: the launcher's variables do not fit together; CUDA was asked for and there is none.
        LumiError: the other ranks did not come.
    """
    launched, rank, world_size, local_rank = _place()
    place = choose_device(device, index=local_rank)
    if place.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"local rank {local_rank} has no card: this machine has {torch.cuda.device_count()}",
                "start at most one process per card (--nproc_per_node, --num_processes, --ntasks-per-node)",
            )
        torch.cuda.set_device(place)
    if not launched or dist.is_initialized():
        return Ranks(rank, world_size, place, local_rank)
    backend = "nccl" if place.type == "cuda" else "gloo"
    try:
        store, _, _ = next(rendezvous("env://", rank, world_size, timeout=_MEETING))
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=world_size,
            device_id=place if backend == "nccl" else None,
        )  # fmt: skip
        channel = Channel(world_size)
        channel.any(False)  # all are here
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LumiError(
            f"rank {rank} of {world_size} could not meet the others at {address}: {str(error).splitlines()[0]}",
            "check that all are started with one WORLD_SIZE, address and port, each with its own RANK",
        ) from None
    heartbeat = Heartbeat(PrefixStore("heartbeat", store), rank, world_size) if world_size > 1 else None
    return Ranks(rank, world_size, place, local_rank, channel, heartbeat)


def _place() -> tuple[bool, int, int, int]:
    """Return whether a launcher started this process, and its rank, world size and local rank.

    Raises:
        ConfigError: the variables do not fit together.
    """
    names = _names()
    given = [name for name in names if name in os.environ]
    if not given:
        return False, 0, 1, 0
    shown = ", ".join(f"{name}={os.environ[name]}" for name in given)
    way_out = "start it with torchrun, accelerate launch or srun (docs/scaling.md), or unset these variables"
    try:
        rank, world_size, local_rank = (
            int(os.environ.get(name, default)) for name, default in zip(names, ("0", "1", "0"), strict=True)
        )
    except ValueError:
        raise ConfigError(f"the launcher's variables are not whole numbers: {shown}", way_out) from None
    if not 0 <= rank < world_size or local_rank < 0:
        raise ConfigError(f"the launcher's variables do not fit together: {shown}", way_out)
    meeting = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world_size > 1 and (missing := [*(set(names[:2]) - set(given)), *meeting]):
        raise ConfigError(f"there are {world_size} ranks ({shown}), but {', '.join(missing)} is not set", way_out)
    return not meeting, rank, world_size, local_rank


def _names() -> Sequence[str]:
    slurm = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    if {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    # An interactive Slurm shell sets these too; without an address to meet at, it is no parallel job.
    if "MASTER_ADDR" in os.environ and slurm[0] in os.environ:
        return slurm
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ConfigError(
            f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} tasks, but MASTER_ADDR and MASTER_PORT are not set:"
            " each would train alone, into one folder",
            "use scripts/slurm.sbatch, which sets them",
        )
    return ("RANK", "WORLD_SIZE", "LOCAL_RANK")
