"""Metrics go to files: one JSON line per record in ``metrics.jsonl``, the same numbers to TensorBoard."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lumi.artifacts import write_atomically
from lumi.progress import say

METRICS = "metrics.jsonl"


class MetricsLog:
    """The metrics of one run; a resumed run gets back exactly the records that its checkpoint had.

    Args:
        folder: the run's folder; None on all ranks but the first, where nothing is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self._board: Any = None
        self._is_behind = False  # the file lacks records that could not be written

    def restore(self, records: list[dict[str, Any]]) -> None:
        """Start from these records; what an interrupted run logged after its checkpoint is dropped."""
        self.records = list(records)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / METRICS, _lines(self.records))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it must have a ``step``. A full disk does not end the run: it is written later."""
        self.records.append(record)
        if self.folder is None:
            return
        try:
            if self._is_behind:
                write_atomically(self.folder / METRICS, _lines(self.records))
            else:
                with (self.folder / METRICS).open("ab") as file:
                    file.write(_lines([record]))
            self._is_behind = False
            self._show(self.folder, record)
        except OSError as error:
            if not self._is_behind:
                say(f"WARNING: {self.folder / METRICS} cannot be written: {error.strerror}; training goes on")
            self._is_behind = True

    def _show(self, folder: Path, record: dict[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=record["step"])
        for name, value in _flat(record):
            self._board.add_scalar(name, value, record["step"])
        for number, sample in enumerate(record.get("samples", ())):
            self._board.add_text(f"sample {number}", f"**{sample['prompt']}**{sample['text']}", record["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def memory_bytes(device: torch.device) -> int:
    """Return the highest memory use so far: allocated by torch on a card, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def card_temperature(device: torch.device) -> int | None:
    """Return a card's temperature in degrees Celsius; None for a CPU, and where the driver does not tell."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.temperature(device)
    except (ImportError, RuntimeError):
        return None


def _lines(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _flat(record: dict[str, Any]) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            out += [(f"{name}/{key}", float(v)) for key, v in value.items()]
        elif isinstance(value, int | float) and name != "step":
            out.append((name, float(value)))
    return out
