"""Smoke prompts: what a model writes, by category of prompt, and what the models that it came from wrote.

    base model:   prompt ---------------------------------------> continuation
    tuned model:  question -> its template, the answer's turn --> answer

A base model has no turns: in the comparison of stages it reads the question as the tuned one does, untaught.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from lumi.artifacts import MANIFEST, read_manifest
from lumi.config import Config, read_json_object
from lumi.conversation import Message, Template, render
from lumi.corpus.language import languages_of
from lumi.evaluation.generation_checks import figures_of
from lumi.evaluation.language_model import LanguageModel, LumiModel
from lumi.evaluation.results import GenerationResult, Sample, StageAnswers, StagesResult
from lumi.inference import Completion, GenerationConfig
from lumi.model import load_model
from lumi.model.pretrained import CHECKPOINT, WEIGHTS
from lumi.progress import progress, say
from lumi.tokenizer import Tokenizer

_SHORTEST_TO_TELL = 40  # characters: the language of less is a guess
_PROTOCOL = "at most {tokens} tokens, temperature {temperature}, top-p {top_p}, seed {seed}; {form}"


Prompts = Annotated[tuple[str, ...], Field(min_length=1)]


class SmokePrompts(Config):
    """Prompts by category."""

    description: str = ""
    """What they are for."""
    continue_: dict[str, Prompts] = Field(min_length=1)
    """For a base model, to go on with."""
    answer: dict[str, Prompts] = Field(min_length=1)
    """For a tuned model, to answer."""

    @classmethod
    def read(cls, path: Path) -> "SmokePrompts":
        """Read the file (its key is ``continue``, which Python keeps for itself).

        Raises:
            ConfigError: missing, or not as described.
        """
        values = read_json_object(path)
        if "continue" in values:
            values["continue_"] = values.pop("continue")
        return cls.from_values(values, str(path))


def write_samples(
    model: LanguageModel, template: Template | None, prompts: SmokePrompts, settings: GenerationConfig
) -> GenerationResult:
    """Let a model write to every prompt, and count."""
    asked = prompts.answer if template else prompts.continue_
    pairs = [(category, prompt) for category, group in asked.items() for prompt in group]
    completions = _complete(model, template, [prompt for _, prompt in pairs], settings, "smoke prompts")
    samples = tuple(
        Sample(
            category=category,
            prompt=prompt,
            text=_readable(completion.text, template),
            tokens=len(completion.token_ids),
            ended=completion.finish_reason == "stop",
            language=_language(completion.text),
        )
        for (category, prompt), completion in zip(pairs, completions, strict=True)
    )
    figures = {"all": _figures(samples, completions)}
    for category in asked:
        chosen = [number for number, (name, _) in enumerate(pairs) if name == category]
        figures[category] = _figures([samples[n] for n in chosen], [completions[n] for n in chosen])
    return GenerationResult(
        protocol=_protocol(settings, template),
        form="answer" if template else "continuation",
        figures=figures,
        samples=samples,
    )


def _figures(samples: Sequence[Sample], completions: Sequence[Completion]) -> dict[str, float]:
    told = [sample for sample in samples if sample.language is not None]
    english = sum(sample.language == "en" for sample in told) / len(told) if told else 0.0
    return {**figures_of(completions).to_json(), "english": english}


def _complete(
    model: LanguageModel, template: Template | None, prompts: Sequence[str], settings: GenerationConfig, label: str
) -> list[Completion]:
    if template is not None:
        assert isinstance(model, LumiModel), "only ours have a template of ours"
        settings = settings.model_copy(update={"stop_ids": template.stop_ids})
        asked = [
            render([Message("user", prompt)], template, model.tokenizer, asks=True).ids.tolist() for prompt in prompts
        ]
    else:
        asked = [[*model.begin, *model.encode(prompt)] or [model.prefix] for prompt in prompts]
    room = max(1, model.context - settings.max_new_tokens)
    asked = [ids if len(ids) < model.context else ids[-room:] for ids in asked]  # its beginning is cut off
    completions = []
    with progress(label, total=len(asked), unit="texts") as bar:
        for first in range(0, len(asked), settings.batch_size):
            # the draws of a text are named by its place in the call, so each batch has a seed of its own
            batch = settings.model_copy(update={"seed": settings.seed + first})
            completions += model.complete(asked[first : first + settings.batch_size], batch)
            bar.advance(len(completions) - first)
    return completions


def _readable(text: str, template: Template | None) -> str:
    return text.strip() if template else text


def _language(text: str) -> str | None:
    return languages_of([text])[0][0] if len(text.strip()) >= _SHORTEST_TO_TELL else None


def _protocol(settings: GenerationConfig, template: Template | None) -> str:
    form = f"asked by the {template.name} template" if template else "the prompt is continued"
    return _PROTOCOL.format(
        tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        form=form,
    )


def earlier_models(checkpoint: Path) -> list[Path]:
    """Return the models that one came from, the earliest first, as far as they are still there."""
    found: list[Path] = []
    at = checkpoint
    while (run := at / "run.json").is_file() and (base := read_json_object(run).get("base")):
        at = Path(base["path"])
        if _weights_sha256(at) != base["weights_sha256"]:
            say(f"the model that this one came from is not in {at} any more: it is left out, and those before it")
            break
        if at in found:
            break
        found.append(at)
    return found[::-1]


def _weights_sha256(checkpoint: Path) -> str | None:
    if not (checkpoint / MANIFEST).is_file():
        return None
    return read_manifest(checkpoint, CHECKPOINT, "train it again").sha256_of(WEIGHTS)


def ask_stages(
    paths: Sequence[Path],
    template: Template,
    prompts: Mapping[str, Sequence[str]],
    settings: GenerationConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> StagesResult:
    """Ask a model and those that it came from (the earliest first) the same questions, in the last one's template."""
    questions = [prompt for group in prompts.values() for prompt in group]
    answers, figures, names = [], [], []
    for path in paths:
        model = LumiModel(load_model(path, device=device, dtype=dtype), Tokenizer.load(path))
        completions = _complete(model, template, questions, settings, f"asking {path.parent.name}")
        answers.append([completion.text.strip() for completion in completions])
        figures.append(figures_of(completions).to_json())
        names.append("/".join(path.parts[-3:]))
    return StagesResult(
        protocol=_protocol(settings, template),
        stages=tuple(names),
        answers=tuple(
            StageAnswers(prompt=question, answers=tuple(found))
            for question, *found in zip(questions, *answers, strict=True)
        ),
        figures=tuple(figures),
    )
