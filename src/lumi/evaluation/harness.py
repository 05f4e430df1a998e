"""Tasks of lm-eval (the EleutherAI harness), used as a library: it writes prompts and counts, our engine scores.

    test set --> rows --> lm-eval's task --> requests --> our engine --> log-probabilities
                                                 lm-eval's metrics, row by row <--+

The task definitions are lm-eval's own, unchanged; only where rows come from is set (local files, or the hub).
"""

import contextlib
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lumi.artifacts import Input, canonical_json, file_input, sha256_bytes
from lumi.corpus.evaluation_sets import EvaluationSet
from lumi.errors import DataError
from lumi.evaluation.config import TaskName
from lumi.evaluation.language_model import LanguageModel, hub_out_of_reach
from lumi.evaluation.likelihood import Request, fit, score_continuations
from lumi.evaluation.perplexity import score_documents
from lumi.evaluation.results import Figure, Outcomes, TaskResult
from lumi.evaluation.significance import accuracy_error
from lumi.evaluation.task_rows import local_rows
from lumi.inference import GenerationConfig


@dataclass(frozen=True)
class TaskSpec:
    """One of lm-eval's tasks: its definition, and what is reported of it."""

    definition: str
    """Below lm-eval's folder of tasks."""
    evaluation_set: str
    """Its name in config/evaluation."""
    split: str
    metric: str
    """The accuracy that the literature reports for it."""
    rows: int
    """Of the whole split."""


TASKS: dict[TaskName, TaskSpec] = {
    "boolq": TaskSpec("super_glue/boolq/default.yaml", "boolq", "validation", "acc", 3270),
    "hellaswag": TaskSpec("hellaswag/hellaswag.yaml", "hellaswag", "validation", "acc_norm", 10042),
    "lambada": TaskSpec("lambada/lambada_openai.yaml", "lambada", "test", "acc", 5153),
    "arc_easy": TaskSpec("arc/arc_easy.yaml", "arc_easy", "test", "acc", 2376),
    "arc_challenge": TaskSpec("arc/arc_challenge.yaml", "arc_challenge", "test", "acc_norm", 1172),
    "piqa": TaskSpec("piqa/piqa.yaml", "piqa", "validation", "acc", 1838),
    "winogrande": TaskSpec("winogrande/default.yaml", "winogrande", "validation", "acc", 1267),
    "openbookqa": TaskSpec("openbookqa/openbookqa.yaml", "openbookqa", "test", "acc_norm", 500),
}


@dataclass(frozen=True)
class LoadedTask:
    """A task with its rows."""

    name: TaskName
    task: Any  # lm_eval.api.task.ConfigurableTask
    evaluation_set: EvaluationSet
    files: tuple[Path, ...]  # none: from the hub

    @property
    def rows(self) -> int:
        return len(self.task.eval_docs)

    def inputs(self, relative_to: Path) -> tuple[Input, ...]:
        """Name what the rows are read from, by sha256: files, or all rows that the hub gave."""
        if self.files:
            return tuple(file_input(path, relative_to) for path in self.files)
        digest = sha256_bytes(canonical_json([dict(row) for row in self.task.eval_docs]))
        return (Input(path=f"hub:{self.task.DATASET_PATH}", sha256=digest),)


