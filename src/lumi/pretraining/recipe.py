"""Pretraining: packed data + model + next-token objective + Trainer, wired together.

data_dirs -> WeightedMultiDatasetSampler -> BatchLoader ---+
config.model -> create_model ------------------------------+--> Trainer.fit -> checkpoints, metrics
CausalLMObjective -----------------------------------------+
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import torch

from lumi.artifacts import package_versions
from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.data.dataset import Split
from lumi.errors import ConfigError, DataError
from lumi.model import Llama, choose_attention, count_parameters, create_model
from lumi.model.pretrained import set_weights
from lumi.pretraining.config import PretrainConfig
from lumi.pretraining.validation import HeldOutLoss
from lumi.progress import say
from lumi.randomness import seed_global_generators
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.training import CausalLMObjective, Ranks, RunFolder, Trainer, join_ranks, read_run, read_state, read_weights
from lumi.training.resume import Start, Wanted, find_start


def pretrain(config: PretrainConfig) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder."""
    if config.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
    ranks = join_ranks(config.training.device)
    seed_global_generators(config.training.seed, ranks.rank)
    try:
        return _pretrain(config, ranks)
    finally:
        ranks.close()


def _pretrain(config: PretrainConfig, ranks: Ranks) -> Path:
    final = config.output_dir / "final"
    datasets = [_open(path, "train", config) for path in config.data_dirs]
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
    wanted = Wanted(config.output_dir, config.settings(), loader.fingerprint, config.schedule.max_steps)
    start = find_start(wanted, explicit=config.resume_from_checkpoint, fresh=config.fresh)
    if start.finished:
        loader.close()
        say(f"up to date: {final}")
        return final
    model = create_model(config.model, seed=config.training.seed, attention=config.training.attention)
    if start.checkpoint is not None:
        found = read_run(start.checkpoint)["tokenizer_sha256"]
        require_same_tokenizer(tokenizer.sha256, found, str(start.checkpoint))
        set_weights(model, read_weights(start.checkpoint), start.checkpoint)
    model = model.to(ranks.device)
    trainer = Trainer(
        model=model,
        objective=CausalLMObjective(document_masking=config.training.document_masking),
        loader=loader,
        tokenizer=tokenizer,
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
        ranks=ranks,
        run=RunFolder(config.output_dir, config.identity(), _describe(config, datasets, tokenizer, loader, start)),
        validate=HeldOutLoss(
            [_open(path, "val", config) for path in config.data_dirs],
            rows=config.training.eval_rows,
            micro_batch_size=config.training.micro_batch_size or config.training.batch_size,
            ranks=ranks,
        ),
    )
    _announce(config, datasets, ranks, model)
    if start.checkpoint is None:
        trainer.metrics.restore([])
    elif start.new_phase:
        trainer.load_optimizer(read_state(start.checkpoint))
    else:
        trainer.load_state(read_state(start.checkpoint))
    try:
        trainer.fit()
    finally:
        trainer.close()
    say(f"trained: {final}")
    return final


def _open(path: Path, split: Split, config: PretrainConfig) -> ShardedTokenizedDataset:
    if not path.is_dir():
        raise DataError(
            f"no packed data at {path}", f"pack a corpus first: scripts/03_pack_dataset.py ... --output_dir {path}"
        )
    dataset = ShardedTokenizedDataset(path, split)
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


def _describe(
    config: PretrainConfig,
    datasets: list[ShardedTokenizedDataset],
    tokenizer: Tokenizer,
    loader: BatchLoader,
    start: Start,
) -> dict[str, Any]:
    """Return what run.json says of the run; step and tokens are added at each save."""
    parameters = count_parameters(config.model)
    earlier: dict[str, Any] = read_run(start.checkpoint) if start.checkpoint else {"phases": [], "step": 0}
    phases = list(earlier["phases"])
    data = [
        {"name": d.name, "path": str(d.path), "manifest_sha256": d.manifest_sha256, "rows": len(d)} for d in datasets
    ]
    if start.checkpoint is None or start.new_phase:
        weights = list(config.data_weights) if config.data_weights else None
        phases.append({"start_step": earlier["step"], "data": data, "weights": weights, "seed": config.training.seed,
                       "fingerprint": loader.fingerprint,
                       "from": str(start.checkpoint) if start.checkpoint else None})  # fmt: skip
    return {
        "config": config.resolved(),
        "settings": config.settings(),
        "tokenizer_sha256": tokenizer.sha256,
        "parameters": {"total": parameters.total, "non_embedding": parameters.non_embedding},
        "data": data,
        "phases": phases,
        "versions": package_versions("torch", "transformers", "numpy", "sentencepiece"),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the source tree, or None for an installed package."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def _announce(config: PretrainConfig, datasets: list[ShardedTokenizedDataset], ranks: Ranks, model: Llama) -> None:
    if not ranks.is_first:
        return
    parameters = count_parameters(config.model)
    tokens = config.schedule.max_steps * config.training.batch_size * datasets[0].sequence_length
    kind = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    attention = choose_attention(config.training.attention)[0]
    say(
        f"{config.name}: {parameters.total / 1e6:.2f}M parameters ({parameters.non_embedding / 1e6:.2f}M without"
        f" embeddings), {tokens / 1e6:,.1f}M tokens ({tokens / parameters.total:.1f} per parameter)\n"
        f"{ranks.world_size} x {kind}, {str(model.compute_dtype).removeprefix('torch.')}, attention: {attention}"
    )
