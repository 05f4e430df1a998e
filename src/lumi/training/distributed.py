"""Ranks: who this process is among those that train together, read from the launcher's environment.

`python`, `accelerate launch`, `torchrun` and Slurm's srun all end here; accelerate is a launcher only.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lumi.model import DeviceName, choose_device


@dataclass(frozen=True)
class Ranks:
    """This process's place."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks, on all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any rank; every rank gets the same answer."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item() > 0)

    def close(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _place_names() -> list[tuple[str, str]]:
    # An interactive Slurm shell sets SLURM_NTASKS too; without an address to meet at, it is no parallel job.
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and "MASTER_ADDR" in os.environ:
        return [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_LOCALID", "0")]
    return [("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")]


def join_ranks(device: DeviceName = "auto") -> Ranks:
    """Join the process group that the launcher describes (RANK, WORLD_SIZE, LOCAL_RANK, or Slurm's names).

    Raises:
        ConfigError: CUDA was asked for and there is none.
    """
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in _place_names())
    place = choose_device(device, index=local_rank)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", rank=rank, world_size=world_size)
    return Ranks(rank, world_size, place)
