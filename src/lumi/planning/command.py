"""`lumi plan`: the plan as a table in a terminal, as plain lines when piped."""

import sys
from collections.abc import Iterator

from lumi.planning.config import PlanConfig
from lumi.planning.estimate import FILL, GIB, TOKENS_PER_PARAMETER, Fit, Plan, find_target, make_plan
from lumi.planning.probe import probe

Section = tuple[str, list[tuple[str, str]]]


def plan(config: PlanConfig) -> None:
    """Print what a run will cost.

    Raises:
        ConfigError: an unknown card, or a model that cannot be trained on it.
    """
    target = find_target(config)
    made = make_plan(config, target)
    if config.probe:
        measured = probe(config, micro_batch_size=made.fit.micro_batch_size, recompute=made.fit.recompute)
        made = make_plan(config, target, measured)
    sections = list(_sections(made, config))
    if sys.stdout.isatty():
        _print_tables(sections)
        return
    width = max(len(label) for _, lines in sections for label, _ in lines)
    for number, (title, lines) in enumerate(sections):
        print(f"{'' if number == 0 else chr(10)}{title}")
        for label, value in lines:
            print(f"  {label:<{width}}  {value}")


def _sections(made: Plan, config: PlanConfig) -> Iterator[Section]:
    parameters, fit = made.parameters, made.fit
    spread = (
        f"{made.num_gpus} x {made.target.name}, {config.training.parallel}" if made.num_gpus > 1 else made.target.name
    )
    yield (
        f"{made.name} on {spread}",
        [
            ("parameters", f"{_millions(parameters.total)} ({_millions(parameters.non_embedding)} without embeddings)"),
            ("Chinchilla tokens", f"{_millions(made.chinchilla_tokens)} ({TOKENS_PER_PARAMETER} per parameter)"),
            (
                "tokens of this run",
                f"{_millions(made.tokens)} ({made.tokens_per_parameter:.1f} per parameter):"
                f" {config.schedule.max_steps:,} steps of {config.training.batch_size} rows of"
                f" {config.model.sequence_length}",
            ),
            ("floating-point operations", f"{made.flops:.2e}"),
            ("time", _time(made)),
            *([("", made.speed.source)] if made.speed else []),
        ],
    )
    memory = fit.memory
    yield (
        f"memory of one card, {fit.micro_batch_size} rows in a forward pass, activation checkpointing"
        f" {'on' if fit.recompute else 'off'}",
        [
            ("weights", _gib(memory.weights)),
            ("gradients", _gib(memory.gradients)),
            ("optimiser", _gib(memory.optimizer)),
            ("activations", _gib(memory.activations)),
            ("logits", _gib(memory.logits)),
            (
                "total",
                f"{_gib(memory.total)} of {_gib(made.target.memory_bytes)}"
                f" ({memory.total / made.target.memory_bytes:.0%}; at most {FILL:.0%} is planned with)",
            ),
            *([("measured", _measured(made))] if made.measured else []),
            *([] if made.fit_is_as_asked else [("not as configured", f"that does not fit; pass {_options(fit)}")]),
            ("most rows, checkpointing off", _fit(made.largest_kept)),
            ("most rows, checkpointing on", _fit(made.largest_recomputed)),
        ],
    )
    yield (
        "what to pass on other cards",
        [
            (f"{preset.memory_gb} GB", f"{_options(preset.fit)}  ({_gib(preset.fit.memory.total)})"
             if preset.fit else "cannot fit, not even one row with activation checkpointing")
            for preset in made.presets
        ],
    )  # fmt: skip
    limit = config.training.save_total_limit
    kept = "all of them are kept" if limit is None else f"the newest {limit}, the best, and one being written"
    yield (
        "disk",
        [
            ("packed data", f"{_gb(made.packed_bytes)} if each token is seen once"),
            ("one checkpoint", f"{_gb(made.checkpoint_bytes)} (float32 weights and two moments)"),
            (
                "checkpoints",
                f"{_gb(made.num_checkpoints * made.checkpoint_bytes)}: at most {made.num_checkpoints} at once ({kept})",
            ),
        ],
    )


def _time(made: Plan) -> str:
    if made.hours is None or made.speed is None:
        return "not known for this machine: --probe measures it, --tokens_per_second gives it"
    shown = f"{made.hours:,.1f} hours" if made.hours >= 1 else f"{made.hours * 60:,.1f} minutes"
    return f"{shown} at {made.speed.tokens_per_second:,.0f} tokens/s, without validations"


def _measured(made: Plan) -> str:
    assert made.measured is not None
    if not made.measured.on_card:
        return f"{_gib(made.measured.peak_bytes)} resident, Python and libraries included"
    off = made.fit.memory.total / made.measured.peak_bytes - 1
    return f"{_gib(made.measured.peak_bytes)}; the estimate is off by {off:+.1%}"


def _fit(fit: Fit | None) -> str:
    return "not even one fits" if fit is None else f"{fit.micro_batch_size} ({_gib(fit.memory.total)})"


def _options(fit: Fit) -> str:
    checkpointing = "--activation_checkpointing" if fit.recompute else "--no_activation_checkpointing"
    return f"--micro_batch_size {fit.micro_batch_size} {checkpointing}"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f}M"


def _gib(number: float) -> str:
    return f"{number / GIB:.2f} GiB"


def _gb(number: float) -> str:
    return f"{number / 1e9:,.2f} GB"


def _print_tables(sections: list[Section]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    for title, lines in sections:
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_header=False)
        for label, value in lines:
            table.add_row(label, value)
        console.print(table)
