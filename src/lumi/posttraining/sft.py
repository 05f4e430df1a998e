"""Supervised fine-tuning: a base model + conversations + the next-token objective over answers, for the engine.

model_path (its weights, its tokenizer) --+
data_dirs (ids, loss mask, template) -----+--> Trainer.fit -> step_N/ with adapter/ -> merged into final/
"""

from pathlib import Path
from typing import Any

from lumi.conversation import Template, read_template
from lumi.conversation.template import symbol_id
from lumi.data import BatchLoader, WeightedMultiDatasetSampler
from lumi.data.dataset import Split
from lumi.errors import ConfigError, DataError
from lumi.model import Llama, choose_attention, choose_dtype, count_parameters, read_model_config
from lumi.model.lora import add_lora, narrow_frozen
from lumi.model.pretrained import set_weights
from lumi.posttraining.adapter_files import Base, read_adapter
from lumi.posttraining.chat_samples import ChatSamples
from lumi.posttraining.merge import AdapterFiles, adapted_layer
from lumi.posttraining.neftune import add_neftune
from lumi.posttraining.sft_config import SftConfig
from lumi.posttraining.sft_dataset import SFTDataset
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.tokenizer.ids import CONTROL_SYMBOLS
from lumi.training import (
    CausalLMObjective,
    HeldOutLoss,
    ModelFiles,
    Ranks,
    WholeModel,
    read_weights,
    train,
    verify_checkpoint,
)
from lumi.training.recipe import num_trainable
from lumi.training.resume import Start

_KNOWN = ("<s>", "</s>")  # pretraining has taught these


