"""The same SFT run through TRL's SFTTrainer: for those who know it, and to hold our own engine against.

Data, their order, initial adapters, optimiser and learning rates are ours; batching, loss and steps are TRL's. The
result lands in final/ as that of our engine does.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import SequentialSampler

from lumi.data import BatchLoader
from lumi.errors import ConfigError
from lumi.model import IGNORE
from lumi.model.lora import adapter_parameters
from lumi.posttraining.adapter_files import ADAPTER, our_names, write_adapter
from lumi.posttraining.sft import SupervisedFineTuning
from lumi.posttraining.sft_config import SftConfig
from lumi.posttraining.sft_dataset import SFTDataset
from lumi.progress import say
from lumi.tokenizer import PAD_ID
from lumi.training import Ranks, join_ranks, learning_rate_factor
from lumi.training.checkpoint import TrainingState, begin_checkpoint, publish_checkpoint, write_common
from lumi.training.optimizer import make_optimizer
from lumi.training.recipe import describe_run
from lumi.training.resume import Start


def sft_with_trl(config: SftConfig) -> Path:
    """Train with TRL; return the ``final/`` folder.

    Raises:
        ConfigError: TRL is not installed, or the run was started by a launcher.
        LumiError: as `sft`.
    """
    return run_with_trl(SupervisedFineTuning(config), make_trl_trainer)


def run_with_trl(recipe: Any, make_trainer: Callable[[Any, Ranks], Any]) -> Path:
    """Train a recipe with the trainer that is made for it; return the ``final/`` folder.

    Raises:
        ConfigError: TRL is not installed, the run was started by a launcher, or there is one already.
    """
    config = recipe.config
    if importlib.util.find_spec("trl") is None:
        raise ConfigError(
            "use_trl_trainer needs the package trl, which is not installed", "pip install 'lumi-lab[trl]'"
        )
    ranks = join_ranks(config.training.device)
    if ranks.world_size > 1:
        raise ConfigError("use_trl_trainer runs in one process", "leave it out to train on several cards")
    loader = recipe.open_data(ranks)
    loader.close()
    final: Path = config.output_dir / "final"
    if final.exists():
        raise ConfigError(f"{final} is there already", "give another --output_dir")
    trainer = make_trainer(recipe, ranks)
    trainer.train()
    step = save_trl(recipe, loader, trainer)
    recipe.files().finish(step, final)
    say(f"trained: {final}")
    return final


def make_trl_trainer(recipe: SupervisedFineTuning, ranks: Ranks, *, evaluate: bool = True) -> Any:
    """Return TRL's trainer over the same model, data and settings; with ``evaluate`` it also validates."""
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        """Takes the data in the order that they come in."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    class WithRows(InOrder):
        """TRL's fused head reads the frozen weight alone: where rows of the head are trained it must not be used."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            logits, following = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            total = F.cross_entropy(logits.float(), following, ignore_index=IGNORE, reduction="sum")
            loss = total / ((following != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    config, training = recipe.config, recipe.config.training
    taken = conversations_of_run(recipe)
    settings = trl_settings(recipe, ranks, len(taken), evaluate=evaluate)
    arguments = TrlConfig(**settings, neftune_noise_alpha=config.neftune_alpha)
    held_out = [_example(dataset, index) for dataset in recipe.held_out for index in range(len(dataset.lengths))]
    base = LlamaForCausalLM.from_pretrained(recipe.base.path, dtype=torch.float32)
    model = with_adapter(recipe, base) if config.method == "lora" else base
    tokenizer = AutoTokenizer.from_pretrained(recipe.base.path)
    tokenizer.pad_token_id = PAD_ID
    rows_trained = config.method == "lora" and bool(recipe.row_ids)
    return (WithRows if rows_trained else InOrder)(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([_example(*one) for one in taken]),
        eval_dataset=Dataset.from_list(held_out[: training.eval_rows]),
        processing_class=tokenizer,
        optimizers=our_optimizer(recipe, model),
    )


def trl_settings(recipe: Any, ranks: Ranks, num_examples: int, *, evaluate: bool) -> dict[str, Any]:
    """Return the arguments that all of TRL's trainers take, so that all examples are seen in the run's steps."""
    config, training = recipe.config, recipe.config.training
    accumulation = training.batch_size // (training.micro_batch_size or training.batch_size)
    micro = max(1, round(num_examples / config.schedule.max_steps / accumulation))
    return {
        "output_dir": str(config.output_dir / "trl"),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": config.schedule.max_steps,
        "max_grad_norm": config.optimizer.max_grad_norm,
        "max_length": None,  # the data are of the right length
        "logging_steps": training.log_steps,
        "eval_strategy": "steps" if evaluate else "no",
        "eval_on_start": evaluate,
        "eval_steps": training.eval_interval(config.schedule),
        "save_strategy": "no",
        "gradient_checkpointing": training.activation_checkpointing,
        "bf16": recipe.dtype == torch.bfloat16,
        "fp16": recipe.dtype == torch.float16,
        "use_cpu": ranks.device.type == "cpu",
        "seed": training.seed,
        "report_to": "none",
        "pad_to_multiple_of": None,
        "dataloader_num_workers": 0,
        "torch_compile": bool(training.compile),
    }


def our_optimizer(recipe: Any, model: Any) -> tuple[Any, Any]:
    """Return the optimiser and the schedule of our engine, over a model of transformers or PEFT."""
    config = recipe.config
    parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, config.optimizer)
    factor = partial(learning_rate_factor, config=config.schedule)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def conversations_of_run(recipe: SupervisedFineTuning) -> list[tuple[SFTDataset, int]]:
    """Return the conversations of all steps, in the order of our own rows.

    TRL takes as many a step as our rows hold on the average.
    """
    config = recipe.config
    rows = config.schedule.max_steps * config.training.batch_size
    which, row = recipe.row_order.samples(0, rows)
    return [
        (recipe.datasets[dataset], conversation)
        for dataset, number in zip(which.tolist(), row.tolist(), strict=True)
        for conversation in recipe.datasets[dataset].conversations_in(number)
    ]


def _example(dataset: SFTDataset, index: int) -> dict[str, list[int]]:
    rendered = dataset.conversation(index)
    labels = [token if loss else IGNORE for token, loss in zip(rendered.ids.tolist(), rendered.loss, strict=True)]
    return {"input_ids": rendered.ids.tolist(), "labels": labels}


def with_adapter(recipe: Any, base: Any) -> Any:
    """Put the adapter that our engine would begin with into transformers' model, through PEFT."""
    from peft import PeftModel

    mine = adapter_parameters(recipe.make_model(Start(None)))
    with tempfile.TemporaryDirectory() as scratch:
        weights = {name: parameter.detach() for name, parameter in mine.items()}
        write_adapter(weights, recipe.config.lora, recipe.row_ids, recipe.base, Path(scratch))
        return PeftModel.from_pretrained(base, Path(scratch) / ADAPTER, is_trainable=True)


def save_trl(recipe: Any, loader: BatchLoader, trainer: Any) -> Path:
    """Write what TRL has trained as a checkpoint of ours, without a state to resume from."""
    config = recipe.config
    steps = config.schedule.max_steps
    folder: Path = config.output_dir / f"step_{steps}"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if config.method == "lora":
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            weights = our_names(load_file(Path(scratch) / "adapter_model.safetensors"))
    else:
        weights = {name: tensor.float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    log = [_record(entry) for entry in trainer.state.log_history]
    tokens = sum(entry.get("num_tokens", 0) for entry in trainer.state.log_history[-1:])
    state = TrainingState({"step": steps, "tokens": int(tokens)}, {}, {}, log, rows={})
    description = {**describe_run(recipe, loader, Start(None)), "step": steps, "tokens": int(tokens), "trainer": "trl"}
    description["settings"]["trainer"] = "trl"  # our engine cannot go on from it
    begin_checkpoint(folder)
    files = recipe.files()
    outputs = write_common(folder, lambda partial: files.write(weights, partial), state, description)
    publish_checkpoint(folder, outputs, {**config.identity(), **recipe.origin(), "trainer": "trl"}, state.progress)
    return folder


def _record(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of TRL's log in our words."""
    if "eval_loss" in entry:
        return {"step": entry["step"], "val_loss": {"held out": entry["eval_loss"]}}
    return {
        "step": entry["step"],
        **{key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry},
    }
