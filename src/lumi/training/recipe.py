"""From a recipe to a trained model: what pretraining, SFT and DPO have in common around the Trainer.

    join the ranks -> recipe.open_data -> where does the run begin? -> recipe.make_model -> Trainer.fit -> final/

A recipe brings what is its own: data, model, objective, files. Every error before the first step ends all ranks with
one line.
"""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch

from lumi.artifacts import canonical_json, package_versions, sha256_bytes
from lumi.data import BatchLoader
from lumi.errors import ConfigError
from lumi.model import Llama, choose_attention, choose_dtype, count_parameters, free_memory, largest_micro_batch
from lumi.progress import say
from lumi.randomness import seed_global_generators, use_deterministic_kernels
from lumi.tokenizer import Tokenizer
from lumi.training.best import is_best
from lumi.training.checkpoint import drop_cut_off_saves, link_checkpoint, read_run, read_state
from lumi.training.distributed import Ranks, join_ranks
from lumi.training.model_files import ModelFiles
from lumi.training.objective import Objective
from lumi.training.parallel import require_shardable
from lumi.training.resume import Start, Wanted, find_start, only_run_in
from lumi.training.run_config import RunConfig
from lumi.training.saver import RunFolder
from lumi.training.trainer import Sampler, Trainer, Validate


class Recipe(Protocol):
    """A training stage. Its methods are called once each, in this order, on every rank."""

    begins_trained: bool
    """Whether figures before the first step say something."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def tokenizer(self) -> Tokenizer:
        """There once the data are open."""
        ...

    def open_data(self, ranks: Ranks) -> BatchLoader:
        """Open and check everything that is read; cheap checks of the config come first."""
        ...

    def origin(self) -> Mapping[str, str]:
        """Return hashes, by name, of what else decides the result (the model that is tuned)."""
        ...

    def make_model(self, start: Start) -> Llama:
        """Return the model on the CPU, with the weights that the run begins with."""
        ...

    def objective(self) -> Objective: ...

    def files(self) -> ModelFiles: ...

    def validate(self, ranks: Ranks, micro_batch_size: int) -> Validate | None: ...

    def sampler(self) -> Sampler | None: ...

    def describe(self, model: Llama) -> dict[str, Any]:
        """Return what run.json says beyond config, data and versions."""
        ...


def train(recipe: Recipe) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder.

    Raises:
        LumiError: what was asked for cannot be done; with several ranks, rank 0 says so and all exit with 1.
        SystemExit: 130 or 143 after an interruption.
    """
    config = recipe.config
    if config.training.deterministic:
        use_deterministic_kernels()
    ranks = join_ranks(config.training.device)
    seed_global_generators(config.training.seed, ranks.rank)
    failed = True
    try:
        with ranks.watched():
            _train(recipe, ranks)
        failed = False
    except SystemExit:  # all ranks end together
        failed = False
        raise
    finally:
        ranks.close(failed=failed)
    return config.output_dir / "final"


def _train(recipe: Recipe, ranks: Ranks) -> None:
    config = recipe.config
    with ranks.together():
        if config.training.parallel == "fsdp":
            require_shardable(ranks)
        if config.training.batch_size % ranks.world_size:
            raise ConfigError(
                f"batch_size {config.training.batch_size} cannot be shared by {ranks.world_size} ranks",
                f"use a multiple of {ranks.world_size}",
            )
        loader = recipe.open_data(ranks)
    with ExitStack() as stack:
        stack.callback(loader.close)
        with ranks.together():
            ranks.require_agreement(_facts(config, loader))
        with ranks.together():
            start = _find_start(recipe, loader, stack) if ranks.is_first else Start(None)
        start = Start.from_json(ranks.hosts.from_first(start.to_json()))
        if start.finished:
            if ranks.is_first:
                say(f"up to date: {config.output_dir / 'final'}")
            return
        with ranks.together():
            model = recipe.make_model(start)
            fitting = _micro_batch_size(config, model, loader, ranks, start)
        micro_batch_size = min(ranks.hosts.gather(fitting))  # one for all: shards meet at every forward pass
        trainer = _make_trainer(recipe, loader, start, ranks, model.to(ranks.device), micro_batch_size)
        stack.callback(trainer.close)
        _announce(config, loader, ranks, trainer)
        if start.checkpoint is None:
            trainer.metrics.restore([])
        elif start.new_phase:
            trainer.load_optimizer(read_state(start.checkpoint))
        else:
            trainer.load_state(read_state(start.checkpoint))
        trainer.fit()
    if ranks.is_first:
        say(f"trained: {config.output_dir / 'final'}")


def _facts(config: RunConfig, loader: BatchLoader) -> dict[str, Any]:
    """Return what must be the same on all ranks, or they would not train one model."""
    return {
        "the config": sha256_bytes(canonical_json(config.resolved()))[:12],
        "the data": loader.fingerprint[:12],
        **package_versions("torch"),
    }


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.config.settings(), **recipe.origin()}


