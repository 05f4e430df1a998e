"""How the ranks share the work: whole replicas (DDP), or weights, gradients and optimiser in shards (FSDP2).

    ddp     every rank holds everything; gradients are summed over ranks after the backward pass
    fsdp    every rank holds its rows of each parameter; a block's parameters are gathered while it runs

The Trainer works on *local* parameters: plain tensors that share memory with this rank's part of the model. With
replicas they are the parameters themselves.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lumi.errors import ConfigError
from lumi.model import Llama
from lumi.training.config import ParallelName
from lumi.training.distributed import Ranks
from lumi.training.objective import LossModule


class Replicas:
    """Every rank holds the whole model."""

    def __init__(self, module: LossModule, ranks: Ranks, *, compiled: bool) -> None:
        self.ranks = ranks
        self.parameters: dict[str, nn.Parameter] = dict(module.model.named_parameters())
        self._model = module.model
        # Compiled inside: torch's splitting of a graph around DDP's buckets cannot hold our own autograd function.
        inner = torch.compile(module, dynamic=False) if compiled else module
        self.module: Any = inner
        if ranks.world_size > 1:
            devices = [ranks.device.index] if ranks.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 renames an option that 2.11 needs
                self.module = nn.parallel.DistributedDataParallel(
                    inner, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def accumulating(self, *, last: bool) -> Any:
        """Hold back the summing over ranks until the last micro-batch."""
        return self.module.no_sync() if self.ranks.world_size > 1 and not last else nullcontext()

    def gradients(self) -> list[Tensor]:
        """Return the gradients of the local parameters."""
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the global norm of the gradients."""
        return torch.nn.utils.get_total_norm(gradients)

    def whole_weights(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        """Return the whole parameters of the wanted names, on the device."""
        return {name: parameter.detach() for name, parameter in self.parameters.items() if wanted(name)}

    def rows_of(self, name: str) -> tuple[int, int] | None:
        """Return which rows of a parameter this rank holds; None: all."""
        return None

    @contextmanager
    def whole_model(self) -> Iterator[Llama]:
        """Give the model for use outside a training step; all ranks do the same with it."""
        self._model.eval()
        yield self._model
        self._model.train()


class Shards:
    """Every rank holds its rows of each parameter."""

    def __init__(self, module: LossModule, ranks: Ranks, *, compiled: bool) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.ranks, self.module = ranks, module
        self._model = module.model
        mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
        narrow = self._model.compute_dtype != torch.float32
        # gathered in the type they are used in; gradients are summed in float32
        policy = MixedPrecisionPolicy(
            param_dtype=self._model.compute_dtype if narrow else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        self._sizes = {name: len(parameter) for name, parameter in self._model.named_parameters()}
        for block in self._model.model.layers:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        if compiled:  # in pieces: torch breaks the graph where a block's parameters are gathered
            module.compile(dynamic=False)
        fully_shard(module, mesh=mesh, mp_policy=policy)
        self._sharded = dict(self._model.named_parameters())
        self.parameters = {
            name: nn.Parameter(sharded.to_local().detach(), requires_grad=sharded.requires_grad)  # type: ignore[attr-defined]
            for name, sharded in self._sharded.items()
        }

    def accumulating(self, *, last: bool) -> Any:
        """Keep the summing over ranks in every micro-batch: unsummed gradients would be whole, not in shards."""
        return nullcontext()

    def gradients(self) -> list[Tensor]:
        """Hand the gradients to the local parameters, and return them."""
        for name, sharded in self._sharded.items():
            if sharded.grad is not None:
                self.parameters[name].grad = sharded.grad.to_local()  # type: ignore[attr-defined]
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def clear_gradients(self) -> None:
        for name, sharded in self._sharded.items():
            sharded.grad = self.parameters[name].grad = None

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the global norm of the gradients, those of the other ranks' rows included."""
        return self.ranks.sum(torch.nn.utils.get_total_norm(gradients).square()).sqrt()

    def whole_weights(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        """Gather the whole parameters of the wanted names, on the device."""
        chosen = {name: parameter.detach() for name, parameter in self._sharded.items() if wanted(name)}
        return {name: parameter.full_tensor() for name, parameter in chosen.items()}  # type: ignore[attr-defined]

    def rows_of(self, name: str) -> tuple[int, int] | None:
        """Return which rows of a parameter this rank holds."""
        size = self._sizes[name]
        share = -(-size // self.ranks.world_size)
        start = min(self.ranks.rank * share, size)
        return start, min(start + share, size)

    @contextmanager
    def whole_model(self) -> Iterator[Llama]:
        """Give the model for use outside a training step; all ranks do the same with it."""
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(self.module, FSDPModule)
        self._model.eval()
        # no step may have been made yet, and a block that runs before the root is known would take itself for it
        self.module._get_fsdp_state()._lazy_init()
        self.module.unshard()  # embedding, norm and head; the blocks gather themselves
        yield self._model
        self.module.reshard()
        self._model.train()


def parallelize(module: LossModule, ranks: Ranks, parallel: ParallelName, *, compiled: bool) -> Replicas | Shards:
    """Spread a module over the ranks.

    Raises:
        ConfigError: sharding was asked for, and there is nobody to share with.
    """
    if parallel == "ddp":
        return Replicas(module, ranks, compiled=compiled)
    require_shardable(ranks)
    return Shards(module, ranks, compiled=compiled)


def require_shardable(ranks: Ranks) -> None:
    """Check that there is a process group to shard over.

    Raises:
        ConfigError: there is none.
    """
    if not dist.is_initialized() or (ranks.world_size == 1 and ranks.device.type == "cpu"):
        raise ConfigError(
            "parallel fsdp shards the model over several processes, and this is a single one",
            "start it with torchrun --nproc_per_node N, or use --parallel ddp",
        )
