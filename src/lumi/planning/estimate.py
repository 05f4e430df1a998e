"""The plan: what can be computed of a run from its config and its card alone.

config --> parameters, tokens, FLOPs, disk
  + memory of a card --> the largest micro-batch --> bytes by part
  + a speed (measured, given, or estimated) --> hours
"""

import itertools
import math
from dataclasses import dataclass

import torch

from lumi.errors import ConfigError
from lumi.model import (
    Memory,
    Parameters,
    count_parameters,
    largest_micro_batch,
    training_flops_per_token,
    training_memory,
)
from lumi.planning.config import PlanConfig
from lumi.planning.probe import Measurement
from lumi.training.cards import find_card, recognize_card

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter, all parameters counted (arXiv:2203.15556)."""
FILL = 0.9
"""Share of a card's memory to plan with: the rest is for CUDA itself and what the allocator cannot use."""
PRESETS_GB = (8, 16, 24)
GIB = 2**30
# Width and share of an H200's peak at rows of 1024 tokens: docs/results.md, scripts/04_pretrain.py
_UTILISATION = ((256, 0.271), (512, 0.371), (768, 0.408))
_RECOMPUTE_TIME = 4 / 3  # one more forward pass beside a forward and a backward one, which costs two


@dataclass(frozen=True)
class Target:
    """What one rank runs on; ``peak_tflops`` is None where it is not known."""

    name: str
    memory_bytes: int
    peak_tflops: float | None
    compute_bytes: int  # of an activation


@dataclass(frozen=True)
class Fit:
    """A micro-batch and what its step takes."""

    micro_batch_size: int
    recompute: bool
    memory: Memory


@dataclass(frozen=True)
class Preset:
    """What to pass on a card of some size; None where not even one row fits."""

    memory_gb: int
    fit: Fit | None


@dataclass(frozen=True)
class Speed:
    """Training speed of all cards together, and where the figure is from."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True)
class Plan:
    """What a run costs; bytes and tokens are whole numbers, memory is that of one card."""

    name: str
    target: Target
    num_gpus: int
    parameters: Parameters
    chinchilla_tokens: int
    tokens: int
    flops: float
    fit: Fit  # of the run as it is asked for, or as near to it as fits
    fit_is_as_asked: bool
    largest_kept: Fit | None  # all activations kept
    largest_recomputed: Fit | None
    presets: tuple[Preset, ...]
    speed: Speed | None
    measured: Measurement | None
    packed_bytes: int
    checkpoint_bytes: int
    num_checkpoints: int  # on disk at once, at most

    @property
    def hours(self) -> float | None:
        return None if self.speed is None else self.tokens / self.speed.tokens_per_second / 3600

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters.total


def make_plan(config: PlanConfig, target: Target, measured: Measurement | None = None) -> Plan:
    """Compute the plan of a run on a target.

    Raises:
        ConfigError: not even one row fits with activation checkpointing.
    """
    parameters = count_parameters(config.model)
    length, training = config.model.sequence_length, config.training
    tokens = config.schedule.max_steps * training.batch_size * length
    kept, recomputed = (_largest(config, target, recompute=recompute) for recompute in (False, True))
    fit, as_asked = _choose_fit(config, target)
    saves = math.ceil(config.schedule.max_steps / training.save_interval(config.schedule))
    return Plan(
        name=config.name,
        target=target,
        num_gpus=config.num_gpus,
        parameters=parameters,
        chinchilla_tokens=TOKENS_PER_PARAMETER * parameters.total,
        tokens=tokens,
        flops=tokens * training_flops_per_token(config.model, length),
        fit=fit,
        fit_is_as_asked=as_asked,
        largest_kept=kept,
        largest_recomputed=recomputed,
        presets=tuple(_preset(config, size) for size in PRESETS_GB),
        speed=_speed(config, target, fit, measured),
        measured=measured,
        # rows of uint16; each holds the first token of the next one too
        packed_bytes=2 * (length + 1) * config.schedule.max_steps * training.batch_size,
        checkpoint_bytes=12 * parameters.total,  # float32 weights and AdamW's two moments
        # beside the newest ones there are the best, and the one that is being written
        num_checkpoints=saves if training.save_total_limit is None else min(saves, training.save_total_limit + 2),
    )


def find_target(config: PlanConfig) -> Target:
    """Return the card that the config names, else this machine's, else its CPU.

    Raises:
        ConfigError: the card is not known.
    """
    training = config.training
    here = torch.cuda.is_available() and training.device != "cpu"
    if config.card is not None:
        card = find_card(config.card)
        name, memory, tflops = card.name, card.memory_gib * GIB, card.tflops
    elif config.memory_gb is not None:
        name, memory, tflops = "a card", 0.0, None
    elif here:
        properties = torch.cuda.get_device_properties(0)
        known = recognize_card(properties.name)
        name, memory, tflops = properties.name, properties.total_memory, known.tflops if known else None
    else:
        import psutil

        name, memory, tflops = "the CPU of this machine", psutil.virtual_memory().total, None
    is_cpu = not (config.card or config.memory_gb or here)
    narrow = training.precision in ("bf16", "fp16") or (training.precision == "auto" and not is_cpu)
    if not narrow:
        tflops = None  # the table is about 16 bits
    return Target(
        name=name,
        memory_bytes=int(memory if config.memory_gb is None else config.memory_gb * GIB),
        peak_tflops=training.peak_tflops or tflops,
        compute_bytes=2 if narrow else 4,
    )


def estimated_utilisation(d_model: int) -> float:
    """Return the share of the peak that a model of this width reached on an H200, interpolated between widths."""
    if d_model <= _UTILISATION[0][0]:
        return _UTILISATION[0][1]
    for (left, low), (right, high) in itertools.pairwise(_UTILISATION):
        if d_model <= right:
            return low + (high - low) * (d_model - left) / (right - left)
    return _UTILISATION[-1][1]


def _fit(config: PlanConfig, target: Target, micro_batch_size: int, *, recompute: bool) -> Fit:
    memory = training_memory(
        config.model,
        micro_batch_size=micro_batch_size,
        sequence_length=config.model.sequence_length,
        compute_bytes=target.compute_bytes,
        recompute=recompute,
        shards=_shards(config),
    )
    return Fit(micro_batch_size, recompute, memory)


def _largest(config: PlanConfig, target: Target, *, recompute: bool) -> Fit | None:
    size = largest_micro_batch(
        config.model,
        rows=config.rows_per_rank,
        memory_bytes=int(FILL * target.memory_bytes),
        sequence_length=config.model.sequence_length,
        compute_bytes=target.compute_bytes,
        recompute=recompute,
        shards=_shards(config),
    )
    return None if size is None else _fit(config, target, size, recompute=recompute)


def _choose_fit(config: PlanConfig, target: Target) -> tuple[Fit, bool]:
    """Return the run's step as asked for, else the nearest that fits; and which of the two it is."""
    training = config.training
    recompute = training.activation_checkpointing
    if training.micro_batch_size is not None:
        asked = _fit(config, target, min(training.micro_batch_size, config.rows_per_rank), recompute=recompute)
        if asked.memory.total <= FILL * target.memory_bytes:
            return asked, True
    largest = _largest(config, target, recompute=recompute)
    if largest is not None:
        return largest, training.micro_batch_size is None
    recomputed = _largest(config, target, recompute=True)
    if recomputed is not None:
        return recomputed, False
    need = _fit(config, target, 1, recompute=True).memory.total / GIB / FILL
    raise ConfigError(
        f"{config.name} cannot be trained on {target.name} with {target.memory_bytes / GIB:.1f} GiB: one row of"
        f" {config.model.sequence_length} tokens with activation checkpointing takes {need:.1f} GiB, a reserve of"
        f" {1 - FILL:.0%} included",
        "use a smaller model, a shorter sequence_length, or --parallel fsdp with a larger --num_gpus",
    )