def _find_start(recipe: Recipe, loader: BatchLoader, stack: ExitStack) -> Start:
    config = recipe.config
    stack.enter_context(only_run_in(config.output_dir))
    drop_cut_off_saves(config.output_dir)
    settings = _settings(recipe)
    fixed = {name for name in settings if name in recipe.origin() or name.startswith(config.fixed)}
    wanted = Wanted(
        config.output_dir,
        settings,
        frozenset(fixed),
        loader.fingerprint,
        config.schedule.max_steps,
        config.training.early_stopping_patience,
    )
    start = find_start(wanted, explicit=config.resume_from_checkpoint, fresh=config.fresh)
    if config.fresh:  # the old folder went, its lock with it
        stack.enter_context(only_run_in(config.output_dir))
    if start.checkpoint is not None and not start.new_phase:
        _restore_names(recipe.files(), start.checkpoint, config.output_dir, finished=start.finished)
    return start


def _restore_names(files: ModelFiles, checkpoint: Path, run_folder: Path, *, finished: bool) -> None:
    """Give a checkpoint its second names, where a kill came between saving and that."""
    state = read_state(checkpoint)
    if finished:
        files.finish(checkpoint, run_folder / "final")
    if is_best(state.metrics, state.progress["step"], state.progress["phase_start"]):
        link_checkpoint(checkpoint, run_folder / "best")


def _micro_batch_size(config: RunConfig, model: Llama, loader: BatchLoader, ranks: Ranks, start: Start) -> int:
    """Return the rows of one forward pass: as asked for, else as the resumed run had it, else the most that fit."""
    training = config.training
    share = training.batch_size // ranks.world_size
    if training.micro_batch_size is not None:
        return min(training.micro_batch_size, share)
    if start.checkpoint is not None and not start.new_phase:
        done = read_state(start.checkpoint).progress
        if done["world_size"] == ranks.world_size:  # another cut would round otherwise
            return int(done["micro_batch_size"])
    fitting = largest_micro_batch(
        model.config,
        rows=share,
        memory_bytes=int(0.9 * free_memory(ranks.device)),
        sequence_length=loader.tokens_per_row,
        compute_bytes=choose_dtype(training.precision, ranks.device).itemsize,
        recompute=training.activation_checkpointing,
        shards=ranks.world_size if training.parallel == "fsdp" else 1,
        trainable=num_trainable(model),
    )
    if fitting is None:
        raise ConfigError(
            f"not even one row fits: {free_memory(ranks.device) / 2**30:.1f} GiB are free on {ranks.device}",
            "use --activation_checkpointing, a smaller model, or --parallel fsdp over more cards; see lumi plan",
        )
    return fitting


def num_trainable(model: Llama) -> int:
    """Return how many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _make_trainer(
    recipe: Recipe, loader: BatchLoader, start: Start, ranks: Ranks, model: Llama, micro_batch_size: int
) -> Trainer:
    config = recipe.config
    description = {**describe_run(recipe, loader, start), **recipe.describe(model)}
    return Trainer(
        model=model,
        objective=recipe.objective(),
        loader=loader,
        files=recipe.files(),
        optimizer=config.optimizer,
        schedule=config.schedule,
        training=config.training,
        ranks=ranks,
        run=RunFolder(config.output_dir, {**config.identity(), **recipe.origin()}, description),
        micro_batch_size=micro_batch_size,
        validate=recipe.validate(ranks, micro_batch_size),
        sampler=recipe.sampler(),
        validate_first=recipe.begins_trained,
    )


def describe_run(recipe: Recipe, loader: BatchLoader, start: Start) -> dict[str, Any]:
    """Return what run.json says of the run; step and tokens are added at each save."""
    config = recipe.config
    earlier: dict[str, Any] = read_run(start.checkpoint) if start.checkpoint else {"phases": [], "step": 0}
    phases: Sequence[Any] = earlier["phases"]
    datasets = [
        {"name": d.name, "path": str(d.path), "manifest_sha256": d.manifest_sha256, "rows": len(d)}
        for d in loader.datasets
    ]
    if start.checkpoint is None or start.new_phase:
        phase = {
            "start_step": earlier["step"],
            "data": datasets,
            "weights": list(config.data_weights) if config.data_weights else None,
            "seed": config.training.seed,
            "fingerprint": loader.fingerprint,
            "from": str(start.checkpoint) if start.checkpoint else None,
        }
        phases = [*phases, phase]
    return {
        "config": config.resolved(),
        "settings": _settings(recipe),
        "tokenizer_sha256": recipe.tokenizer.sha256,
        "data": datasets,
        "phases": list(phases),
        "versions": package_versions("torch", "transformers", "numpy", "sentencepiece"),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the source tree, or None for an installed package."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def _announce(config: RunConfig, loader: BatchLoader, ranks: Ranks, trainer: Trainer) -> None:
    if not ranks.is_first:
        return
    model = trainer.model
    parameters = count_parameters(model.config)
    tokens = config.schedule.max_steps * config.training.batch_size * loader.tokens_per_row
    kind = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    attention = choose_attention(config.training.attention)[0]
    share = config.training.batch_size // ranks.world_size
    spread = f", {config.training.parallel}" if ranks.world_size > 1 else ""
    trained = num_trainable(model)
    part = "" if trained == parameters.total else f", {trained / 1e6:.3f}M of them trained"
    say(
        f"{config.name}: {parameters.total / 1e6:.2f}M parameters ({parameters.non_embedding / 1e6:.2f}M without"
        f" embeddings){part}, {tokens / 1e6:,.1f}M tokens ({tokens / parameters.total:.1f} per parameter)\n"
        f"{ranks.world_size} x {kind}{spread}, {str(model.compute_dtype).removeprefix('torch.')},"
        f" attention: {attention}, {share} rows a step and rank in micro-batches of {trainer.micro_batch_size}"
    )
