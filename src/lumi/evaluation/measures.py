"""The parts of an evaluation: what decides each, and how it is made."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumi.artifacts import MANIFEST, Input, artifact_input, file_input, manifest_key, sha256_bytes, sha256_file
from lumi.config import read_json_object
from lumi.conversation import Template, read_template
from lumi.corpus.evaluation_sets import EvaluationSet, load_evaluation_sets
from lumi.data import ShardedTokenizedDataset
from lumi.data.dataset import PACKED
from lumi.errors import ConfigError, DataError
from lumi.evaluation.baselines import bits_per_byte, trigram_nats, xz_bits_per_byte
from lumi.evaluation.config import EvaluateConfig, TaskName, TextMode
from lumi.evaluation.harness import LumiHarness, run_task
from lumi.evaluation.language_model import LumiModel, TransformersModel
from lumi.evaluation.perplexity import (
    Blocks,
    HeldOut,
    join_rows,
    read_documents,
    read_held_out,
    score_documents,
    score_held_out,
    score_stream,
)
from lumi.evaluation.results import Compression, Measurement, Outcomes, Part, Subject
from lumi.evaluation.significance import ratio_error
from lumi.evaluation.smoke import SmokePrompts, ask_stages, earlier_models, write_samples
from lumi.evaluation.task_rows import local_rows
from lumi.inference import GenerationConfig
from lumi.progress import progress, say
from lumi.tokenizer import require_same_tokenizer

WIKITEXT = "wikitext2"
_VERSION = 1  # raised when a part comes to mean something else, so that old ones are measured anew

_PACKED = (
    "all held-out rows of {length:,} tokens, each seen from its own beginning; attention crosses documents within a"
    " row. Scored: every text token and each document's end </s>; never <s> or padding. Bytes and words are those of"
    " the documents."
)
_STREAM = (
    "{whole} as one stream behind <s>, a window of {window:,} tokens moved by {stride:,}; each token is scored"
    " once, with at least {context:,} tokens before it (fewer at the start of the text). Scored: every text token;"
    " no <s>, no </s>. Words are separated by whitespace."
)
_DOCUMENTS = (
    "{whole}, each on its own behind <s>, in windows of {window:,} tokens that do not overlap, the last one of a"
    " document reaching back to be full, as lm-eval does it. Scored: every text token; no <s>, no </s>. Words are"
    " separated by whitespace."
)


@dataclass(frozen=True)
class Bench:
    """What every measure works with."""

    config: EvaluateConfig
    model_path: Path
    model: LumiModel | TransformersModel
    subject: Subject
    folder: Path
    dtype: torch.dtype

    @property
    def identity(self) -> tuple[str, str]:
        """What every part depends on: the model, and the type that it computes in."""
        return self.subject.sha256, str(self.dtype).removeprefix("torch.")

    @property
    def template(self) -> Template | None:
        return read_template(self.model_path) if isinstance(self.model, LumiModel) else None

    @cached_property
    def earlier(self) -> list[Path]:
        """The models that this one came from, the earliest first."""
        return earlier_models(self.model_path)

    @property
    def generation(self) -> GenerationConfig:
        config = self.config
        return GenerationConfig(max_new_tokens=config.max_new_tokens, temperature=0.7, top_p=0.95, seed=config.seed)


@dataclass(frozen=True)
class Measure:
    """One part of an evaluation: what decides it, and how it is made. Inputs are looked up only when it is its turn."""

    name: str
    settings: dict[str, Any]
    inputs: Callable[[], tuple[Input, ...]]
    run: Callable[[], dict[str, Any]]
    model_sha256: str
    dtype: str

    def key(self, subject: Subject) -> tuple[str, tuple[Input, ...]]:
        inputs = self.inputs()
        model = Input(path=subject.path, sha256=subject.sha256)
        decides = {**self.settings, "dtype": self.dtype, "version": _VERSION}
        return manifest_key(f"evaluation {self.name}", decides, (model, *inputs)), inputs

    def make(self, key: str, inputs: tuple[Input, ...]) -> Part:
        started = time.monotonic()
        part = Part(name=self.name, key=key, model_sha256=self.model_sha256, inputs=inputs, **self.run())
        say(f"{self.name}: {time.monotonic() - started:,.1f} s")
        return part


def measures(bench: Bench) -> Iterator[Measure]:
    """Yield what is to be measured. What the user named and is not there, or does not fit, is an error at once."""
    config = bench.config
    window, stride = _window(config, bench.model.context)
    datasets = [_open(path, bench.model) for path in _data_dirs(bench)]
    for dataset in datasets:
        yield _held_out_measure(bench, dataset)
    wanted = config.tasks or (config.text_modes and not config.text_files and config.evaluation_sets.is_dir())
    declared = load_evaluation_sets(config.evaluation_sets) if wanted else []
    sets = {one.name: one for one in declared}
    for text in _texts(config, sets):
        for mode in config.text_modes:
            yield _text_measure(bench, text, mode, window, stride)
    if config.tasks:
        harness = LumiHarness(sets, config.data_dir)
        for name in dict.fromkeys(config.tasks):
            yield _task_measure(bench, harness, name)
    if config.prompts is not None:
        yield from _generation_measures(bench, SmokePrompts.read(config.prompts))


def _held_out_measure(bench: Bench, dataset: ShardedTokenizedDataset) -> Measure:
    config = bench.config
    settings = {
        "max_tokens": config.max_tokens,
        "baselines": config.baselines,
        "trigram_tokens": config.trigram_tokens,
    }
    assert isinstance(bench.model, LumiModel)
    model = bench.model

    def run() -> dict[str, Any]:
        held_out = read_held_out(dataset, model.tokenizer, config.max_tokens)
        score, blocks = score_held_out(model, held_out, batch_size=config.batch_size, label=f"scoring {dataset.name}")
        protocol = _PACKED.format(length=dataset.sequence_length)
        if len(held_out.rows) < len(dataset):
            protocol = f"the first {len(held_out.rows):,} of " + protocol
        measured = Measurement.of(
            dataset.name,
            score,
            mode="rows",
            protocol=protocol,
            window=dataset.sequence_length,
            stride=dataset.sequence_length,
            standard_error=_error(blocks),
        )
        compared = [Compression(data=dataset.name, name="this model", bits_per_byte=score.bits_per_byte, about="")]
        if config.baselines:
            compared += _baselines(config, dataset, held_out)
        return {
            "held_out": measured,
            "compression": tuple(compared),
            "outcomes": _outcomes(blocks, f"rows of {dataset.manifest_sha256}, {config.max_tokens}"),
        }

    return Measure(
        f"held-out-{dataset.name}-{dataset.manifest_sha256[:8]}",
        settings,
        lambda: (artifact_input(dataset.path, bench.folder),),
        run,
        *bench.identity,
    )


def _baselines(config: EvaluateConfig, dataset: ShardedTokenizedDataset, held_out: HeldOut) -> list[Compression]:
    train = ShardedTokenizedDataset(dataset.path, "train")
    num_rows = min(len(train), max(1, config.trigram_tokens // train.sequence_length))
    with progress(f"baselines of {dataset.name}", total=2, unit="baselines") as bar:
        xz = xz_bits_per_byte(held_out.documents, held_out.text_bytes)
        bar.advance()
        stream = join_rows(train.rows(np.arange(num_rows)))
        nats, _ = trigram_nats(stream, held_out.stream, dataset.vocab_size)
        bar.advance()
    share = "the same training tokens" if num_rows == len(train) else f"the first {len(stream):,} training tokens"
    return [
        Compression(
            data=dataset.name,
            name="xz -9",
            bits_per_byte=xz,
            about="a general compressor; the documents joined by an empty line",
        ),
        Compression(
            data=dataset.name,
            name="token trigram",
            bits_per_byte=bits_per_byte(nats, held_out.text_bytes),
            about=f"interpolated Kneser-Ney, trained on {share}",
        ),
    ]


@dataclass(frozen=True)
class _Text:
    """A text to predict."""

    name: str
    documents: list[str]
    joint: str  # what stands between two documents in a stream
    files: tuple[Path, ...]
    sha256: str


def _texts(config: EvaluateConfig, sets: dict[str, EvaluationSet]) -> Iterator[_Text]:
    """Yield the texts that were named; without any, WikiText-2 where it is at hand."""
    for path in config.text_files:
        joint = "\n\n" if ".jsonl" in path.suffixes else ""
        yield _Text(path.name, read_documents(path), joint, (path,), sha256_file(path))
    if config.text_files or not config.text_modes or WIKITEXT not in sets:
        return
    if (found := local_rows(sets[WIKITEXT], config.data_dir)) is not None:
        pages = [str(row["page"]) for row in found.rows]
        sha256 = sha256_bytes("".join(pages).encode())
        yield _Text(sets[WIKITEXT].title, pages, "", found.files, sha256)
    else:
        say(f"left out, because not in {config.data_dir}: {sets[WIKITEXT].title}")


def _text_measure(bench: Bench, text: _Text, mode: TextMode, window: int, stride: int) -> Measure:
    config = bench.config

    def run() -> dict[str, Any]:
        common = {
            "window": window,
            "max_tokens": config.max_tokens,
            "batch_size": config.batch_size,
            "label": f"scoring {text.name}",
        }
        if mode == "stream":
            joined = text.joint.join(text.documents)
            score, blocks = score_stream(bench.model, joined, stride=stride, **common)  # type: ignore[arg-type]
            part = config.max_tokens is not None and score.tokens == config.max_tokens
            whole = f"the first {score.tokens:,} tokens of the text" if part else "the whole text"
            protocol = _STREAM.format(whole=whole, window=window, stride=stride, context=window - stride)
            pairing = f"{text.sha256}, stream, {bench.model.tokenizer_sha256}, {window}, {stride}"
        else:
            score, blocks = score_documents(bench.model, text.documents, **common)  # type: ignore[arg-type]
            number = f"{len(text.documents):,} documents" if len(text.documents) > 1 else "one document"
            whole = number if blocks.pieces == len(text.documents) else f"the first {blocks.pieces:,} of {number}"
            protocol = _DOCUMENTS.format(whole=whole, window=window)
            pairing = f"{text.sha256}, documents, {window}"
        measured = Measurement.of(
            f"{text.name} ({mode})",
            score,
            mode=mode,
            protocol=protocol,
            window=window,
            stride=stride if mode == "stream" else window,
            standard_error=_error(blocks),
        )
        return {"text": measured, "outcomes": _outcomes(blocks, f"{pairing}, {config.max_tokens}")}

    settings = {"window": window, "stride": stride if mode == "stream" else window, "max_tokens": config.max_tokens}
    inputs = tuple(file_input(path, bench.folder) for path in text.files)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text.name).strip("-")
    return Measure(f"text-{slug}-{text.sha256[:8]}-{mode}", settings, lambda: inputs, run, *bench.identity)


def _task_measure(bench: Bench, harness: LumiHarness, name: TaskName) -> Measure:
    def run() -> dict[str, Any]:
        result, outcomes = run_task(bench.model, harness.load(name), max_rows=bench.config.max_rows)
        return {"task": result, "outcomes": outcomes}

    settings = {"max_rows": bench.config.max_rows, "lm_eval": harness.version}
    return Measure(f"task-{name}", settings, lambda: harness.load(name).inputs(bench.folder), run, *bench.identity)


def _generation_measures(bench: Bench, prompts: SmokePrompts) -> Iterator[Measure]:
    config, template = bench.config, bench.template
    assert config.prompts is not None
    path = config.prompts
    settings = {"max_new_tokens": config.max_new_tokens, "seed": config.seed}
    yield Measure(
        "generation",
        settings,
        lambda: (file_input(path, bench.folder),),
        lambda: {"generation": write_samples(bench.model, template, prompts, bench.generation)},
        *bench.identity,
    )
    earlier = bench.earlier
    if config.stages and template is not None and earlier:
        yield Measure(
            "stages",
            settings,
            lambda: (file_input(path, bench.folder), *(artifact_input(one, bench.folder) for one in earlier)),
            lambda: {
                "stages": ask_stages(
                    [*earlier, bench.model_path],
                    template,
                    prompts.answer,
                    bench.generation,
                    bench.model.device,
                    bench.dtype,
                )
            },
            *bench.identity,
        )


def _error(blocks: Blocks) -> float | None:
    if len(blocks.nats) < 2:
        return None
    return ratio_error(blocks.nats / np.log(2), blocks.bytes)


def _outcomes(blocks: Blocks, pairing: str) -> Outcomes:
    bits = blocks.nats / np.log(2)
    return Outcomes(pairing=pairing, values=tuple(bits.tolist()), weights=tuple(blocks.bytes.tolist()))


def _window(config: EvaluateConfig, context: int) -> tuple[int, int]:
    window = config.window or context
    if window > context:
        raise ConfigError(
            f"window = {window:,} is longer than the model's context of {context:,}", f"use --window {context}"
        )
    stride = config.stride or window // 2
    if stride > window:
        raise ConfigError(f"stride {stride:,} is longer than the window of {window:,}", f"use --stride {window // 2}")
    return window, stride


def _data_dirs(bench: Bench) -> tuple[Path, ...]:
    config = bench.config
    if config.data_dirs or config.text_files:
        return config.data_dirs
    for path in (bench.model_path, *reversed(bench.earlier)):
        run = path / "run.json"
        named = [Path(data["path"]) for data in read_json_object(run).get("data", [])] if run.is_file() else []
        there = tuple(data for data in named if (data / MANIFEST).is_file())
        if missing := [str(data) for data in named if data not in there]:
            say(f"the data that {path} was trained on are not there any more: {', '.join(missing)}")
        if packed := tuple(data for data in there if read_json_object(data / MANIFEST).get("kind") == PACKED):
            return packed  # of a tuned model, what its base learned from: has it forgotten?
    return ()


def _open(path: Path, model: LumiModel | TransformersModel) -> ShardedTokenizedDataset:
    if not path.is_dir():
        raise DataError(f"no packed data at {path}", "name packed data with --data_dirs, or text with --text_files")
    if not isinstance(model, LumiModel):
        raise ConfigError(
            f"{path} is packed with a tokenizer of ours, the model has one of its own",
            "measure it on text (--text_files) and tasks",
        )
    dataset = ShardedTokenizedDataset(path, "val")
    require_same_tokenizer(model.tokenizer_sha256, dataset.tokenizer_sha256, str(path))
    if dataset.sequence_length > model.context:
        raise ConfigError(
            f"{path} has rows of {dataset.sequence_length:,} tokens, the model's context is {model.context:,}",
            "pack the corpus with a shorter --sequence_length",
        )
    return dataset
