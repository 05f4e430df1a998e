"""Tasks by our engine and by lm-eval's own `hf` model, on the same checkpoint and rows: same answers, how much faster.

    python benchmarks/evaluation.py --model_path checkpoints/pretrain/tiny/final --data_dir data/evaluation

Both get the same task objects of lm-eval (prompts, metrics) and are timed over the log-likelihood call alone, its
tokenization included: writing prompts and judging is common to both. Both compute in float32.
"""

import argparse
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from lumi.corpus.evaluation_sets import find_layout, load_evaluation_sets
from lumi.evaluation.config import ALL_TASKS
from lumi.evaluation.harness import TASKS, LumiHarness, answer, make_adapter
from lumi.evaluation.language_model import load_language_model
from lumi.evaluation.perplexity import read_documents, score_documents
from lumi.evaluation.task_rows import local_rows


class Timed:
    """A model of lm-eval whose calls are timed."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.seconds = lm, 0.0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.lm, name)
        if name not in ("loglikelihood", "loglikelihood_rolling"):
            return call

        def timed(requests: Any) -> Any:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            found = call(requests)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - started
            return found

        return timed


def peer(path: Path, device: str, batch_size: int, *, add_bos: bool) -> Any:
    from lm_eval.models.huggingface import HFLM

    options = {"device": device, "dtype": "float32", "batch_size": batch_size}
    return HFLM(pretrained=str(path), add_bos_token=add_bos, **options)


def compare_task(name: Any, arguments: argparse.Namespace, model: Any, theirs: Any) -> dict[str, Any]:
    sets = {one.name: one for one in load_evaluation_sets(arguments.evaluation_sets)}
    found = {}
    for who, lm in (("ours", make_adapter(model)), ("hf", theirs)):
        task = LumiHarness(sets, arguments.data_dir).load(name).task  # each its own, as it keeps the responses
        timed = Timed(lm)
        share = arguments.share
        rows = answer(task, timed, arguments.max_rows if share is None else max(1, int(share * len(task.eval_docs))))
        found[who] = ([row.metrics for row in rows], timed.seconds)
    metric = TASKS[name].metric
    ours, hf = ([float(row[metric]) for row in found[who][0]] for who in ("ours", "hf"))
    return {
        "task": name,
        "metric": metric,
        "rows": len(ours),
        "ours": sum(ours) / len(ours),
        "hf": sum(hf) / len(hf),
        "rows_that_differ": sum(one != other for one, other in zip(ours, hf, strict=True)),
        "ours_seconds": found["ours"][1],
        "hf_seconds": found["hf"][1],
    }


def compare_wikitext(arguments: argparse.Namespace, model: Any, theirs: Any) -> dict[str, Any] | None:
    """lm-eval's `wikitext`: its detokenizer and its counts, through both; and our own documents mode beside it."""
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    sets = {one.name: one for one in load_evaluation_sets(arguments.evaluation_sets)}
    local = local_rows(sets["wikitext2"], arguments.data_dir)
    if local is None:
        return None
    import lm_eval

    pages = local.rows[: arguments.max_rows]
    out: dict[str, Any] = {"pages": len(pages)}
    for who, lm in (("ours", make_adapter(model)), ("hf", theirs)):
        config = load_yaml(Path(lm_eval.__file__).parent / "tasks/wikitext/wikitext.yaml")
        config |= {"custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list(pages)})}
        config |= {"training_split": None, "validation_split": None}
        timed = Timed(lm)
        rows = answer(ConfigurableTask(config=config), timed, None)
        nats, words = (sum(row.metrics["word_perplexity"][place] for row in rows) for place in (0, 1))
        text_bytes = sum(row.metrics["bits_per_byte"][1] for row in rows)
        out[who] = {
            "word_perplexity": math.exp(-nats / words),
            "bits_per_byte": -nats / math.log(2) / text_bytes,
            "seconds": timed.seconds,
        }
    layout = find_layout(sets["wikitext2"], arguments.data_dir)
    assert layout is not None
    score, _ = score_documents(
        model, read_documents(layout[1][0])[: arguments.max_rows], window=model.context, batch_size=32
    )
    out["documents mode, text as it is"] = {"bits_per_byte": score.bits_per_byte}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, default=Path("data/evaluation"))
    parser.add_argument("--evaluation_sets", type=Path, default=Path("config/evaluation"))
    parser.add_argument("--tasks", nargs="*", default=list(ALL_TASKS))
    parser.add_argument("--max_rows", type=int, default=None)
    parser.add_argument("--share", type=float, default=None, help="of each task's rows, the first ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peer_batch_size", type=int, default=16, help="of the hf model")
    parser.add_argument("--output", type=Path, default=None, help="JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)

    model = load_language_model(arguments.model_path, device=torch.device(arguments.device), dtype=torch.float32)
    theirs = peer(arguments.model_path, arguments.device, arguments.peer_batch_size, add_bos=True)
    results = []
    for name in arguments.tasks:
        results.append(compare_task(name, arguments, model, theirs))
        print(json.dumps(results[-1]), flush=True)
    # it puts one before every text by itself
    rolling = peer(arguments.model_path, arguments.device, arguments.peer_batch_size, add_bos=False)
    wikitext = compare_wikitext(arguments, model, rolling)
    print(json.dumps(wikitext), flush=True)

    print(f"\n{'task':14} {'rows':>6} {'ours':>7} {'hf':>7} {'differ':>7} {'ours s':>8} {'hf s':>8} {'times':>6}")
    for one in results:
        print(
            f"{one['task']:14} {one['rows']:6,} {one['ours']:7.4f} {one['hf']:7.4f} {one['rows_that_differ']:7}"
            f" {one['ours_seconds']:8.2f} {one['hf_seconds']:8.2f} {one['hf_seconds'] / one['ours_seconds']:6.1f}"
        )
    ours, hf = (sum(one[key] for one in results) for key in ("ours_seconds", "hf_seconds"))
    print(f"{'all':14} {sum(one['rows'] for one in results):6,} {ours:40.2f} {hf:8.2f} {hf / ours:6.1f}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"tasks": results, "wikitext": wikitext}, indent=1) + "\n")


if __name__ == "__main__":
    main()
