"""Pretraining: packed data + a model with fresh weights + next-token objective, for the engine to train."""

from functools import cached_property
from pathlib import Path
from typing import Any

from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.data.dataset import Split
from lumi.errors import ConfigError, DataError
from lumi.model import Llama, count_parameters, create_model
from lumi.model.pretrained import set_weights
from lumi.pretraining.config import PretrainConfig
from lumi.pretraining.samples import SampleTexts
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.training import CausalLMObjective, HeldOutLoss, Ranks, WholeModel, read_run, read_weights, train
from lumi.training.resume import Start


def pretrain(config: PretrainConfig) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder.

    Raises:
        LumiError: what was asked for cannot be done; with several ranks, rank 0 says so and all exit with 1.
        SystemExit: 130 or 143 after an interruption.
    """
    return train(Pretraining(config))


class Pretraining:
    """The recipe (see `Recipe`)."""

    begins_trained = False
    tokenizer: Tokenizer

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def open_data(self, ranks: Ranks) -> BatchLoader:
        config = self.config
        # one rank of each machine hashes the files for all of them
        self.datasets = [_open(path, "train", config, check=ranks.local_rank == 0) for path in config.data_dirs]
        self.held_out = [_open(path, "val", config, check=False) for path in config.data_dirs]
        self.tokenizer = Tokenizer.load(config.tokenizer_path or self.datasets[0].tokenizer_path)
        for dataset in self.datasets:
            require_same_tokenizer(self.tokenizer.sha256, dataset.tokenizer_sha256, str(dataset.path))
        sampler = WeightedMultiDatasetSampler(
            [len(dataset) for dataset in self.datasets], config.data_weights, config.training.seed
        )
        return BatchLoader(
            self.datasets, sampler, batch_size=config.training.batch_size, rank=ranks.rank, world_size=ranks.world_size
        )

    @cached_property
    def _documents_per_row(self) -> int | None:
        if not self.config.training.document_masking:
            return None
        return max(dataset.documents_per_row() for dataset in (*self.datasets, *self.held_out))

    def origin(self) -> dict[str, str]:
        return {}

    def make_model(self, start: Start) -> Llama:
        config = self.config
        model = create_model(config.model, seed=config.training.seed, attention=config.training.attention)
        if start.checkpoint is not None:
            found = read_run(start.checkpoint)["tokenizer_sha256"]
            require_same_tokenizer(self.tokenizer.sha256, found, str(start.checkpoint))
            set_weights(model, read_weights(start.checkpoint), start.checkpoint)
        return model

    def objective(self) -> CausalLMObjective:
        return CausalLMObjective(documents_per_row=self._documents_per_row)

    def files(self) -> WholeModel:
        return WholeModel(self.config.model, self.tokenizer)

    def validate(self, ranks: Ranks, micro_batch_size: int) -> HeldOutLoss:
        return HeldOutLoss(
            self.held_out,
            self.objective(),
            rows=self.config.training.eval_rows,
            micro_batch_size=micro_batch_size,
            ranks=ranks,
        )

    def sampler(self) -> SampleTexts | None:
        prompts = self.config.sample_prompts
        return SampleTexts(self.tokenizer, prompts, self.config.sample_tokens) if prompts else None

    def describe(self, model: Llama) -> dict[str, Any]:
        parameters = count_parameters(model.config)
        return {"parameters": {"total": parameters.total, "non_embedding": parameters.non_embedding}}


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
