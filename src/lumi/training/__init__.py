"""The engine behind all training: Trainer, objectives, optimiser, schedules, checkpoints, metrics."""

from lumi.training.checkpoint import newest_complete, read_run, read_state, read_weights, verify_checkpoint
from lumi.training.config import TrainingConfig
from lumi.training.distributed import Ranks, join_ranks
from lumi.training.metrics import METRICS, read_metrics
from lumi.training.objective import CausalLMObjective, Objective, next_token_labels
from lumi.training.optimizer import OptimizerConfig
from lumi.training.saver import RunFolder
from lumi.training.schedule import ScheduleConfig, learning_rate_factor
from lumi.training.trainer import Trainer

__all__ = [
    "METRICS", "CausalLMObjective", "Objective", "OptimizerConfig", "Ranks", "RunFolder", "ScheduleConfig", "Trainer",
    "TrainingConfig", "join_ranks", "learning_rate_factor", "newest_complete", "next_token_labels", "read_metrics",
    "read_run", "read_state", "read_weights", "verify_checkpoint",
]  # fmt: skip
