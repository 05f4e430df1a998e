"""The whole road in one command.

    corpus -> tokenizer -> packing -> pretraining -> conversations -> SFT -> preferences -> DPO
                                    -> evaluation -> samples -> report

`make demo` walks it on the embedded text, `make test-pipeline` on synthetic text. Every step is the stage that
the numbered scripts run; this file only calls them in order, under one folder of their own.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from lumi.config import Config
from lumi.model.attention import AttentionName
from lumi.progress import console, say

if TYPE_CHECKING:
    from lumi.evaluation.results import Compression
    from lumi.training import RunConfig

RunT = TypeVar("RunT", bound="RunConfig")


class DataRecipe(Config):
    """From a corpus to packed rows: the tokenizer and packing configs of one data set."""

    description: str = ""
    """What this recipe is for."""
    tokenizer: dict[str, Any]
    """As for 02_train_tokenizer.py."""
    packing: dict[str, Any]
    """As for 03_pack_dataset.py."""


class DemoConfig(Config):
    """The whole road, from raw text to a report, under one folder; run again, every finished step is kept."""

    corpus: Path = Path("config/datasets/sources/embedded.json")
    """Config of the corpus stage."""
    data: Path = Path("config/datasets/training_configs/demo.json")
    """Config of tokenizer and packing."""
    pretrain: Path = Path("config/demo.json")
    """Config of the pretraining run."""
    conversations: Path = Path("config/sft_datasets/embedded.json")
    """Config of the conversations that it then learns to answer."""
    sft: Path = Path("config/sft_training/demo.json")
    """Config of the SFT run."""
    preferences: Path = Path("config/dpo_datasets/embedded.json")
    """Config of the preferences between answers that it learns then."""
    dpo: Path = Path("config/dpo_training/demo.json")
    """Config of the DPO run."""
    questions: tuple[str, ...] = ("Hello", "What is water?", "Who was Isaac Newton?", "Tell me about Paris.")
    """Asked before SFT, after it, and after DPO."""
    output_dir: Path = Path("runs/demo")
    """Everything is written below this folder."""
    prompts: tuple[str, ...] = ("The history of", "A computer is", "In 1969,", "Water is")
    """What the trained model continues at the end."""
    attention: AttentionName | None = None
    """Attention back end of the training; default: what the pretraining config says."""
    sample_tokens: int = Field(default=60, gt=0)
    """Length of each continuation."""


def run_demo(config: DemoConfig) -> Path:
    """Walk the whole road; return the path of the HTML report."""
    # Imported here: `lumi --help` and the checks of a config need none of it.
    from lumi.corpus import CorpusConfig, prepare_corpus
    from lumi.data import PackConfig, pack_dataset
    from lumi.evaluation import EvaluateConfig, evaluate
    from lumi.model import choose_attention
    from lumi.posttraining import (
        DpoConfig,
        DpoCorpusConfig,
        SftConfig,
        SftCorpusConfig,
        dpo,
        prepare_dpo_corpus,
        prepare_sft_corpus,
        sft,
    )
    from lumi.pretraining import PretrainConfig, pretrain
    from lumi.reporting import ReportConfig, write_report
    from lumi.tokenizer import TokenizerConfig, train_tokenizer

    started = time.monotonic()
    root = config.output_dir
    corpus_dir, tokenizer_dir, data_dir = root / "corpus", root / "tokenizer", root / "packed"
    run_dir, chats_dir, pairs_dir = root / "checkpoints", root / "conversations", root / "preferences"
    recipe = DataRecipe.load(config.data)
    training = PretrainConfig.load(config.pretrain, data_dirs=[str(data_dir)], output_dir=str(run_dir))
    tuning = SftConfig.load(
        config.sft, model_path=str(run_dir / "final"), data_dirs=[str(chats_dir)], output_dir=str(root / "sft")
    )
    preferring = DpoConfig.load(
        config.dpo, model_path=str(root / "sft/final"), data_dirs=[str(pairs_dir)], output_dir=str(root / "dpo")
    )
    if config.attention is not None:
        choose_attention(config.attention)  # what cannot run here is said before any work
        training, tuning = _with_attention(training, config.attention), _with_attention(tuning, config.attention)
        preferring = _with_attention(preferring, config.attention)

    _headline("1/11 corpus")
    prepare_corpus(CorpusConfig.load(config.corpus, output_dir=str(corpus_dir)))
    _headline("2/11 tokenizer")
    train_tokenizer(_section(TokenizerConfig, recipe.tokenizer, corpus_dirs=[corpus_dir], output_dir=tokenizer_dir))
    _headline("3/11 packing")
    packing = _section(
        PackConfig, recipe.packing, corpus_dir=corpus_dir, tokenizer_path=tokenizer_dir, output_dir=data_dir
    )
    pack_dataset(packing)
    _headline("4/11 pretraining")
    final = pretrain(training)
    _headline("5/11 conversations")
    prepare_sft_corpus(
        SftCorpusConfig.load(
            config.conversations,
            tokenizer_path=str(tokenizer_dir),
            corpus_dir=str(root / "conversations-corpus"),
            output_dir=str(chats_dir),
        )
    )
    _headline("6/11 supervised fine-tuning")
    tuned = sft(tuning)
    _headline("7/11 preferences")
    prepare_dpo_corpus(
        DpoCorpusConfig.load(
            config.preferences,
            tokenizer_path=str(tokenizer_dir),
            corpus_dir=str(root / "preferences-corpus"),
            output_dir=str(pairs_dir),
        )
    )
    _headline("8/11 direct preference optimisation")
    preferred = dpo(preferring)
    _headline("9/11 evaluation")
    measured = evaluate(
        EvaluateConfig(
            model_path=final,
            data_dirs=(data_dir,),
            output_dir=root / "evaluation",
            tasks=(),
            text_modes=(),
            prompts=None,
        )
    )
    _headline("10/11 samples")
    _write_samples(config, final, run_dir / "samples.json")
    answers = _answers(config, (final, tuned, preferred))
    _headline("11/11 report")
    report = write_report(ReportConfig(run=(run_dir,), results_dir=root / "evaluation"))
    _show(run_dir, report, measured.compression, answers, time.monotonic() - started)
    return report


def _headline(text: str) -> None:
    console().print(f"\n[bold]{text}[/bold]")


def _section(cls: type[Any], values: dict[str, Any], **places: Any) -> Any:
    placed = {k: [str(p) for p in v] if isinstance(v, list) else str(v) for k, v in places.items()}
    return cls.from_values({**values, **placed}, where=cls.__name__)


def _write_samples(config: DemoConfig, model_path: Path, path: Path) -> None:
    from lumi.inference import GenerationConfig, generate
    from lumi.model import load_model
    from lumi.tokenizer import Tokenizer

    settings = GenerationConfig(max_new_tokens=config.sample_tokens, temperature=0.7, top_k=50, seed=0)
    completions = generate(load_model(model_path), Tokenizer.load(model_path), list(config.prompts), settings)
    samples = [
        {"prompt": prompt, "text": completion.text}
        for prompt, completion in zip(config.prompts, completions, strict=True)
    ]
    path.write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def _with_attention(run: RunT, attention: AttentionName) -> RunT:
    return run.model_copy(update={"training": run.training.model_copy(update={"attention": attention})})


def _answers(config: DemoConfig, stages: Sequence[Path]) -> dict[str, list[str]]:
    """Return the answers to each question: that of the base model, after SFT, after DPO."""
    from lumi.conversation import read_template
    from lumi.model import load_model
    from lumi.posttraining.chat_samples import ChatSamples
    from lumi.tokenizer import Tokenizer

    template = read_template(stages[-1])
    assert template is not None, "SFT writes it"
    ask = ChatSamples(Tokenizer.load(stages[-1]), template, config.questions, config.sample_tokens)
    found = [[" ".join(answer.text.split()) for answer in ask.answers(load_model(path))] for path in stages]
    return dict(zip(config.questions, map(list, zip(*found, strict=True)), strict=True))


def _validations(run_dir: Path, key: str) -> list[float]:
    """Return a figure of all validations of a run on its only data set."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf8").splitlines()
    return [value for line in map(json.loads, lines) for value in line.get(key, {}).values()]


