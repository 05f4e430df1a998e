"""What SFT and DPO have in common: a model to begin with, data of its words and template, adapters or all weights."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from lumi.conversation import Template, read_template
from lumi.data import BatchLoader, Rows, WeightedMultiDatasetSampler
from lumi.data.dataset import Split
from lumi.errors import ConfigError, DataError
from lumi.model import Llama, choose_attention, choose_dtype, count_parameters, read_model_config
from lumi.model.lora import LoraConfig, add_lora, narrow_frozen
from lumi.model.pretrained import set_weights
from lumi.posttraining.adapter_files import Base, read_adapter
from lumi.posttraining.chat_samples import ChatSamples
from lumi.posttraining.merge import AdapterFiles, adapted_layer
from lumi.tokenizer import Tokenizer, require_same_tokenizer
from lumi.training import ModelFiles, Ranks, RunConfig, WholeModel, read_weights, verify_checkpoint
from lumi.training.recipe import num_trainable
from lumi.training.resume import Start

QUESTIONS = (
    "What is the capital of France?",
    "Explain in one sentence what a river is.",
    "Write a short poem about the sea.",
    "Why do people sleep?",
    "Give me three tips for learning a language.",
    "Who was Isaac Newton?",
    "Hello! How are you today?",
    "What is 2 + 2?",
)


class TuningConfig(RunConfig):
    """Go on training a model; the same command again resumes."""

    not_identity: ClassVar[frozenset[str]] = RunConfig.not_identity | {
        "model_path", "sample_prompts", "sample_tokens", "use_trl_trainer",
    }  # fmt: skip
    fixed: ClassVar[tuple[str, ...]] = ("method", "lora.")
    alone: ClassVar[tuple[str, ...]] = ("method",)
    """Settings that stand in no section."""

    model_path: Path
    """The model to begin with: final/ of a run."""
    method: Literal["lora", "qlora", "full"] = "lora"
    """lora: small matrices beside the frozen ones; qlora: those in four bits (bitsandbytes); full: all weights."""
    lora: LoraConfig = LoraConfig()
    sample_prompts: tuple[Annotated[str, Field(pattern=r"\S")], ...] = QUESTIONS
    """Asked at each validation; none: no samples."""
    sample_tokens: int = Field(default=100, gt=0)
    """Longest answer of these samples."""
    use_trl_trainer: bool = False
    """Train with TRL in place of our engine; one process, no resume."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.method == "qlora" and (self.use_trl_trainer or self.lora.use_dora):
            raise ValueError("method qlora goes neither with use_trl_trainer nor with lora.use_dora")
        if self.use_trl_trainer and (self.resume_from_checkpoint or self.fresh):
            raise ValueError("use_trl_trainer begins in a new folder: it goes with neither resume nor fresh")
        return self

    def settings(self) -> dict[str, Any]:
        flat = {**super().settings(), **{name: getattr(self, name) for name in self.alone}}
        return flat if self.method != "full" else {k: v for k, v in flat.items() if not k.startswith("lora.")}


class TuningData(Rows, Protocol):
    """Rows of conversations."""

    tokenizer_sha256: str
    template: Template
    held_out_by: tuple[float, int]


Data = TypeVar("Data", bound=TuningData)
Settings = TypeVar("Settings", bound=TuningConfig)


class Tuning(Generic[Data, Settings]):
    """The parts of the recipe (see `Recipe`) that do not depend on the objective."""

    begins_trained = True
    tokenizer: Tokenizer
    template: Template

    def __init__(self, config: Settings) -> None:
        self.config = config

    def open_dataset(self, path: Path, split: Split, *, check: bool) -> Data:
        raise NotImplementedError

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

    def _open(self, path: Path, split: Split, *, check: bool) -> Data:
        dataset = self.open_dataset(path, split, check=check)
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
        return model

    @property
    def row_ids(self) -> tuple[int, ...]:
        """Tokens whose rows in embedding and head are trained beside the adapters."""
        return ()

    def files(self) -> ModelFiles:
        whole = WholeModel(self.shape, self.tokenizer, self.template)
        if self.config.method == "full":
            return whole
        quantized = self.config.method == "qlora"
        return AdapterFiles(self.base, self.config.lora, self.row_ids, whole, quantized=quantized)

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
        raise DataError(f"no model at {path}", "check --model_path; pretraining and SFT end with one: OUTPUT_DIR/final")
    if check:
        verify_checkpoint(path)
    return Base.of(path)


def require_one_split(datasets: list[Any]) -> None:
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


def one_template(model_path: Path, datasets: list[Any]) -> Template:
    """Return the template of data sets, which is also that of a model that was tuned before.

    Raises:
        ConfigError: they differ.
    """
    template: Template = datasets[0].template
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
            f"prepare the data with --template {tuned.name}, or begin with a model that was not tuned with another",
        )
    return template