class LumiHarness:
    """Builds tasks and runs them; made once for an evaluation, as the hub may be found out of reach.

    Args:
        sets: the declared evaluation sets by name.
        data_dir: where their files may lie.

    Raises:
        DataError: lm-eval is not installed.
    """

    def __init__(self, sets: dict[str, EvaluationSet], data_dir: Path) -> None:
        try:
            import lm_eval
        except ImportError:
            raise DataError(
                "tasks need lm-eval, which is not installed",
                "pip install 'lumi-lab[eval]', or leave the tasks out: --tasks with nothing behind it",
            ) from None
        import datasets

        for name in ("lm_eval", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        self.version = str(lm_eval.__version__)
        self._definitions = Path(lm_eval.__file__).parent / "tasks"
        self._loaded: dict[TaskName, LoadedTask] = {}
        self._sets, self._data_dir = sets, data_dir
        self._hub_error: str | None = None

    def load(self, name: TaskName) -> LoadedTask:
        """Find a task's rows and build it.

        Raises:
            DataError: no local files and no hub, or files that are damaged.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: TaskName) -> LoadedTask:
        spec = TASKS[name]
        evaluation_set = self._sets[spec.evaluation_set]
        local = local_rows(evaluation_set, self._data_dir)
        if local is not None:
            task = self._build(spec, {spec.split: local.rows})
            return LoadedTask(name, task, evaluation_set, local.files)
        if self._hub_error is None:
            self._hub_error = hub_out_of_reach("dataset", self._definition(spec)["dataset_path"])
        if self._hub_error:
            raise DataError(
                f"{evaluation_set.title} is not in {self._data_dir}, and the hub is out of reach ({self._hub_error})",
                f"name the folder that has it (--data_dir), or leave it out (--tasks); {evaluation_set.name} may lie"
                f" there as {evaluation_set.layouts[0].files[0]}",
            )
        try:
            return LoadedTask(name, self._build(spec, None), evaluation_set, ())
        except OSError as error:
            raise DataError(
                f"{evaluation_set.title} did not come from the hub: {type(error).__name__}: {error}",
                "try again later, or name the folder that has it (--data_dir)",
            ) from None

    def _definition(self, spec: TaskSpec) -> dict[str, Any]:
        from lm_eval.tasks._yaml_loader import load_yaml  # the index of all 12,000 tasks takes seconds to build

        found: dict[str, Any] = load_yaml(self._definitions / spec.definition)
        return found

    def _build(self, spec: TaskSpec, rows: dict[str, list[dict[str, Any]]] | None) -> Any:
        from datasets import Dataset, DatasetDict
        from lm_eval.api.task import ConfigurableTask

        config = self._definition(spec)
        for key in ("tag", "group"):
            config.pop(key, None)
        if rows is not None:
            try:
                splits = DatasetDict({split: Dataset.from_list(found) for split, found in rows.items()})
            except (TypeError, ValueError) as error:  # pyarrow's, where a column has values of several types
                raise DataError(
                    f"the rows of {spec.evaluation_set} do not go together: {error}",
                    "mend the file: one type a column, or take the column out",
                ) from None
            config["custom_dataset"] = lambda **_: splits
            for split in ("training_split", "validation_split", "test_split"):  # only what is there
                if config.get(split) not in (None, spec.split):
                    config[split] = None
        return ConfigurableTask(config=config)


def run_task(model: LanguageModel, loaded: LoadedTask, *, max_rows: int | None) -> tuple[TaskResult, Outcomes]:
    """Score a task's rows and count.

    Raises:
        DataError: an answer longer than the model's context, or a model that gives no number.
    """
    spec, title = TASKS[loaded.name], loaded.evaluation_set.title
    adapter = make_adapter(model, label=title)
    rows = answer(loaded.task, adapter, max_rows)
    accuracies: dict[str, Figure] = {}
    for metric in ("acc", "acc_norm"):
        if metric in rows[0].metrics:
            values = np.array([float(row.metrics[metric]) for row in rows])
            accuracies[metric] = Figure(value=float(values.mean()), standard_error=accuracy_error(values))
    chance, majority = _baselines(rows)
    result = TaskResult(
        task=loaded.name,
        title=title,
        protocol=_protocol(loaded, len(rows)),
        rows=len(rows),
        rows_of_the_whole_set=spec.rows,
        metric=spec.metric,
        accuracies=accuracies,
        chance=chance,
        majority=majority,
        perplexity=_perplexity(rows),
        truncated=adapter.truncated,
    )
    sha = sha256_bytes(canonical_json([row.requests for row in rows]))
    outcomes = tuple(float(row.metrics[spec.metric]) for row in rows)
    return result, Outcomes(pairing=f"{spec.metric} of {sha}", values=outcomes, weights=(1.0,) * len(outcomes))


@dataclass(frozen=True)
class AnsweredRow:
    """One row of a task after scoring."""

    requests: list[tuple[str, str]]  # prompt and answer, each
    right: str  # which of them: its place, or the answer itself where there is one only
    metrics: dict[str, Any]  # as lm-eval judges it


def answer(task: Any, lm: Any, max_rows: int | None) -> list[AnsweredRow]:
    """Put the rows of a task of lm-eval to any of its models, and let it judge the responses of each."""
    with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own for what takes a second
        task.build_all_requests(limit=max_rows, rank=0, world_size=1)
    kind = task.instances[0].request_type
    for instance, response in zip(task.instances, getattr(lm, kind)(task.instances), strict=True):
        instance.resps.append(response)
    task.apply_filters()
    instances = defaultdict(list)
    for instance in task.instances:
        instances[instance.doc_id].append(instance)
    rows = []
    for number in sorted(instances):
        asked = sorted(instances[number], key=lambda instance: instance.idx)
        (found,) = asked[0].filtered_resps
        metrics = task.process_results(asked[0].doc, [instance.filtered_resps[found] for instance in asked])
        # where prompts differ and not the answers (WinoGrande), lm-eval has the place of the right one as the prompt
        right = task.doc_to_text(asked[0].doc) if task.multiple_input else task.doc_to_target(asked[0].doc)
        rows.append(AnsweredRow([(str(i.args[0]), str(i.args[-1])) for i in asked], str(right), metrics))
    return rows


def make_adapter(model: LanguageModel, *, label: str = "scoring") -> Any:
    """Return one of our models as lm-eval's `LM`; ``truncated`` counts prompts whose beginning was cut off."""
    from lm_eval.api.model import TemplateLM

    class Adapter(TemplateLM):  # type: ignore[misc]  # lm-eval is imported only where it is used
        truncated = 0

        @property
        def eot_token_id(self) -> int:
            return model.prefix

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return [*(model.begin if add_special_tokens is not False else ()), *model.encode(string)]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
            return found

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            asked = [Request(tuple(prompt), tuple(continuation)) for _, prompt, continuation in requests]
            self.truncated += len({one.prompt for one in asked if fit(one, model.context)[1]})
            return [(one.log_prob, one.greedy) for one in score_continuations(model, asked, label=label)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            texts = [request.args[0] for request in requests]
            return [-score_documents(model, [text], window=model.context)[0].nats if text else 0.0 for text in texts]

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            return [_generate(model, *request.args) for request in requests]

    return Adapter()


def _generate(model: LanguageModel, prompt: str, options: dict[str, Any]) -> str:
    """Continue one prompt, greedily unless sampling is asked for, up to the first of its stop texts."""
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    length = int(options.get("max_gen_toks", options.get("max_new_tokens", 256)))
    temperature = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
    ids = [*model.begin, *model.encode(prompt)][-max(model.context - length, 1) :]
    settings = GenerationConfig(max_new_tokens=length, temperature=temperature, top_p=float(options.get("top_p", 1.0)))
    text = model.complete([ids], settings)[0].text
    ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _baselines(rows: Sequence[AnsweredRow]) -> tuple[float, float | None]:
    """Return the accuracy of guessing, and that of always giving the answer at the place that is right most often."""
    if all(len(row.requests) == 1 for row in rows):
        return 0.0, None
    chance = float(np.mean([1 / len(row.requests) for row in rows]))
    return chance, Counter(row.right for row in rows).most_common(1)[0][1] / len(rows)


def _perplexity(rows: Sequence[AnsweredRow]) -> float | None:
    """Return the perplexity of answers, where lm-eval gives the log-probability of the only one."""
    if "perplexity" not in rows[0].metrics:
        return None
    mean = -float(np.mean([float(row.metrics["perplexity"]) for row in rows]))
    return float(np.exp(mean)) if mean < 700 else None


def _protocol(loaded: LoadedTask, rows: int) -> str:
    import lm_eval

    where = ", ".join(path.name for path in loaded.files) if loaded.files else f"the hub ({loaded.task.DATASET_PATH})"
    part = "" if rows == loaded.rows else f", its first {rows:,} rows"
    return f"lm-eval {lm_eval.__version__} {loaded.task.config.task}, no examples in the prompt; rows of {where}{part}"