def _show(
    run_dir: Path,
    report: Path,
    compression: "Sequence[Compression]",
    answers: dict[str, list[str]],
    seconds: float,
) -> None:
    """Print what the model writes and how it compares; to standard output, as this is the result."""
    for sample in json.loads((run_dir / "samples.json").read_text(encoding="utf8")):
        print(f"\n{sample['prompt']}|{sample['text']}")
    print("\nHeld-out text, bits per byte (lower is better):")
    for row in compression:
        print(f"  {row.name:<40} {row.bits_per_byte:.3f}")
    root = run_dir.parent
    before, *_, after = _validations(root / "dpo", "val_likelihood_accuracy")
    print("\nHeld-out pairs whose preferred answer is the likelier one:")
    print(f"  {before:.1%} after supervised fine-tuning, {after:.1%} after DPO")
    print("\nQuestions, answered by the base model, after supervised fine-tuning, and after DPO:")
    for question, found in answers.items():
        print(f"\n> {question}")
        for stage, answer in zip(("base", "sft", "dpo"), found, strict=True):
            print(f"  {stage}: {answer}")
    print(f"\nTalk to it: lumi chat --model_path {root / 'dpo' / 'final'}")
    print(f"Report: {report}")
    say(f"the whole pipeline took {seconds:,.0f} s")
