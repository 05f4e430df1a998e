"""The optimiser: torch's fused AdamW, with decay on matrices alone, and steps skipped on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lumi.config import Config


class OptimizerConfig(Config):
    """AdamW (arXiv:1711.05101)."""

    learning_rate: float = Field(gt=0)
    """Highest learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decay of matrices; norms and embeddings are never decayed."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger global norm are scaled down to it."""


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """Build the optimiser over the trainable ones of these parameters."""
    decayed: list[nn.Parameter] = []
    bare: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            (decayed if parameter.ndim == 2 and "embed" not in name else bare).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": bare, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def step_unless_bad(optimizer: torch.optim.AdamW, bad: Tensor) -> None:
    """Apply the step, or nothing at all where ``bad`` (a device scalar) is true; the host does not wait."""
    optimizer.found_inf = bad.float()  # type: ignore[attr-defined]  # the fused kernel's own switch
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


def optimizer_tensors(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Return the optimiser's state, on its device: ``exp_avg.NAME``, ``exp_avg_sq.NAME``, ``step.NAME``."""
    return {
        f"{kind}.{name}": value.detach()
        for name, parameter in parameters.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.AdamW, read: Callable[[str, str], Tensor]
) -> None:
    """Put `optimizer_tensors` back.

    Args:
        parameters: by name.
        optimizer: over these.
        read: gives the tensor of a kind (``exp_avg``) and a parameter's name.
    """
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            optimizer.state[parameter] = {
                kind: read(kind, name).to(parameter.device, copy=True) for kind in ("step", "exp_avg", "exp_avg_sq")
            }
