"""Pretraining: packed data + model + next-token objective + Trainer, wired together.

data_dirs -> WeightedMultiDatasetSampler -> BatchLoader ---+
config.model -> create_model ------------------------------+--> Trainer.fit -> checkpoints, metrics
CausalLMObjective -----------------------------------------+
"""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumi.artifacts import canonical_json, package_versions, sha256_bytes
from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.data.dataset import Split
from lumi.errors import ConfigError, DataError
from lumi.model import (
    Llama,
    choose_attention,
    choose_dtype,
    count_parameters,
    create_model,
    free_memory,
    largest_micro_batch,
)  # fmt: skip
from lumi.model.pretrained import set_weights
from lumi.pretraining.config import PretrainConfig
from lumi.pretraining.samples import SampleTexts
from lumi.pretraining.validation import HeldOutLoss
from lumi.progress import say
from lumi.randomness import seed_global_generators, use_deterministic_kernels
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.training import CausalLMObjective, Ranks, RunFolder, Trainer, join_ranks, read_run, read_state, read_weights
from lumi.training.best import is_best
from lumi.training.checkpoint import drop_cut_off_saves, link_checkpoint
from lumi.training.parallel import require_shardable
from lumi.training.resume import Start, Wanted, find_start, only_run_in


def pretrain(config: PretrainConfig) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder.

    Raises:
        LumiError: what was asked for cannot be done; with several ranks, rank 0 says so and all exit with 1.
        SystemExit: 130 or 143 after an interruption.
    """
    if config.training.deterministic:
        use_deterministic_kernels()
    ranks = join_ranks(config.training.device)
    seed_global_generators(config.training.seed, ranks.rank)
    failed = True
    try:
        with ranks.watched():
            _pretrain(config, ranks)
        failed = False
    except SystemExit:  # all ranks end together
        failed = False
        raise
    finally:
        ranks.close(failed=failed)
    return config.output_dir / "final"


def _pretrain(config: PretrainConfig, ranks: Ranks) -> None:
    with ranks.together():
        if config.training.parallel == "fsdp":
            require_shardable(ranks)
        data = _open_data(config, ranks)
    with ExitStack() as stack:
        stack.callback(data.loader.close)
        with ranks.together():
            ranks.require_agreement(_facts(config, data))
        with ranks.together():
            start = _find_start(config, data, stack) if ranks.is_first else Start(None)
        start = Start.from_json(ranks.hosts.from_first(start.to_json()))
        if start.finished:
            if ranks.is_first:
                say(f"up to date: {config.output_dir / 'final'}")
            return
        with ranks.together():
            model = _make_model(config, data, start)
            micro_batch_size = _micro_batch_size(config, ranks, start)
        model = model.to(ranks.device)
        trainer = _make_trainer(config, data, start, ranks, model, micro_batch_size)
        stack.callback(trainer.close)
        _announce(config, data, ranks, trainer)
        if start.checkpoint is None:
            trainer.metrics.restore([])
        elif start.new_phase:
            trainer.load_optimizer(read_state(start.checkpoint))
        else:
            trainer.load_state(read_state(start.checkpoint))
        trainer.fit()
    if ranks.is_first:
        say(f"trained: {config.output_dir / 'final'}")


@dataclass(frozen=True)
class _Data:
    datasets: list[ShardedTokenizedDataset]
    held_out: list[ShardedTokenizedDataset]
    tokenizer: Tokenizer
    loader: BatchLoader


def _open_data(config: PretrainConfig, ranks: Ranks) -> _Data:
    # one rank of each machine hashes the files for all of them
    check = ranks.local_rank == 0
    datasets = [_open(path, "train", config, check=check) for path in config.data_dirs]
    held_out = [_open(path, "val", config, check=False) for path in config.data_dirs]
    tokenizer = _tokenizer(config, datasets)
    sampler = WeightedMultiDatasetSampler(
        [len(dataset) for dataset in datasets], config.data_weights, config.training.seed
    )
    if config.training.batch_size % ranks.world_size:
        raise ConfigError(
            f"batch_size {config.training.batch_size} cannot be shared by {ranks.world_size} ranks",
            f"use a multiple of {ranks.world_size}",
        )
    loader = BatchLoader(
        datasets, sampler, batch_size=config.training.batch_size, rank=ranks.rank, world_size=ranks.world_size
    )
    return _Data(datasets, held_out, tokenizer, loader)


def _facts(config: PretrainConfig, data: _Data) -> dict[str, Any]:
    """Return what must be the same on all ranks, or they would not train one model."""
    return {
        "the config": sha256_bytes(canonical_json(config.resolved()))[:12],
        "the data": data.loader.fingerprint[:12],
        **package_versions("torch"),
    }


def _find_start(config: PretrainConfig, data: _Data, stack: ExitStack) -> Start:
    stack.enter_context(only_run_in(config.output_dir))
    drop_cut_off_saves(config.output_dir)
    wanted = Wanted(
        config.output_dir,
        config.settings(),
        data.loader.fingerprint,
        config.schedule.max_steps,
        config.training.early_stopping_patience,
    )
    start = find_start(wanted, explicit=config.resume_from_checkpoint, fresh=config.fresh)
    if config.fresh:  # the old folder went, its lock with it
        stack.enter_context(only_run_in(config.output_dir))
    if start.checkpoint is not None and not start.new_phase:
        _restore_names(start.checkpoint, config.output_dir, finished=start.finished)
    return start


def _restore_names(checkpoint: Path, run_folder: Path, *, finished: bool) -> None:
    """Give a checkpoint its second names, where a kill came between saving and that."""
    state = read_state(checkpoint)
    if finished:
        link_checkpoint(checkpoint, run_folder / "final")
    if is_best(state.metrics, state.progress["step"], state.progress["phase_start"]):
        link_checkpoint(checkpoint, run_folder / "best")


def _make_model(config: PretrainConfig, data: _Data, start: Start) -> Llama:
    model = create_model(config.model, seed=config.training.seed, attention=config.training.attention)
    if start.checkpoint is not None:
        found = read_run(start.checkpoint)["tokenizer_sha256"]
        require_same_tokenizer(data.tokenizer.sha256, found, str(start.checkpoint))
        set_weights(model, read_weights(start.checkpoint), start.checkpoint)
    return model


def _micro_batch_size(config: PretrainConfig, ranks: Ranks, start: Start) -> int:
    """Return the rows of one forward pass: as asked for, else as the resumed run had it, else the most that fit."""
    training = config.training
    share = training.batch_size // ranks.world_size
    if training.micro_batch_size is not None:
        return min(training.micro_batch_size, share)
    if start.checkpoint is not None and not start.new_phase:
        done = read_state(start.checkpoint).progress
        if done["world_size"] == ranks.world_size:  # another cut would round otherwise
            return int(done["micro_batch_size"])
    dtype = choose_dtype(training.precision, ranks.device)
    fitting = largest_micro_batch(
        config.model,
        rows=share,
        memory_bytes=int(0.9 * free_memory(ranks.device)),
        sequence_length=config.model.sequence_length,
        compute_bytes=dtype.itemsize,
        recompute=training.activation_checkpointing,
        shards=ranks.world_size if training.parallel == "fsdp" else 1,
    )
    if fitting is None:
        raise ConfigError(
            f"not even one row fits: {free_memory(ranks.device) / 2**30:.1f} GiB are free on {ranks.device}",
            "use --activation_checkpointing, a smaller model, or --parallel fsdp over more cards; see lumi plan",
        )
    return fitting


def _make_trainer(
    config: PretrainConfig, data: _Data, start: Start, ranks: Ranks, model: Llama, micro_batch_size: int
) -> Trainer:
    return Trainer(
        model=model,
        objective=CausalLMObjective(document_masking=config.training.document_masking),
        loader=data.loader,
        tokenizer=data.tokenizer,
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
        ranks=ranks,
        run=RunFolder(config.output_dir, config.identity(), _describe(config, data, start)),
        micro_batch_size=micro_batch_size,
        validate=HeldOutLoss(
            data.held_out, rows=config.training.eval_rows, micro_batch_size=micro_batch_size, ranks=ranks
        ),
        sampler=SampleTexts(data.tokenizer, config.sample_prompts, config.sample_tokens)
        if config.sample_prompts
        else None,
    )


def _open(path: Path, split: Split, config: PretrainConfig, *, check: bool) -> ShardedTokenizedDataset:
    if not path.is_dir():
        raise DataError(
            f"no packed data at {path}", f"pack a corpus first: scripts/03_pack_dataset.py ... --output_dir {path}"
        )
    dataset = ShardedTokenizedDataset(path, split, check=check)
    if dataset.sequence_length > config.model.sequence_length:
        raise ConfigError(
            f"{path} has rows of {dataset.sequence_length} tokens, the model takes {config.model.sequence_length}",
            "raise --model.sequence_length, or pack the corpus with a shorter --sequence_length",
        )
    if dataset.vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"{path} uses a vocabulary of {dataset.vocab_size}, the model has {config.model.vocab_size}",
            f"set --vocab_size {dataset.vocab_size}",
        )
    return dataset


def _tokenizer(config: PretrainConfig, datasets: list[ShardedTokenizedDataset]) -> Tokenizer:
    first = datasets[0]
    tokenizer = Tokenizer.load(config.tokenizer_path or first.tokenizer_path)
    for dataset in datasets:
        require_same_tokenizer(tokenizer.sha256, dataset.tokenizer_sha256, str(dataset.path))
    return tokenizer


def _describe(config: PretrainConfig, data: _Data, start: Start) -> dict[str, Any]:
    """Return what run.json says of the run; step and tokens are added at each save."""
    parameters = count_parameters(config.model)
    earlier: dict[str, Any] = read_run(start.checkpoint) if start.checkpoint else {"phases": [], "step": 0}
    phases = list(earlier["phases"])
    datasets = [
        {"name": d.name, "path": str(d.path), "manifest_sha256": d.manifest_sha256, "rows": len(d)}
        for d in data.datasets
    ]
    if start.checkpoint is None or start.new_phase:
        weights = list(config.data_weights) if config.data_weights else None
        phases.append(
            {
                "start_step": earlier["step"],
                "data": datasets,
                "weights": weights,
                "seed": config.training.seed,
                "fingerprint": data.loader.fingerprint,
                "from": str(start.checkpoint) if start.checkpoint else None,
            }
        )
    return {
        "config": config.resolved(),
        "settings": config.settings(),
        "tokenizer_sha256": data.tokenizer.sha256,
        "parameters": {"total": parameters.total, "non_embedding": parameters.non_embedding},
        "data": datasets,
        "phases": phases,
        "versions": package_versions("torch", "transformers", "numpy", "sentencepiece"),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the source tree, or None for an installed package."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def _announce(config: PretrainConfig, data: _Data, ranks: Ranks, trainer: Trainer) -> None:
    if not ranks.is_first:
        return
    parameters = count_parameters(config.model)
    tokens = config.schedule.max_steps * config.training.batch_size * data.loader.sequence_length
    kind = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    attention = choose_attention(config.training.attention)[0]
    share = config.training.batch_size // ranks.world_size
    spread = f", {config.training.parallel}" if ranks.world_size > 1 else ""
    say(
        f"{config.name}: {parameters.total / 1e6:.2f}M parameters ({parameters.non_embedding / 1e6:.2f}M without"
        f" embeddings), {tokens / 1e6:,.1f}M tokens ({tokens / parameters.total:.1f} per parameter)\n"
        f"{ranks.world_size} x {kind}{spread}, {str(trainer.model.compute_dtype).removeprefix('torch.')},"
        f" attention: {attention}, {share} rows a step and rank in micro-batches of {trainer.micro_batch_size}"
    )
