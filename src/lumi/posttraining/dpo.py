"""Preference tuning: a tuned model + preferences + a loss over pairs, for the engine.

model_path (its weights, tokenizer, template) --> policy, and reference --+
data_dirs (pairs as ids, which tokens are answers) -----------------------+--> Trainer.fit -> step_N/ -> final/
"""

from pathlib import Path

from lumi.conversation import read_template
from lumi.data import BatchLoader
from lumi.data.dataset import Split
from lumi.errors import ConfigError
from lumi.model import Llama, choose_attention, load_model
from lumi.model.lora import narrow_frozen
from lumi.posttraining.dpo_config import DpoConfig
from lumi.posttraining.dpo_objective import AdaptersOff, DPOObjective, FrozenCopy, Reference
from lumi.posttraining.held_out_preferences import HeldOutPreferences
from lumi.posttraining.preference_dataset import PreferenceDataset
from lumi.posttraining.stored_reference import read_reference, store_reference
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
        path = self.config.model_path
        if path.is_dir() and read_template(path) is None:
            raise ConfigError(
                f"{path} is a base model: it was never taught to answer, so that no answer of it can be preferred",
                "begin with final/ of an SFT run (make sft-train-tiny)",
            )
        loader = super().open_data(ranks)
        self.device = ranks.device
        if self.stores_reference and ranks.is_first:
            model = self._reference_model()
            for train_split, val_split in zip(self.datasets, self.held_out, strict=True):
                rows = self.config.training.micro_batch_size or _ROWS_AT_ONCE
                store_reference((train_split, val_split), self.base, model, rows_at_once=rows)
        return loader

    @property
    def stores_reference(self) -> bool:
        stored = self.config.needs_reference and self.config.reference == "stored"
        return stored and not self.config.use_trl_trainer  # TRL works out its own

    def _reference_model(self) -> Llama:
        """Return the model to begin with, as the policy computes with it."""
        model = load_model(self.base.path).requires_grad_(False)
        model.use_attention(choose_attention(self.config.training.attention)[1])
        model.compute_dtype = self.dtype
        narrow_frozen(model, self.dtype)
        return model.to(self.device).eval()

    def make_model(self, start: Start) -> Llama:
        model = super().make_model(start)
        if self.stores_reference:
            for dataset in (*self.datasets, *self.held_out):  # the first rank has checked or made them
                dataset.reference = read_reference(dataset, self.base, self.dtype, check=False)
        return model

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
