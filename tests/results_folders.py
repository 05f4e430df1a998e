"""Results folders made by hand: figures whose pieces are known."""

import json

import numpy as np

from lumi.artifacts import sha256_file
from lumi.evaluation.results import (
    Evaluation,
    Figure,
    Measurement,
    Outcomes,
    Part,
    Subject,
    TaskResult,
    write_part,
    write_results,
)
from lumi.evaluation.significance import accuracy_error, ratio_error

TINY, SMALL = 23_072_000, 83_898_880


def subject(name="pretrain-tiny-final", *, sha256=None, parameters=TINY, tokenizer="t" * 64, path=None):
    return Subject(
        name=name,
        path=path or f"checkpoints/{name}",
        kind="lumi",
        sha256=sha256 or name.ljust(64, "0"),
        tokenizer_sha256=tokenizer,
        parameters=parameters,
        context=1024,
    )


def task_part(
    right, name="boolq", *, title="BoolQ", pairing="rows", metric="acc", chance=0.5, majority=0.622, whole=None
):
    right = [float(one) for one in right]
    figure = Figure(value=float(np.mean(right)), standard_error=accuracy_error(right))
    task = TaskResult(
        task=name, title=title, protocol="zero-shot", rows=len(right), rows_of_the_whole_set=whole or len(right),
        metric=metric, accuracies={metric: figure}, chance=chance, majority=majority,
    )  # fmt: skip
    outcomes = Outcomes(pairing=f"{metric} of {pairing}", values=tuple(right), weights=(1.0,) * len(right))
    return Part(name=f"task-{name}", key="k", model_sha256="s", task=task, outcomes=outcomes)


def first_right(share, rows=3270):
    """Rows of which the first ones are answered right."""
    return np.arange(rows) < round(share * rows)


def text_part(
    bits, sizes, name="wiki.test.raw", *, mode="stream", pairing="text", tokens=None, window=1024, kind="text"
):
    bits, sizes = np.asarray(bits, dtype=float), np.asarray(sizes, dtype=float)
    nats = float(bits.sum() * np.log(2))
    tokens = tokens or int(sizes.sum() / 4)
    measured = Measurement(
        name=f"{name} ({mode})" if kind == "text" else name, mode=mode, protocol=f"{mode}, window {window}",
        window=window, stride=window // 2, nats=nats, tokens=tokens, words=int(sizes.sum() / 5), bytes=int(sizes.sum()),
        token_perplexity=float(np.exp(nats / tokens)), word_perplexity=None, byte_perplexity=None,
        bits_per_byte=float(bits.sum() / sizes.sum()), standard_error=ratio_error(bits, sizes),
    )  # fmt: skip
    outcomes = Outcomes(pairing=pairing, values=tuple(bits.tolist()), weights=tuple(sizes.tolist()))
    return Part(name=f"{kind}-{name}-{mode}", key="k", model_sha256="s", outcomes=outcomes, **{kind: measured})


def text_of(perplexity, *, name="wiki.test.raw", mode="stream"):
    """A text of 400 pieces of 1,000 bytes, 4 bytes a token, with this token perplexity."""
    hardness = 1 + 0.05 * np.random.default_rng(0).standard_normal(400)
    bits = hardness / hardness.sum() * np.log2(perplexity) * 100_000
    return text_part(bits, np.full(400, 1000.0), name, mode=mode)


def write_folder(folder, model, parts, **more):
    """Write results as an evaluation does; return the folder."""
    found = {
        "held_out": tuple(part.held_out for part in parts if part.held_out),
        "text": tuple(part.text for part in parts if part.text),
        "tasks": tuple(part.task for part in parts if part.task),
    }
    for part in parts:
        write_part(folder, part)
    write_results(folder, Evaluation(model=model, settings={}, **{**found, **more}))
    return folder


def trained(root, run=None, metrics=(), *, folder="run", parameters=TINY):
    """Write what a finished run leaves below ``root``/``folder``; return it as a subject."""
    final = root / folder / "final"
    (final / "training_state").mkdir(parents=True, exist_ok=True)
    record = {
        "config": {"name": "tiny", "optimizer": {"learning_rate": 0.004}},
        "parameters": {"total": TINY},
        "step": 7040,
        "tokens": 20 * TINY,
        **(run or {}),
    }
    (final / "run.json").write_text(json.dumps(record))
    outputs = [{"file": "model.safetensors", "sha256": f"weights of {folder}"}]
    (final / "manifest.json").write_text(json.dumps({"outputs": outputs}))
    lines = "".join(json.dumps(line) + "\n" for line in metrics)
    (final / "training_state/metrics.jsonl").write_text(lines)
    return subject(
        f"{folder}-final", sha256=sha256_file(final / "manifest.json"), parameters=parameters, path=str(final)
    )
