"""What to try next: rules that look at the results and at how the model was trained.

Each rule gives one suggestion or none, with its evidence; the first five are shown, what is broken before what could
be better. A rule without its evidence is silent.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumi.assessment.run_history import RunHistory, pretraining_of
from lumi.assessment.targets import Judgement
from lumi.config import Config
from lumi.evaluation.results import Evaluation
from lumi.evaluation.results_folder import evaluate_command

_MOST = 5
_TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, arXiv:2203.15556
_ENOUGH = 0.9  # of them: a run planned for 20 ends a little below
_EPOCHS = 4  # up to which repeated text is nearly as good as new: Muennighoff et al. 2023, arXiv:2305.16264
_GAP = 0.3  # nats a token between training and held-out text: a third more perplexity
_STOP_RATE = 0.8
_REPETITION = 0.3  # share of four-word runs that stood before
_FAR_TEXT = 1.25  # bits per byte of a text against those of the held-out text
_ROSE = 0.01  # nats by which a last validation is worse than the best
_SIZES = ("tiny", "small", "base")


class Suggestion(Config):
    """Something to try."""

    what: str
    evidence: str
    command: str


@dataclass(frozen=True)
class Findings:
    """What rules look at."""

    evaluation: Evaluation
    judgements: Sequence[Judgement]
    size: str | None
    """Whose targets were used."""
    history: RunHistory | None
    """Of the model that was measured."""
    pretraining: RunHistory | None
    """Of the one that it came from; the same for a base model."""
    results_dir: Path

    @property
    def config(self) -> str:
        """Return the config file of a pretraining run of this size, to be filled in where that is none of ours."""
        return f"config/{self.size}.json" if self.size in _SIZES else "CONFIG"

    def more_text(self, phase: str) -> str:
        """Return the command that prepares more text for this size; base has it in two phases."""
        if self.size not in _SIZES:
            return "make prepare-corpus CONFIG=config/datasets/sources/NAME.json"
        return f"make prepare-mix MIX={f'base_{phase}' if self.size == 'base' else self.size}"

    @property
    def model_path(self) -> str:
        return shlex.quote(self.evaluation.model.path)


def findings_of(
    evaluation: Evaluation,
    judgements: Sequence[Judgement],
    size: str | None,
    history: RunHistory | None,
    results_dir: Path,
) -> Findings:
    """Collect what rules look at."""
    pretraining = pretraining_of(history) if history is not None else None
    return Findings(evaluation, judgements, size, history, pretraining, results_dir)


def suggestions_of(findings: Findings) -> tuple[Suggestion, ...]:
    """Return at most five suggestions, the most pressing first."""
    rules: tuple[Callable[[Findings], Suggestion | None], ...] = (
        _training_was_unsteady,
        _not_measured,
        _an_earlier_checkpoint_was_better,
        _too_few_tokens,
        _text_was_repeated,
        _worse_than_a_trigram,
        _answers_do_not_end,
        _it_repeats_itself,
        _other_text_is_hard,
        _targets_missed_though_trained,
        _next_stage,
    )
    found = (rule(findings) for rule in rules)
    return tuple(suggestion for suggestion in found if suggestion is not None)[:_MOST]


def _training_was_unsteady(findings: Findings) -> Suggestion | None:
    history = findings.history
    if history is None or not (history.bad_steps or history.spikes):
        return None
    rate = history.config.get("optimizer", {}).get("learning_rate")
    seen = []
    if history.bad_steps:
        seen.append(f"{history.bad_steps:,} steps had a loss or gradient that is not finite")
    if history.spikes:
        seen.append(f"the loss stood out at {len(history.spikes):,} logged steps, first at {history.spikes[0]:,}")
    return Suggestion(
        what="Train with a lower learning rate",
        evidence="; ".join(seen) + (f"; the learning rate was {rate:g}" if rate else ""),
        command=_train(findings, history, f"--learning_rate {(rate or 0.002) / 2:g}", fresh=True),
    )


def _not_measured(findings: Findings) -> Suggestion | None:
    missing = [
        one.title for one in findings.judgements if one.status == "not measured" and one.words.startswith("not in")
    ]
    missing += [one.name for one in findings.evaluation.missing]
    if not missing:
        return None
    return Suggestion(
        what="Measure what is missing",
        evidence=f"not in the results: {', '.join(dict.fromkeys(missing))}",
        command=evaluate_command(Path(findings.evaluation.model.path), findings.results_dir),
    )


def _an_earlier_checkpoint_was_better(findings: Findings) -> Suggestion | None:
    history = findings.history
    losses = history.held_out_losses if history is not None else []
    if history is None or len(losses) < 2:
        return None
    (best_step, best), (step, last) = min(losses, key=lambda one: one[1]), losses[-1]
    if last - best < _ROSE or history.checkpoint.name == "best":
        return None
    return Suggestion(
        what="Take the checkpoint with the lowest held-out loss, and train shorter or on more text next time",
        evidence=f"held-out loss {best:.3f} at step {best_step:,}, {last:.3f} at step {step:,}",
        command=evaluate_command(history.checkpoint.parent / "best", findings.results_dir),
    )


def _too_few_tokens(findings: Findings) -> Suggestion | None:
    run = findings.pretraining
    if run is None:
        return None
    seen = run.tokens / run.parameters
    if seen >= _ENOUGH * _TOKENS_PER_PARAMETER:
        return None
    counting = _beaten_by_counting(findings)
    steps = math.ceil(_TOKENS_PER_PARAMETER * run.parameters / run.tokens_per_step)
    return Suggestion(
        what=f"Pretrain longer: {_TOKENS_PER_PARAMETER} tokens per parameter are worth their time",
        evidence=f"{run.tokens:,} tokens seen, {seen:.1f} per parameter" + (f"; {counting}" if counting else ""),
        command=_train(findings, run, f"--max_steps {steps}"),
    )


def _text_was_repeated(findings: Findings) -> Suggestion | None:
    run = findings.pretraining
    if run is None:
        return None
    most, epochs = max(run.epochs.items(), key=lambda item: item[1], default=("", 0.0))
    losses = run.held_out_losses
    gap = losses[-1][1] - run.training_loss if losses and run.training_loss is not None else 0.0
    if epochs <= _EPOCHS and gap <= _GAP:
        return None
    evidence = [f"{most} was gone through {epochs:.1f} times"] if epochs > _EPOCHS else []
    if gap > _GAP:
        evidence.append(f"training loss {run.training_loss:.2f}, held-out loss {losses[-1][1]:.2f}")
    return Suggestion(
        what=f"Train on more text rather than on the same again (new text beats more than {_EPOCHS} passes)",
        evidence="; ".join(evidence),
        command=findings.more_text("phase_a"),
    )


def _worse_than_a_trigram(findings: Findings) -> Suggestion | None:
    evidence, run = _beaten_by_counting(findings), findings.pretraining
    if evidence is None or _too_few_tokens(findings) is not None:  # which tells it, and asks for more steps
        return None
    return Suggestion(
        what="Train until it beats counting: a table of token triples predicts better",
        evidence=evidence,
        command=f"lumi pretrain --config {findings.config}"
        if run is None
        else _train(findings, run, f"--max_steps {2 * int(run.run['step'])}"),
    )


def _beaten_by_counting(findings: Findings) -> str | None:
    by_data: dict[str, dict[str, float]] = {}
    for one in findings.evaluation.compression:
        by_data.setdefault(one.data, {})[one.name] = one.bits_per_byte
    for data, figures in by_data.items():
        mine, trigram = figures.get("this model"), figures.get("token trigram")
        if mine is not None and trigram is not None and mine > trigram:
            return f"{data}: {mine:.3f} bits per byte, token trigram {trigram:.3f}"
    return None


def _answers_do_not_end(findings: Findings) -> Suggestion | None:
    history, generation = findings.history, findings.evaluation.generation
    if history is None or not history.is_tuned or generation is None:
        return None
    rate = generation.figures.get("all", {}).get("stop_rate", 1.0)
    if rate >= _STOP_RATE:
        return None
    return Suggestion(
        what="Tune longer, until answers end by themselves",
        evidence=f"{rate:.0%} of its answers ended before their longest length",
        command=_train(findings, history, f"--max_steps {2 * int(history.run['step'])}"),
    )


def _it_repeats_itself(findings: Findings) -> Suggestion | None:
    generation = findings.evaluation.generation
    share = generation.figures.get("all", {}).get("repetition", 0.0) if generation is not None else 0.0
    if share <= _REPETITION:
        return None
    return Suggestion(
        what="Sample with a penalty on repetition (the model itself gets over it with training)",
        evidence=f"{share:.0%} of its four-word runs stood before in the same text",
        command=f"lumi generate --model_path {findings.model_path} --prompt Once --repetition_penalty 1.2",
    )


def _other_text_is_hard(findings: Findings) -> Suggestion | None:
    held_out, texts = findings.evaluation.held_out, findings.evaluation.text
    if not held_out or not texts:
        return None
    mine = min(one.bits_per_byte for one in held_out)
    worst = max(texts, key=lambda one: one.bits_per_byte)
    if worst.bits_per_byte <= _FAR_TEXT * mine:
        return None
    return Suggestion(
        what="Mix in text of more kinds: it knows its own data much better than others'",
        evidence=f"{worst.bits_per_byte:.3f} bits per byte on {worst.name}, {mine:.3f} on held-out text of its own",
        command=findings.more_text("phase_b"),
    )


def _targets_missed_though_trained(findings: Findings) -> Suggestion | None:
    missed = [one for one in findings.judgements if one.status in ("fail", "baseline only")]
    run = findings.pretraining
    if not missed or run is None or findings.size not in _SIZES[:-1] or _too_few_tokens(findings) is not None:
        return None
    larger = _SIZES[_SIZES.index(findings.size) + 1]
    return Suggestion(
        what=f"Train the next size, {larger}: this one has had its tokens",
        evidence=f"{run.tokens / run.parameters:.1f} tokens per parameter; "
        + ", ".join(f"{one.title} {one.shown} ({one.status})" for one in missed),
        command=f"make pretrain-{larger}",
    )


def _next_stage(findings: Findings) -> Suggestion | None:
    history = findings.history
    if history is None or findings.size is None or history.learns_preferences or _too_few_tokens(findings) is not None:
        return None
    if not history.is_tuned:
        return Suggestion(
            what="Teach it to answer",
            evidence="a base model: it continues text and has no turns",
            command=f"make prepare-sft-corpus sft-train-{findings.size}",
        )
    return Suggestion(
        what="Teach it which answers are preferred",
        evidence="tuned on conversations, not on preferences",
        command=f"make prepare-dpo-corpus dpo-train-{findings.size}",
    )


def _train(findings: Findings, run: RunHistory, change: str, *, fresh: bool = False) -> str:
    """Return the command of a run like this one, with one change."""
    if findings.size not in _SIZES:
        sft = dpo = "CONFIG"
    else:
        sft, dpo = f"config/sft_training/lora_{findings.size}.json", f"config/dpo_training/{findings.size}.json"
    if run.learns_preferences:
        stage, config = "dpo", dpo
    elif run.is_tuned:
        stage, config = "sft", sft
    else:
        stage, config = "pretrain", findings.config
    return f"lumi {stage} --config {config} {change}" + (" --fresh" if fresh else "")