def sft(config: SftConfig) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder.

    Raises:
        LumiError: what was asked for cannot be done; with several ranks, rank 0 says so and all exit with 1.
        SystemExit: 130 or 143 after an interruption.
    """
    if config.use_trl_trainer:
        from lumi.posttraining.trl_backend import sft_with_trl

        return sft_with_trl(config)
    return train(SupervisedFineTuning(config))


class SupervisedFineTuning:
    """The recipe (see `Recipe`)."""

    tokenizer: Tokenizer
    template: Template

    def __init__(self, config: SftConfig) -> None:
        self.config = config

    def open_data(self, ranks: Ranks) -> BatchLoader:
        config = self.config
        adapted_layer(quantized=config.method == "qlora")  # or an error before anything is read
        if config.fresh and config.model_path.resolve().is_relative_to(config.output_dir.resolve()):
            raise ConfigError(
                f"--fresh would set {config.output_dir} aside, with the model to begin with ({config.model_path})",
                "use another --output_dir",
            )
        check = ranks.local_rank == 0  # one rank of each machine hashes the files for all of them
        self.base = open_base(config.model_path, check=check)
        self.shape = read_model_config(self.base.path)
        self.dtype = choose_dtype(config.training.precision, ranks.device)
        self.datasets = [self._open(path, "train", check=check) for path in config.data_dirs]
        self.held_out = [self._open(path, "val", check=False) for path in config.data_dirs]
        self.tokenizer = Tokenizer.load(self.base.path)
        if config.tokenizer_path is not None:
            asked = Tokenizer.load(config.tokenizer_path).sha256
            require_same_tokenizer(self.tokenizer.sha256, asked, str(config.tokenizer_path))
        for dataset in self.datasets:
            require_same_tokenizer(self.tokenizer.sha256, dataset.tokenizer_sha256, str(dataset.path))
        self.template = one_template(self.base.path, self.datasets)
        require_one_split(self.datasets)
        if (questions := self.sampler()) is not None:
            questions.require_room(self.shape.sequence_length)
        self.row_order = WeightedMultiDatasetSampler(
            [len(dataset) for dataset in self.datasets], config.data_weights, config.training.seed
        )
        return BatchLoader(
            self.datasets,
            self.row_order,
            batch_size=config.training.batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )

    def _open(self, path: Path, split: Split, *, check: bool) -> SFTDataset:
        dataset = SFTDataset(path, split, packing=self.config.packing, seed=self.config.training.seed, check=check)
        if dataset.sequence_length > self.shape.sequence_length:
            raise ConfigError(
                f"{path} has rows of {dataset.sequence_length} tokens, the model takes {self.shape.sequence_length}",
                "prepare the conversations with a shorter --sequence_length",
            )
        return dataset

    def origin(self) -> dict[str, str]:
        return {"base_weights": self.base.weights_sha256, "template": self.template.name}

    def make_model(self, start: Start) -> Llama:
        config = self.config
        model = Llama(self.shape)
        model.use_attention(choose_attention(config.training.attention)[1])
        full = start.checkpoint if config.method == "full" else None
        set_weights(model, read_weights(full or self.base.path), full or self.base.path)
        if config.method != "full":
            layer_class = adapted_layer(quantized=config.method == "qlora")
            add_lora(model, config.lora, self.row_ids, seed=config.training.seed, layer_class=layer_class)
            if start.checkpoint is not None:
                read_adapter(model, start.checkpoint)
            narrow_frozen(model, self.dtype)
        if config.neftune_alpha is not None:
            add_neftune(model, config.neftune_alpha)
        return model

    @property
    def row_ids(self) -> tuple[int, ...]:
        """The control symbols that pretraining has not taught: their rows are trained whole."""
        template = self.template
        frames = (template.system, template.user, template.assistant)
        parts = {*template.begin, *(part for frame in frames for part in (*frame.before, *frame.after))}
        return tuple(sorted(symbol_id(part) for part in parts.intersection(CONTROL_SYMBOLS).difference(_KNOWN)))

    def objective(self) -> CausalLMObjective:
        most = max(dataset.documents_per_row() for dataset in (*self.datasets, *self.held_out))
        return CausalLMObjective(documents_per_row=most if self.config.packing else None)

    def files(self) -> ModelFiles:
        whole = WholeModel(self.shape, self.tokenizer, self.template)
        if self.config.method == "full":
            return whole
        quantized = self.config.method == "qlora"
        return AdapterFiles(self.base, self.config.lora, self.row_ids, whole, quantized=quantized)

    def validate(self, ranks: Ranks, micro_batch_size: int) -> HeldOutLoss:
        return HeldOutLoss(
            self.held_out,
            self.objective(),
            rows=self.config.training.eval_rows,
            micro_batch_size=micro_batch_size,
            ranks=ranks,
        )

    def sampler(self) -> ChatSamples | None:
        questions = self.config.sample_prompts
        return ChatSamples(self.tokenizer, self.template, questions, self.config.sample_tokens) if questions else None

    def describe(self, model: Llama) -> dict[str, Any]:
        parameters = count_parameters(model.config)
        return {
            "parameters": {
                "total": parameters.total,
                "non_embedding": parameters.non_embedding,
                "trained": num_trainable(model),
            },
            "base": {"path": str(self.base.path), "weights_sha256": self.base.weights_sha256},
            "template": self.template.name,
        }


def open_base(path: Path, *, check: bool) -> Base:
    """Return a model to begin with, hashed where ``check`` says so.

    Raises:
        DataError: no such folder.
        IntegrityError: damaged, or an adapter alone.
    """
    if not path.is_dir():
        raise DataError(f"no model at {path}", "check --model_path; `make pretrain-tiny` trains one")
    if check:
        verify_checkpoint(path)
    return Base.of(path)


def require_one_split(datasets: list[SFTDataset]) -> None:
    """Check that all data sets hold out the same questions: one's held-out may stand in another's training data.

    Raises:
        ConfigError: they do not.
    """
    for dataset in datasets[1:]:
        if dataset.held_out_by != datasets[0].held_out_by:
            shown = " and ".join(
                f"{one.path} with val_fraction {one.held_out_by[0]}, seed {one.held_out_by[1]}"
                for one in (datasets[0], dataset)
            )
            raise ConfigError(
                f"the data sets hold out other questions ({shown}), and one may train on what another holds out",
                "prepare them with one --val_fraction and one --seed",
            )


def one_template(model_path: Path, datasets: list[SFTDataset]) -> Template:
    """Return the template of data sets, which is also that of a model that was tuned before.

    Raises:
        ConfigError: they differ.
    """
    template = datasets[0].template
    for dataset in datasets:
        if dataset.template != template:
            raise ConfigError(
                f"{datasets[0].path} has the template {template.name}, {dataset.path} has {dataset.template.name}",
                "prepare all data sets of a run with one --template",
            )
    tuned = read_template(model_path)
    if tuned is not None and tuned != template:
        raise ConfigError(
            f"{model_path} was tuned with the template {tuned.name}, the data have {template.name}",
            f"prepare the data with --template {tuned.name}, or begin with a base model",
        )
    return template
