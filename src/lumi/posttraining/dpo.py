"""Preference tuning: a tuned model + preferences + a loss over pairs, for the engine.

model_path (its weights, tokenizer, template) --> policy, and reference --+
data_dirs (pairs as ids, which tokens are answers) -----------------------+--> Trainer.fit -> step_N/ -> final/
"""

from pathlib import Path

import torch

from lumi.conversation import read_template
from lumi.data import BatchLoader
from lumi.data.dataset import Split
from lumi.errors import ConfigError
from lumi.model import Llama, release_memory
from lumi.model.lora import narrow_frozen, set_adapters
from lumi.posttraining.dpo_config import DpoConfig
from lumi.posttraining.dpo_objective import AdaptersOff, DPOObjective, FrozenCopy, Reference
from lumi.posttraining.held_out_preferences import HeldOutPreferences
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.stored_reference import ReferenceModel, read_reference, store_reference
from lumi.posttraining.tuning import Tuning
from lumi.training import Ranks, train
from lumi.training.resume import Start

_ROWS_AT_ONCE = 8


def dpo(config: DpoConfig) -> Path:
    """Train, or continue, or find it done; return the ``final/`` folder.

    Raises:
        LumiError: what was asked for cannot be done; with several ranks, rank 0 says so and all exit with 1.
        SystemExit: 130 or 143 after an interruption.
    """
    if config.use_trl_trainer:
        from lumi.posttraining.trl_preferences import dpo_with_trl

        return dpo_with_trl(config)
    return train(PreferenceTuning(config))


class PreferenceTuning(Tuning[PreferenceDataset, DpoConfig]):
    """The recipe (see `Recipe`)."""

    def open_dataset(self, path: Path, split: Split, *, check: bool) -> PreferenceDataset:
        return PreferenceDataset(path, split, seed=self.config.training.seed, check=check)

    def open_data(self, ranks: Ranks) -> BatchLoader:
        self.ranks = ranks
        loader = super().open_data(ranks)
        if read_template(self.base.path) is None:
            raise ConfigError(
                f"{self.base.path} is a base model: it was never taught to answer, so that no answer of it can be"
                " preferred",
                "begin with final/ of an SFT run (make sft-train-tiny)",
            )
        return loader

    @property
    def stores_reference(self) -> bool:
        stored = self.config.needs_reference and self.config.reference == "stored"
        return stored and not self.config.use_trl_trainer  # TRL works out its own

    def make_model(self, start: Start) -> Llama:
        if self.stores_reference:
            self._find_reference()
        if self.config.method == "full":
            self._reference()  # stands on the device before the micro-batch is chosen by what is free there
        return super().make_model(start)

    def _find_reference(self) -> None:
        reference = ReferenceModel(
            weights_sha256=self.base.weights_sha256,
            dtype=str(self.dtype).removeprefix("torch."),
            quantized=tuple(sorted(self.config.lora.targets)) if self.config.method == "qlora" else (),
        )
        rows = self.config.training.micro_batch_size or _ROWS_AT_ONCE
        for both in zip(self.datasets, self.held_out, strict=True):
            store_reference(both, reference, self._reference_model, self.ranks, rows_at_once=rows)
            for dataset in both:
                dataset.reference = read_reference(dataset, reference, check=self.ranks.local_rank == 0)
        release_memory(self.ranks.device)

    def _reference_model(self) -> Llama:
        """Return the model to begin with, as the policy computes with it."""
        with torch.random.fork_rng(devices=[]):  # the run's own draws must not depend on whether one is needed
            model = super().make_model(Start(None)).requires_grad_(False)
        set_adapters(model, on=False)
        narrow_frozen(model, self.dtype)
        model.compute_dtype = self.dtype
        return model.to(self.ranks.device).eval()

    def _reference(self) -> Reference:
        if self.config.method != "full":
            return AdaptersOff()
        if not hasattr(self, "_copy"):
            self._copy = FrozenCopy(self._reference_model())
        return self._copy

    def objective(self) -> DPOObjective:
        config = self.config
        live = config.needs_reference and config.reference == "live"
        return DPOObjective(
            config.loss,
            config.numbers,
            pairs_per_row=max(dataset.documents_per_row() for dataset in (*self.datasets, *self.held_out)),
            nll_weight=config.nll_weight,
            reference=self._reference() if live else None,
        )

    def validate(self, ranks: Ranks, micro_batch_size: int) -> HeldOutPreferences:
        return HeldOutPreferences(
            self.held_out,
            self.objective(),
            reference=self._reference(),
            rows=self.config.training.eval_rows,
            micro_batch_size=micro_batch_size,
            ranks=ranks,
        )