def _preset(config: PlanConfig, memory_gb: int) -> Preset:
    """Return the largest micro-batch without recomputation, which costs time; with it where nothing else fits."""
    # a card computes in 16 bits, also where this machine would not
    card = Target(f"{memory_gb} GB", memory_gb * GIB, None, 4 if config.training.precision == "fp32" else 2)
    for recompute in (False, True):
        fit = _largest(config, card, recompute=recompute)
        if fit is not None:
            return Preset(memory_gb, fit)
    return Preset(memory_gb, None)


def _shards(config: PlanConfig) -> int:
    return config.num_gpus if config.training.parallel == "fsdp" else 1


def _speed(config: PlanConfig, target: Target, fit: Fit, measured: Measurement | None) -> Speed | None:
    cards = f", times {config.num_gpus} cards" if config.num_gpus > 1 else ""
    if config.tokens_per_second is not None:
        return Speed(config.tokens_per_second * config.num_gpus, f"as given{cards}")
    if measured is not None:
        return Speed(
            measured.tokens_per_second * config.num_gpus, f"measured here in {measured.num_steps} steps{cards}"
        )
    if target.peak_tflops is None:
        return None
    share = estimated_utilisation(config.model.d_model)
    per_token = training_flops_per_token(config.model, config.model.sequence_length)
    slower = _RECOMPUTE_TIME if fit.recompute else 1.0
    return Speed(
        target.peak_tflops * 1e12 * share / per_token / slower * config.num_gpus,
        f"ESTIMATED, not measured: {share:.1%} of {target.peak_tflops:g} TFLOP/s; docs/results.md has that share for an"
        f" H200 at widths {', '.join(str(width) for width, _ in _UTILISATION)}"
        f"{'; checkpointing takes a third more time' if fit.recompute else ''}{cards}",
    )
