"""The evaluation stage: a checkpoint in, figures with their protocol out.

checkpoint --+-- packed data (held-out rows) --> perplexity, beside xz -9 and a token trigram
             +-- text files (sliding window) --> perplexity      --> results.json, results.md
"""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from lumi.artifacts import artifact_input, file_input, manifest_key
from lumi.config import read_json_object
from lumi.data import ShardedTokenizedDataset
from lumi.errors import ConfigError, DataError
from lumi.evaluation.baselines import bits_per_byte, trigram_nats, xz_bits_per_byte
from lumi.evaluation.config import EvaluateConfig
from lumi.evaluation.perplexity import HeldOut, join_rows, read_held_out, read_text, score_held_out, score_text
from lumi.evaluation.results import RESULTS, Compression, Evaluation, Measurement, print_results, write_results
from lumi.model import Llama, choose_device, choose_dtype, count_parameters, load_model
from lumi.progress import progress, say
from lumi.tokenizer import Tokenizer, require_same_tokenizer

_PACKED = (
    "all held-out rows of {length:,} tokens, each seen from its own beginning; attention crosses documents within a"
    " row. Scored: every text token and each document's end </s>; never <s> or padding. Bytes and words are those of"
    " the documents."
)
_SLIDING = (
    "the whole file as one stream behind <s>, a window of {window:,} tokens moved by {stride:,}; each token is scored"
    " once, with at least {context:,} tokens before it (fewer at the start of the file). Scored: every text token;"
    " no <s>, no </s>. Words are separated by whitespace."
)


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a checkpoint, or find it measured.

    Raises:
        DataError: a model, data set or text is missing or unusable.
        IntegrityError: an artifact is damaged.
        TokenizerMismatch: data, or ``tokenizer_path``, belong to another tokenizer than the checkpoint's.
        ConfigError: a window longer than the model's context, or nothing to measure.
    """
    device = choose_device(config.device)
    model = load_model(config.model_path, device=device, dtype=choose_dtype(config.dtype, device))
    tokenizer = Tokenizer.load(config.model_path)
    if config.tokenizer_path is not None:
        asked = Tokenizer.load(config.tokenizer_path)
        require_same_tokenizer(tokenizer.sha256, asked.sha256, str(config.tokenizer_path))
    output_dir = config.output_dir or default_output_dir(config.model_path)
    window, stride = _window(config, model)
    datasets = [_open(path, model, tokenizer) for path in _data_dirs(config)]
    texts = {path: read_text(path) for path in config.text_files}
    inputs = (
        *(artifact_input(dataset.path, output_dir) for dataset in datasets),
        *(file_input(path, output_dir) for path in texts),
    )
    checkpoint = artifact_input(config.model_path, output_dir)
    settings = {**config.identity(), "window": window, "stride": stride}
    key = manifest_key("evaluation", settings, (checkpoint, *inputs))
    if not config.fresh and (found := _finished(output_dir, key)) is not None:
        say(f"up to date: {output_dir / RESULTS}")
        print_results(found)
        return found
    held_out, compression = [], []
    for dataset in datasets:
        measured, compared = _measure_held_out(config, model, tokenizer, dataset)
        held_out.append(measured)
        compression += compared
    evaluation = Evaluation(
        key=key,
        config=settings,
        model=checkpoint,
        tokenizer_sha256=tokenizer.sha256,
        parameters=count_parameters(model.config).total,
        inputs=inputs,
        held_out=tuple(held_out),
        text=tuple(_measure_text(config, model, tokenizer, path, text, window, stride) for path, text in texts.items()),
        compression=tuple(compression),
    )
    write_results(output_dir, evaluation)
    print_results(evaluation)
    say(f"results: {output_dir / RESULTS}")
    return evaluation


def default_output_dir(model_path: Path) -> Path:
    """Return evaluation_results/RUN-CHECKPOINT, such as evaluation_results/tiny-final."""
    path = model_path.resolve()
    return Path("evaluation_results") / f"{path.parent.name}-{path.name}"


def _measure_held_out(
    config: EvaluateConfig, model: Llama, tokenizer: Tokenizer, dataset: ShardedTokenizedDataset
) -> tuple[Measurement, list[Compression]]:
    held_out = read_held_out(dataset, tokenizer, config.max_tokens)
    score = score_held_out(model, held_out, batch_size=config.batch_size, label=f"scoring {dataset.name}")
    protocol = _PACKED.format(length=dataset.sequence_length)
    if len(held_out.rows) < len(dataset):
        protocol = f"the first {len(held_out.rows):,} of " + protocol
    measured = Measurement.of(
        dataset.name, score, protocol=protocol, window=dataset.sequence_length, stride=dataset.sequence_length
    )
    compared = [Compression(data=dataset.name, name="this model", bits_per_byte=score.bits_per_byte, about="")]
    if config.baselines:
        compared += _baselines(config, dataset, held_out)
    return measured, compared


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


def _measure_text(
    config: EvaluateConfig, model: Llama, tokenizer: Tokenizer, path: Path, text: str, window: int, stride: int
) -> Measurement:
    score = score_text(
        model,
        tokenizer,
        text,
        window=window,
        stride=stride,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        label=f"scoring {path.name}",
    )
    protocol = _SLIDING.format(window=window, stride=stride, context=window - stride)
    if config.max_tokens is not None and score.tokens == config.max_tokens:
        protocol = protocol.replace("the whole file", f"the first {score.tokens:,} tokens of the file", 1)
    return Measurement.of(path.name, score, protocol=protocol, window=window, stride=stride)


def _window(config: EvaluateConfig, model: Llama) -> tuple[int, int]:
    context = model.config.sequence_length
    window = config.window or context
    if window > context:
        raise ConfigError(
            f"window = {window:,} is longer than the model's context of {context:,}", f"use --window {context}"
        )
    stride = config.stride or window // 2
    if stride > window:
        raise ConfigError(f"stride {stride:,} is longer than the window of {window:,}", f"use --stride {window // 2}")
    return window, stride


def _data_dirs(config: EvaluateConfig) -> tuple[Path, ...]:
    if config.data_dirs or config.text_files:
        return config.data_dirs
    run = config.model_path / "run.json"
    named = read_json_object(run).get("data", []) if run.is_file() else []
    if not named:
        raise ConfigError("nothing to measure", "name packed data (--data_dirs) or text files (--text_files)")
    say(
        "scoring the held-out rows of the data that the model was trained on (--data_dirs and --text_files name others)"
    )
    return tuple(Path(data["path"]) for data in named)


def _open(path: Path, model: Llama, tokenizer: Tokenizer) -> ShardedTokenizedDataset:
    if not path.is_dir():
        raise DataError(f"no packed data at {path}", "name packed data with --data_dirs, or text with --text_files")
    dataset = ShardedTokenizedDataset(path, "val")
    require_same_tokenizer(tokenizer.sha256, dataset.tokenizer_sha256, str(path))
    if dataset.sequence_length > model.config.sequence_length:
        raise ConfigError(
            f"{path} has rows of {dataset.sequence_length:,} tokens, the model's context is"
            f" {model.config.sequence_length:,}",
            "pack the corpus with a shorter --sequence_length",
        )
    return dataset


def _finished(output_dir: Path, key: str) -> Evaluation | None:
    """Return the results that stand in the folder if they are those of the same inputs and settings."""
    path = output_dir / RESULTS
    if not path.is_file():
        return None
    try:
        found = Evaluation.model_validate_json(path.read_bytes())
    except ValidationError:  # another version's, or cut off: results are cheap to measure anew
        return None
    return found if found.key == key else None
