"""Metrics go to files: one JSON line per record in ``metrics.jsonl``, the same numbers to TensorBoard."""

import json
from pathlib import Path
from typing import Any

import torch

METRICS = "metrics.jsonl"

# Dense matmul TFLOP/s in bf16/fp16 by the vendors' datasheets (no sparsity).
_PEAK_TFLOPS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10G": 70.0,
    "RTX 4090": 165.2, "RTX 4080": 97.5, "RTX 3090": 71.0, "RTX 5090": 209.5, "V100": 125.0, "T4": 65.0,
}  # fmt: skip


def peak_flops(device: torch.device, override_tflops: float | None) -> float | None:
    """Return the device's highest FLOP/s, or None where it is not known (utilisation is then left out)."""
    if override_tflops is not None:
        return override_tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for card, peak in _PEAK_TFLOPS.items() if card in name), None)


class MetricsLog:
    """The metrics of one run; a resumed run gets back exactly the records that its checkpoint had.

    Args:
        folder: the run's folder; None on all ranks but the first, where nothing is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self._board: Any = None

    def restore(self, records: list[dict[str, Any]]) -> None:
        """Start from these records; what an interrupted run logged after its checkpoint is dropped."""
        self.records = records
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / METRICS).write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it must have a ``step``."""
        self.records.append(record)
        if self.folder is None:
            return
        with (self.folder / METRICS).open("a", encoding="utf8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=record["step"])
        for name, value in _flat(record):
            self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def _flat(record: dict[str, Any]) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            out += [(f"{name}/{key}", float(v)) for key, v in value.items()]
        elif name != "step" and value is not None:
            out.append((name, float(value)))
    return out
