"""The same DPO run through TRL's DPOTrainer: for those who know it, and to hold our own engine against.

Data, their order, initial adapters, optimiser and learning rates are ours; batching, loss, reference and steps are
TRL's. The result lands in final/ as that of our engine does.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import SequentialSampler

from lumi.errors import ConfigError
from lumi.posttraining.dpo import PreferenceTuning
from lumi.posttraining.dpo_config import DpoConfig
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.trl_backend import our_optimizer, run_with_trl, trl_settings, with_adapter
from lumi.tokenizer import PAD_ID
from lumi.training import Ranks

_THEIRS = ("sigmoid", "ipo", "hinge", "robust")


def dpo_with_trl(config: DpoConfig) -> Path:
    """Train with TRL; return the ``final/`` folder.

    Raises:
        ConfigError: TRL has no such loss, is not installed, or the run was started by a launcher.
        LumiError: as `dpo`.
    """
    if config.loss not in _THEIRS or config.nll_weight:
        raise ConfigError(
            f"TRL's DPOTrainer does not have loss {config.loss} with nll_weight {config.nll_weight}",
            f"use one of {', '.join(_THEIRS)} without nll_weight, or leave out --use_trl_trainer",
        )
    return run_with_trl(PreferenceTuning(config), make_trl_trainer)


def make_trl_trainer(recipe: PreferenceTuning, ranks: Ranks, *, evaluate: bool = True) -> Any:
    """Return TRL's trainer over the same model, data and settings; with ``evaluate`` it also validates."""
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig as TrlConfig
    from trl import DPOTrainer

    class InOrder(DPOTrainer):  # type: ignore[misc]
        """Takes the data as ids, and in the order that they come in."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    config = recipe.config
    taken = pairs_of_run(recipe)
    arguments = TrlConfig(
        **trl_settings(recipe, ranks, len(taken), evaluate=evaluate),
        beta=config.beta,
        loss_type=[config.loss],
        label_smoothing=config.label_smoothing,
        disable_dropout=False,
        precompute_ref_log_probs=config.reference == "stored",
    )
    held_out = [_example(dataset, pair) for dataset in recipe.held_out for pair in range(len(dataset.lengths))]
    base = LlamaForCausalLM.from_pretrained(recipe.base.path, dtype=torch.float32)
    model = with_adapter(recipe, base) if config.method == "lora" else base
    tokenizer = AutoTokenizer.from_pretrained(recipe.base.path)
    tokenizer.pad_token_id = PAD_ID
    return InOrder(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([_example(*one) for one in taken]),
        eval_dataset=Dataset.from_list(held_out[: config.training.eval_rows]),
        processing_class=tokenizer,
        optimizers=our_optimizer(recipe, model),
    )


def pairs_of_run(recipe: PreferenceTuning) -> list[tuple[PreferenceDataset, int]]:
    """Return the pairs of all steps, in the order of our own rows.

    TRL takes as many a step as our rows hold on the average.
    """
    config = recipe.config
    which, row = recipe.row_order.samples(0, config.schedule.max_steps * config.training.batch_size)
    return [
        (recipe.datasets[dataset], pair)
        for dataset, number in zip(which.tolist(), row.tolist(), strict=True)
        for pair in recipe.datasets[dataset].pairs_in(number)
    ]


def _example(dataset: PreferenceDataset, pair: int) -> dict[str, Any]:
    """Return a pair as TRL's collator takes it; what follows the end of an answer bears no loss and is left out."""
    out: dict[str, Any] = {}
    for side, name in enumerate(("chosen_ids", "rejected_ids")):
        rendered = dataset.files[2 * pair + side]
        scored = np.flatnonzero(rendered.loss)
        first, end = int(scored[0]), int(scored[-1]) + 1
        out["prompt_ids"] = rendered.ids[:first].tolist()
        out[name] = rendered.ids[first:end].tolist()
    return out
