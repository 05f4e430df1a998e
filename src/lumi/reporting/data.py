"""report.json: what the page shows, as data."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lumi.reporting.curves import last_mix
from lumi.reporting.run_comparison import config_differences, named
from lumi.reporting.run_record import Points, RunRecord

FORMAT_VERSION = 1
_CURVES = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "utilisation", "reward_chosen", "reward_rejected",
           "reward_margin", "preference_accuracy", "log_prob_chosen", "log_prob_rejected")  # fmt: skip
_HELD_OUT = ("val_loss", "val_preference_accuracy", "val_reward_margin", "val_kl")


def report_data(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the facts of one or several runs as JSON values; numbers that are not finite are null."""
    data: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "run" if len(records) == 1 else "comparison",
        "runs": [_run(record) for record in records],
    }
    if len(records) > 1:
        by_name = named(records)
        data["names"] = list(by_name)
        data["config_differences"] = config_differences(by_name)
    found: dict[str, Any] = _finite(data)
    return found


def _run(record: RunRecord) -> dict[str, Any]:
    run = record.run
    kept = ("parameters", "step", "tokens", "data", "phases", "base", "tokenizer_sha256", "versions", "git_commit",
            "config")  # fmt: skip
    return {
        "name": record.name,
        "folder": str(record.folder),
        "checkpoint": record.checkpoint.name,
        "sha256": record.lineage[0].sha256,
        **{key: run[key] for key in kept if key in run},
        "curves": {key: _points(points) for key in _CURVES if (points := record.series(key))[0]},
        "held_out": {
            key: {name: _points(points) for name, points in found.items()}
            for key in _HELD_OUT
            if (found := record.validation(key))
        },
        "mix": last_mix(record.metrics),
        "costs": {
            label: {**asdict(cost), "device_hours": cost.device_hours, "hours_of": cost.hours_of}
            for label, cost in record.costs.items()
        },
        "evaluation": record.evaluation.resolved() if record.evaluation else None,
        "samples": [asdict(sample) for sample in record.samples],
        "answers": [asdict(answer) for answer in record.answers()],
        "lineage": [
            {"kind": a.kind, "name": a.name, "sha256": a.sha256, "expected": a.expected, "depth": a.depth,
             "matches": a.matches} for a in record.lineage
        ],
        "commands": [asdict(step) for step in record.steps],
    }  # fmt: skip


def _points(points: Points) -> dict[str, list[float]]:
    return {"steps": points[0], "values": points[1]}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
