"""The evaluation stage: a model in, figures with their protocol out, part by part.

            +-- packed data (held-out rows) --> perplexity, beside xz -9 and a token trigram --+
    model --+-- texts (stream, documents) ----> perplexity ------------------------------------+--> parts/*.json
            +-- tasks of lm-eval -------------> accuracies beside chance and majority ---------+--> results.json
            +-- smoke prompts ----------------> texts, and what can be counted in them --------+    results.md

What is measured is written at once. The same command again goes on with what is missing.
"""

from pathlib import Path

import torch

from lumi.artifacts import MANIFEST, canonical_json, sha256_bytes, sha256_file, write_run_info
from lumi.errors import ConfigError, DataError, LumiError
from lumi.evaluation.card_results import card_results
from lumi.evaluation.config import EvaluateConfig
from lumi.evaluation.language_model import LumiModel, TransformersModel, load_language_model
from lumi.evaluation.measures import Bench, measures
from lumi.evaluation.results import (
    RESULTS,
    Evaluation,
    Missing,
    Part,
    Subject,
    print_results,
    read_parts,
    write_part,
    write_results,
)
from lumi.model import choose_device, choose_dtype
from lumi.progress import say
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.training.model_card import write_model_card


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a model, or find it measured.

    Raises:
        DataError: a model, data set or text is missing or unusable; or, after all else was measured and written,
            a part could not be.
        IntegrityError: an artifact is damaged.
        TokenizerMismatch: data, or ``tokenizer_path``, belong to another tokenizer than the checkpoint's.
        ConfigError: a window longer than the model's context, or nothing to measure.
    """
    model_path = config.model_path or newest_final(Path("checkpoints"))
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    model = load_language_model(model_path, device=device, dtype=dtype)
    if config.tokenizer_path is not None:
        asked = Tokenizer.load(config.tokenizer_path)
        require_same_tokenizer(model.tokenizer_sha256, asked.sha256, str(config.tokenizer_path))
    subject = _subject(model_path, model)
    folder = config.output_dir / subject.name
    planned = list(measures(Bench(config, model_path, model, subject, folder, dtype)))
    if not planned:
        raise ConfigError("nothing to measure", "name packed data (--data_dirs), text (--text_files) or --tasks")
    parts = {name: part for name, part in read_parts(folder).items() if part.model_sha256 == subject.sha256}
    names = [measure.name for measure in planned]
    missing: list[Missing] = []
    measured = 0
    for measure in planned:
        part = None
        try:
            key, inputs = measure.key(subject)
            if config.fresh or measure.name not in parts or parts[measure.name].key != key:
                part = measure.make(key, inputs)
        except (LumiError, torch.OutOfMemoryError) as error:  # the others can be measured all the same
            say(f"not measured: {measure.name}: {error}")
            missing.append(Missing(name=measure.name, why=getattr(error, "fact", "out of memory")))
        if part is not None:
            write_part(folder, part)
            measured += 1
            same = [name for name, one in parts.items() if one.title == part.title]
            parts = {name: one for name, one in parts.items() if name not in same} | {part.name: part}
            write_results(folder, _assembled(config, subject, _in_order(parts, names), missing))
            write_run_info(folder)
    if not measured and not missing:
        say(f"up to date: {folder / RESULTS}")
    evaluation = _assembled(config, subject, _in_order(parts, names), missing)
    write_results(folder, evaluation)
    if isinstance(model, LumiModel) and config.max_rows is None and config.max_tokens is None:
        _write_card(model_path, evaluation)
    print_results(evaluation)
    say(f"results: {folder / RESULTS}")
    if missing:
        raise DataError(
            f"{len(missing)} of {len(planned)} parts could not be measured: {', '.join(one.name for one in missing)}",
            "the reasons stand above; what was measured is kept, and the same command goes on with the rest",
        )
    return evaluation


def _in_order(parts: dict[str, Part], names: list[str]) -> list[Part]:
    """Return what was asked for first, then what else is known of the model from earlier evaluations."""
    asked = [parts[name] for name in names if name in parts]
    return [*asked, *(part for name, part in parts.items() if name not in names)]


def _write_card(model_path: Path, evaluation: Evaluation) -> None:
    try:
        write_model_card(model_path, card_results(evaluation))
    except OSError as error:
        say(f"the model card in {model_path} was not written: {error.strerror}")


def newest_final(folder: Path) -> Path:
    """Return the last finished model below a folder of runs: checkpoints/STAGE/SIZE/final.

    Raises:
        DataError: there is none.
    """
    found = sorted(folder.glob(f"*/*/final/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise DataError(f"no finished model in {folder}", "name one (--model_path), or train one: make pretrain-tiny")
    say(f"the newest model: {found[-1].parent}")
    return found[-1].parent


def results_name(model_path: Path) -> str:
    """Return the last folders of a model, joined: pretrain-tiny-final."""
    path = model_path.resolve() if model_path.is_dir() else model_path
    return "-".join(part for part in path.parts[-3:] if part.strip("/"))


def _subject(path: Path, model: LumiModel | TransformersModel) -> Subject:
    if (path / MANIFEST).is_file():
        sha256 = sha256_file(path / MANIFEST)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", ".json", ".model", ".txt"))
        sha256 = sha256_bytes(canonical_json([[file.name, sha256_file(file)] for file in files]))
    else:
        sha256 = str(getattr(model.model.config, "_commit_hash", None) or path)
    return Subject(
        name=results_name(path),
        path=str(path),
        kind="lumi" if isinstance(model, LumiModel) else "transformers",
        sha256=sha256,
        tokenizer_sha256=model.tokenizer_sha256,
        parameters=model.parameters,
        context=model.context,
    )


def _assembled(config: EvaluateConfig, subject: Subject, parts: list[Part], missing: list[Missing]) -> Evaluation:
    return Evaluation(
        model=subject,
        settings=config.identity(),
        inputs=tuple(dict.fromkeys(one for part in parts for one in part.inputs)),
        held_out=tuple(part.held_out for part in parts if part.held_out),
        text=tuple(part.text for part in parts if part.text),
        compression=tuple(one for part in parts for one in part.compression),
        tasks=tuple(part.task for part in parts if part.task),
        generation=next((part.generation for part in parts if part.generation), None),
        stages=next((part.stages for part in parts if part.stages), None),
        missing=tuple(missing),
    )
