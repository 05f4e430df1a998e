"""The engine behind all training: Trainer, objectives, optimiser, schedules, checkpoints, metrics."""

from lumi.training.checkpoint import newest_complete, read_run, read_state, read_weights, verify_checkpoint
from lumi.training.config import TrainingConfig
from lumi.training.distributed import Ranks, join_ranks
from lumi.training.metrics import METRICS, read_metrics
from lumi.training.model_files import ModelFiles, WholeModel
from lumi.training.objective import CausalLMObjective, Objective, next_token_labels
from lumi.training.optimizer import OptimizerConfig
from lumi.training.recipe import Recipe, train
from lumi.training.run_config import RunConfig
from lumi.training.saver import RunFolder
from lumi.training.schedule import ScheduleConfig, learning_rate_factor
from lumi.training.trainer import Trainer
from lumi.training.validation import HeldOutLoss

__all__ = [
    "METRICS", "CausalLMObjective", "HeldOutLoss", "ModelFiles", "Objective", "OptimizerConfig", "Ranks", "Recipe",
    "RunConfig", "RunFolder", "ScheduleConfig", "Trainer", "TrainingConfig", "WholeModel", "join_ranks",
    "learning_rate_factor", "newest_complete", "next_token_labels", "read_metrics", "read_run", "read_state",
    "read_weights", "train", "verify_checkpoint",
]  # fmt: skip
