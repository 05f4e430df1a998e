"""Evaluation: perplexity and bits per byte with a stated protocol, baselines, and the report of a run."""

from lumi.evaluation.baselines import TokenTrigram, trigram_nats, xz_bits_per_byte
from lumi.evaluation.config import EvaluateConfig
from lumi.evaluation.evaluate import evaluate
from lumi.evaluation.perplexity import HeldOut, Score, read_held_out, score_rows, sliding_windows
from lumi.evaluation.report import ReportConfig, write_report
from lumi.evaluation.results import RESULTS, Compression, Evaluation, Measurement

__all__ = [
    "RESULTS", "Compression", "EvaluateConfig", "Evaluation", "HeldOut", "Measurement", "ReportConfig", "Score",
    "TokenTrigram", "evaluate", "read_held_out", "score_rows", "sliding_windows", "trigram_nats", "write_report",
    "xz_bits_per_byte",
]  # fmt: skip
