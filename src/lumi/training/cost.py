"""What a training run took: time, devices, memory, arithmetic; worked out from what its folder records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from lumi.artifacts import RUN_INFO
from lumi.config import read_json_object
from lumi.training.checkpoint import STATE
from lumi.training.status import read_status

HOW_TIME_IS_KNOWN = (
    "Time is that of the training steps: tokens divided by the logged tokens per second, line by line. Validation,"
    " saving and work that an interruption undid are not in it."
)


@dataclass(frozen=True)
class Cost:
    """What a run took; None is what was not recorded."""

    device: str | None  # name of the card, or CPU
    ranks: int | None
    machine_cpus: int | None  # of the machine that finished it
    seconds: float | None  # of the training steps
    tokens_per_second: float | None  # median, over all ranks
    flops: float | None  # the model's own, of all steps
    utilisation: float | None  # median
    memory_bytes: int | None  # highest, of the first rank

    @property
    def device_hours(self) -> float | None:
        return None if self.seconds is None or self.ranks is None else self.ranks * self.seconds / 3600

    @property
    def hours_of(self) -> str:
        """What `device_hours` are hours of."""
        return {None: "Device hours", "CPU": "CPU hours"}.get(self.device, "GPU hours")

    def rows(self) -> list[tuple[str, str]]:
        """Return (what, value) of all that is known."""
        found = {
            "Device": self.device and (f"{self.ranks} x {self.device}" if self.ranks else self.device),
            "CPUs of the machine": f"{self.machine_cpus}" if self.machine_cpus and self.device == "CPU" else None,
            "Training time": _shown(self.seconds, duration),
            self.hours_of: _shown(self.device_hours, lambda hours: f"{hours:,.3g}"),
            "Tokens per second, median": _shown(self.tokens_per_second, lambda rate: f"{rate:,.0f}"),
            "Model FLOPs": _shown(self.flops, lambda flops: f"{flops:.3g}"),
            "Share of peak FLOP/s, median": _shown(self.utilisation, lambda share: f"{share:.1%}"),
            "Peak memory": _shown(self.memory_bytes, lambda size: f"{size / 2**30:.2f} GiB"),
        }
        return [(what, value) for what, value in found.items() if value]


def _shown(value: Any, form: Any) -> str | None:
    return None if value is None else form(value)


def duration(seconds: float) -> str:
    """Write a time in the two units that matter: 3 h 20 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def cost_of(checkpoint: Path, metrics: Sequence[Mapping[str, Any]], tokens: int) -> Cost:
    """Work out what a checkpoint took.

    Args:
        checkpoint: its folder; what lies beside it names the device.
        metrics: the lines of its log.
        tokens: that it was trained on; those after the last line of the log went at that line's rate.
    """
    state_file, info = checkpoint / STATE / "state.json", checkpoint / RUN_INFO
    state = read_json_object(state_file) if state_file.is_file() else {}
    status = read_status(checkpoint.parent) or {}
    lines = [line for line in metrics if line.get("tokens_per_second") and line.get("tokens")]
    spans = _spans(lines, tokens)
    rates = [line["tokens_per_second"] for line in lines]
    flops = [line.get("flops_per_second") for line in lines]
    whole = bool(lines) and all(flops)
    return Cost(
        device=status.get("device"),
        ranks=state.get("world_size", status.get("world_size")),
        machine_cpus=read_json_object(info).get("cpus") if info.is_file() else None,
        seconds=sum(spans) if lines else None,
        tokens_per_second=median(rates) if rates else None,
        flops=sum(rate * span for rate, span in zip(flops, spans, strict=True) if rate) if whole else None,
        utilisation=_median(line.get("utilisation") for line in lines),
        memory_bytes=max((line["memory_bytes"] for line in metrics if line.get("memory_bytes")), default=None),
    )


def _spans(lines: Sequence[Mapping[str, Any]], tokens: int) -> list[float]:
    """Return the seconds that the tokens up to each line took since the line before.

    The clock of the log starts anew at validations and saves, so its own ``seconds`` leave out steps before those.
    """
    ends = [line["tokens"] for line in lines]
    if ends:
        ends[-1] = max(ends[-1], tokens)
    begins = [0, *ends][: len(ends)]
    return [
        max(end - begin, 0) / line["tokens_per_second"] for line, begin, end in zip(lines, begins, ends, strict=True)
    ]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
