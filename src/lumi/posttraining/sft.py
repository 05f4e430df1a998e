"""Supervised fine-tuning: a base model + conversations + the next-token objective over answers, for the engine.

model_path (its weights, its tokenizer) --+
data_dirs (ids, loss mask, template) -----+--> Trainer.fit -> step_N/ with adapter/ -> merged into final/
"""

from pathlib import Path

from lumi.conversation.template import symbol_id
from lumi.data.dataset import Split
from lumi.model import Llama
from lumi.posttraining.neftune import add_neftune
from lumi.posttraining.sft_config import SftConfig
from lumi.posttraining.sft_dataset import SFTDataset
from lumi.posttraining.tuning import Tuning
from lumi.tokenizer.ids import CONTROL_SYMBOLS
from lumi.training import CausalLMObjective, HeldOutLoss, Ranks, train
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


class SupervisedFineTuning(Tuning[SFTDataset, SftConfig]):
    """The recipe (see `Recipe`)."""

    def open_dataset(self, path: Path, split: Split, *, check: bool) -> SFTDataset:
        return SFTDataset(path, split, packing=self.config.packing, seed=self.config.training.seed, check=check)

    def make_model(self, start: Start) -> Llama:
        model = super().make_model(start)
        if self.config.neftune_alpha is not None:
            add_neftune(model, self.config.neftune_alpha)
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

    def validate(self, ranks: Ranks, micro_batch_size: int) -> HeldOutLoss:
        return HeldOutLoss(
            self.held_out,
            self.objective(),
            rows=self.config.training.eval_rows,
            micro_batch_size=micro_batch_size,
            ranks=ranks,
        )
