"""What a finished run left behind, read for its report: metrics, results, samples, cost, and the chain behind it.

RUN/metrics.jsonl  RUN/final/run.json  RUN/samples.json  RUN/evaluation/.../results.json or RESULTS_DIR/.../results.json
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lumi.artifacts import MANIFEST, sha256_file
from lumi.config import read_json_object
from lumi.errors import DataError
from lumi.evaluation.results import RESULTS, Evaluation
from lumi.training import METRICS, read_metrics, read_run
from lumi.training.checkpoint import STATE
from lumi.training.cost import Cost, cost_of
from lumi.training.lineage import Ancestor, MakingStep, making_steps, trace

SAMPLES = "samples.json"
Points = tuple[list[float], list[float]]  # steps (or tokens), values


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Answers:
    """A prompt of a run's own validations, and what the model wrote after it at the first and at the last of them."""

    prompt: str
    first: str | None
    last: str


@dataclass(frozen=True)
class RunRecord:
    """A run as it lies on disk; parts that are not there are None or empty."""

    folder: Path
    checkpoint: Path
    run: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: Evaluation | None
    results: Path | None  # the folder of these results
    samples: tuple[Sample, ...]
    lineage: tuple[Ancestor, ...]  # the checkpoint first
    steps: tuple[MakingStep, ...]
    costs: dict[str, Cost]  # of the models behind it, the earliest first, and of the run itself; by label

    @property
    def name(self) -> str:
        return str(self.run.get("config", {}).get("name") or self.folder.name)

    @property
    def label(self) -> str:
        """Its folders, by which runs of one name are told apart."""
        return _label(self.folder)

    @property
    def cost(self) -> Cost:
        return self.costs[self.label]

    @property
    def loss_unit(self) -> str:
        return "nats per pair" if self.learns_preferences else "nats per token"

    def series(self, key: str) -> Points:
        """Return (steps, values) of one metric, non-finite records left out."""
        found = [(r["step"], r[key]) for r in self.metrics if isinstance(r.get(key), (int, float))]
        return [step for step, _ in found], [value for _, value in found]

    def validation(self, key: str = "val_loss") -> dict[str, Points]:
        """Return (steps, values) of one figure on every data set's held-out rows."""
        out: dict[str, Points] = {}
        for record in self.metrics:
            for name, value in (record.get(key) or {}).items():
                steps, values = out.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
        return out

    @property
    def learns_preferences(self) -> bool:
        return bool(self.validation("val_preference_accuracy"))

    def answers(self) -> list["Answers"]:
        """Return what the run wrote to each of its prompts at its first and at its last validation."""
        asked = [record for record in self.metrics if record.get("samples")]
        if not asked:
            return []
        first, last = ({s["prompt"]: s["text"] for s in asked[place]["samples"]} for place in (0, -1))
        return [Answers(prompt, first.get(prompt), text) for prompt, text in last.items()]

    def written(self) -> dict[str, str]:
        """Return what the finished model wrote to each prompt, from wherever it is recorded."""
        generation = self.evaluation.generation if self.evaluation else None
        return {
            **{answer.prompt: answer.last for answer in self.answers()},
            **{sample.prompt: sample.text for sample in self.samples},
            **{sample.prompt: sample.text for sample in (generation.samples if generation else ())},
        }

    def artifacts(self, kind: str) -> list[Ancestor]:
        return [ancestor for ancestor in self.lineage if ancestor.kind == kind and ancestor.manifest]


def read_run_record(path: Path, results_dir: Path = Path("evaluation_results")) -> RunRecord:
    """Read a run folder, or the run that a checkpoint folder belongs to.

    Args:
        path: of the run or of the checkpoint.
        results_dir: where its results are looked for when the run's own folder has none.

    Raises:
        DataError: nothing there that could be reported on.
        IntegrityError: a manifest is damaged.
    """
    checkpoint = _find_checkpoint(path)
    folder = path if path != checkpoint else path.parent
    run = read_json_object(checkpoint / "run.json")
    # a run goes on after a step_N that is asked for by name
    metrics = _metrics(checkpoint if path == checkpoint else folder, checkpoint)
    costs = {_label(_run_folder(base)): _cost(base) for base in _bases(run)}
    costs |= {_label(folder): cost_of(checkpoint, metrics, run.get("tokens", 0))}
    measured = find_evaluation(folder, results_dir, sha256_file(checkpoint / MANIFEST))
    return RunRecord(
        folder=folder,
        checkpoint=checkpoint,
        run=run,
        metrics=metrics,
        evaluation=measured[0] if measured else None,
        results=measured[1] if measured else None,
        samples=_read_samples(folder / SAMPLES),
        lineage=trace(checkpoint),
        steps=making_steps(checkpoint),
        costs=costs,
    )


def _find_checkpoint(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"no run at {path}", "name a run folder such as checkpoints/pretrain/tiny, or its final/")
    steps = sorted(path.glob("step_*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for candidate in (path / "run.json", path / "final" / "run.json", *steps):
        if candidate.is_file() and (candidate.parent / MANIFEST).is_file():
            return candidate.parent
    raise DataError(f"{path} holds no complete checkpoint", "train first; the report is about a trained model")


def _metrics(folder: Path, checkpoint: Path) -> list[dict[str, Any]]:
    """Return the log in a folder, else that of the checkpoint."""
    found = next((p for p in (folder / METRICS, checkpoint / STATE / METRICS) if p.is_file()), None)
    return read_metrics(found) if found else []


def find_evaluation(folder: Path, results_dir: Path, model_sha256: str) -> tuple[Evaluation, Path] | None:
    """Return the results of the model whose manifest has this sha256, and where they lie: the run's own folder, or
    below ``results_dir``.

    Raises:
        DataError: there is one results file at all, and it cannot be read.
    """
    own = [folder / "evaluation" / RESULTS, *sorted((folder / "evaluation").glob(f"*/{RESULTS}"))]
    candidates = [path for path in (*own, *sorted(results_dir.glob(f"*/{RESULTS}"))) if path.is_file()]
    unreadable = []
    for path in candidates:
        try:
            found = Evaluation.model_validate_json(path.read_bytes())
        except ValidationError:  # damaged, or of another version
            unreadable.append(path)
            continue
        if found.model.sha256 == model_sha256:
            return found, path.parent
    if unreadable and len(candidates) == 1:
        raise DataError(
            f"{unreadable[0]} is not a results file of this version", "run the evaluation again, or delete the file"
        )
    return None


def _read_samples(path: Path) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(Sample(str(s["prompt"]), str(s["text"])) for s in json.loads(path.read_text(encoding="utf8")))
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a list of {{prompt, text}}", "write the samples again, or delete it") from None


def _bases(run: dict[str, Any]) -> Sequence[Path]:
    """Return the checkpoints that a model came from, the earliest first, as far back as they are still there."""

    def back(run: dict[str, Any]) -> Iterator[Path]:
        while "base" in run and ((path := Path(run["base"]["path"])) / "run.json").is_file():
            yield path
            run = read_run(path)

    return list(back(run))[::-1]


def _cost(checkpoint: Path) -> Cost:
    return cost_of(checkpoint, _metrics(checkpoint, checkpoint), read_run(checkpoint).get("tokens", 0))


def _run_folder(checkpoint: Path) -> Path:
    return checkpoint.parent if checkpoint.name in ("final", "best") or "step_" in checkpoint.name else checkpoint


def _label(folder: Path) -> str:
    return "/".join(folder.resolve().parts[-2:]).lstrip("/")
