r"""What a finished run left behind, read for its report: metrics, results, samples and the chain of artifacts.

RUN/metrics.jsonl  RUN/final/run.json  RUN/evaluation/results.json  RUN/samples.json
    checkpoint --> packed data --> corpus --> raw files
                               \-> tokenizer --> corpus
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lumi.artifacts import MANIFEST, RUN_INFO, Manifest, read_manifest, sha256_file
from lumi.config import read_json_object
from lumi.errors import ConfigError, DataError
from lumi.evaluation.results import RESULTS, Evaluation
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.training import METRICS, read_metrics

SAMPLES = "samples.json"


@dataclass(frozen=True)
class Ancestor:
    """One artifact or raw file that the model came from."""

    path: Path
    kind: str
    sha256: str | None  # of its manifest (of its bytes for a raw file) as it is now; None: not there any more
    expected: str | None  # as its descendant names it
    depth: int
    manifest: Manifest | None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def matches(self) -> bool:
        return self.sha256 is not None and self.expected in (None, self.sha256)


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
    samples: tuple[Sample, ...]
    lineage: tuple[Ancestor, ...]  # the checkpoint first
    command: tuple[str, ...]

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return (steps, values) of one metric, non-finite records left out."""
        found = [(r["step"], r[key]) for r in self.metrics if isinstance(r.get(key), (int, float))]
        return [step for step, _ in found], [value for _, value in found]

    def validation(self, key: str = "val_loss") -> dict[str, tuple[list[float], list[float]]]:
        """Return (steps, values) of one figure on every data set's held-out rows."""
        out: dict[str, tuple[list[float], list[float]]] = {}
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

    def artifacts(self, kind: str) -> list[Ancestor]:
        return [ancestor for ancestor in self.lineage if ancestor.kind == kind and ancestor.manifest]


def read_run_record(path: Path) -> RunRecord:
    """Read a run folder, or the run that a checkpoint folder belongs to.

    Raises:
        DataError: nothing there that could be reported on.
        IntegrityError: a manifest is damaged.
    """
    checkpoint = _find_checkpoint(path)
    folder = path if path != checkpoint else path.parent
    run = read_json_object(checkpoint / "run.json")
    metrics = next((p for p in (folder / METRICS, checkpoint / "training_state" / METRICS) if p.is_file()), None)
    info = checkpoint / RUN_INFO
    return RunRecord(
        folder=folder,
        checkpoint=checkpoint,
        run=run,
        metrics=read_metrics(metrics) if metrics else [],
        evaluation=_read_evaluation(folder / "evaluation" / RESULTS),
        samples=_read_samples(folder / SAMPLES),
        lineage=tuple(_trace_checkpoint(checkpoint, run)),
        command=tuple(read_json_object(info).get("command", ())) if info.is_file() else (),
    )


def _find_checkpoint(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"no run at {path}", "name a run folder such as checkpoints/pretrain/tiny, or its final/")
    steps = sorted(path.glob("step_*/run.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for candidate in (path / "run.json", path / "final" / "run.json", *steps):
        if candidate.is_file() and (candidate.parent / MANIFEST).is_file():
            return candidate.parent
    raise DataError(f"{path} holds no complete checkpoint", "train first; the report is about a trained model")


def _read_evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValidationError:
        raise DataError(f"{path} is not a results file of this version", "run the evaluation again") from None


def _read_samples(path: Path) -> tuple[Sample, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(Sample(str(s["prompt"]), str(s["text"])) for s in json.loads(path.read_text(encoding="utf8")))
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not a list of {{prompt, text}}", "write the samples again, or delete it") from None


def _trace_checkpoint(checkpoint: Path, run: dict[str, Any]) -> Iterator[Ancestor]:
    yield from _trace(checkpoint, None, 0, set())
    yield from _trace_ingredients(run, 1, set())


def _trace_ingredients(run: Mapping[str, Any], depth: int, seen: set[Path]) -> Iterator[Ancestor]:
    """Yield what a run was made from: its data, and below the model that it began with that model's own."""
    for data in run.get("data", []):
        yield from _trace(Path(data["path"]), data["manifest_sha256"], depth, seen)
    base = run.get("base")
    if base is None:
        return
    path, expected = Path(base["path"]), base["weights_sha256"]
    if not (path / MANIFEST).is_file():
        yield Ancestor(path, "not here any more", None, expected, depth, None)
        return
    manifest = read_manifest(path, CHECKPOINT, "train it again")
    weights = next((out.sha256 for out in manifest.outputs if out.file == WEIGHTS), None)
    yield Ancestor(path, "model to begin with", weights, expected, depth, manifest)
    yield from _trace_ingredients(read_json_object(path / "run.json"), depth + 1, seen)


def _trace(path: Path, expected: str | None, depth: int, seen: set[Path]) -> Iterator[Ancestor]:
    """Yield an artifact and, below it, what it was made from; each one once."""
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    manifest_path = path / MANIFEST
    if path.is_file():
        yield Ancestor(path, "raw file", sha256_file(path), expected, depth, None)
        return
    if not manifest_path.is_file():
        yield Ancestor(path, "not here any more", None, expected, depth, None)
        return
    try:
        kind = str(read_json_object(manifest_path).get("kind"))
    except ConfigError:
        kind = "artifact"  # damaged: read_manifest says how
    manifest = read_manifest(path, kind, "build it again")
    yield Ancestor(path, kind, sha256_file(manifest_path), expected, depth, manifest)
    for source in manifest.inputs:
        yield from _trace(path / source.path, source.sha256, depth + 1, seen)
