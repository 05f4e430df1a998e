"""Invariant 24: every shipped config parses and builds; every command that the README names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lumi.assessment.references import References
from lumi.assessment.targets import Targets
from lumi.cli import STAGES
from lumi.config import parse_config, read_json_object
from lumi.corpus import CorpusConfig
from lumi.corpus.evaluation_sets import EvaluationSet
from lumi.data import MixConfig, PackConfig
from lumi.demo import DataRecipe
from lumi.evaluation.smoke import SmokePrompts
from lumi.model import create_model
from lumi.posttraining import DpoConfig, DpoCorpusConfig, SftConfig, SftCorpusConfig
from lumi.pretraining import PretrainConfig
from lumi.tokenizer import TokenizerConfig

REPOSITORY = Path(__file__).parents[2]
EVALUATION_SETS = sorted((REPOSITORY / "config/evaluation").glob("*.json"))
READERS = {  # of what is no config of a stage
    REPOSITORY / "config/evaluation_targets.json": Targets.load,
    REPOSITORY / "config/evaluation_references.json": References.load,
    REPOSITORY / "config/smoke_prompts.json": SmokePrompts.read,
}
CONFIGS = sorted({*(REPOSITORY / "config").rglob("*.json")} - {*EVALUATION_SETS} - {*READERS})
README = (REPOSITORY / "README.md").read_text(encoding="utf8")


def config_class(path):
    folder = path.parent.name
    if folder == "sources":
        return CorpusConfig, ["--output_dir", "somewhere"]
    if folder == "training_configs":
        values = read_json_object(path)
        if "token_budget" in values:
            return MixConfig, []
        return (TokenizerConfig, []) if "samples" in values else (DataRecipe, None)
    posttraining = {
        "sft_datasets": SftCorpusConfig,
        "sft_training": SftConfig,
        "dpo_datasets": DpoCorpusConfig,
        "dpo_training": DpoConfig,
    }
    if folder in posttraining:
        return posttraining[folder], []
    return PretrainConfig, []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_config_parses_as_on_the_command_line(path):
    cls, options = config_class(path)
    if options is None:
        recipe = cls.load(path)
        TokenizerConfig.from_values({**recipe.tokenizer, "corpus_dirs": ["x"]}, str(path))
        PackConfig.from_values({**recipe.packing, "corpus_dir": "x", "output_dir": "y"}, str(path))
        return
    config = parse_config(cls, ["--config", str(path), *options], prog="test")
    assert config.resolved()
    if cls is PretrainConfig and config.name != "base":  # base takes a gigabyte
        create_model(config.model)


@pytest.mark.parametrize("path", EVALUATION_SETS, ids=lambda path: path.stem)
def test_evaluation_sets_parse_and_have_the_name_of_their_file(path):
    assert EvaluationSet.load(path).name == path.stem


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.stem)
def test_what_evaluations_read_parses(path):
    assert READERS[path](path).resolved()


@pytest.mark.parametrize(
    "path",
    [p for p in CONFIGS if p.parent.name in ("config", "sft_training", "dpo_training")],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_warm_up_and_saves_are_a_tenth_of_the_steps(path):
    cls, _ = config_class(path)
    config = cls.load(path)
    assert config.schedule.warmup_ratio == 0.1
    assert config.training.save_interval(config.schedule) == -(-config.schedule.max_steps // 10)


def test_make_targets_in_the_readme_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, flags=re.MULTILINE))
    named = {target for block in re.findall(r"`([^`\n]+)`|```bash\n(.*?)```", README, flags=re.DOTALL)
             for text in block for target in re.findall(r"\bmake ([a-z][a-z0-9-]+)", text)}  # fmt: skip
    assert named
    assert named <= targets


def test_scripts_and_options_in_the_readme_exist():
    commands = re.findall(r"(?:python|accelerate launch) (?:\\\n\s+)?scripts/(\d\d_\w+)\.py((?:[^\n`]|\\\n)*)", README)
    assert len(commands) >= 5
    stage_of = {
        "01": "prepare-corpus",
        "02": "train-tokenizer",
        "03": "pack",
        "04": "pretrain",
        "05": "evaluate",
        "06": "serve",
    }
    for name, options in commands:
        assert (REPOSITORY / "scripts" / f"{name}.py").is_file()
        shown = subprocess.run(
            [sys.executable, "-m", "lumi.cli", stage_of[name[:2]], "--help"], capture_output=True, text=True, check=True
        )
        for option in re.findall(r"--(\w+)", options):
            assert option == "config" or f"--{option}" in shown.stdout, f"{name}: --{option}"


def test_lumi_commands_in_the_readme_exist():
    named = set(re.findall(r"`lumi ([a-z-]+)", README))
    assert named <= set(STAGES)
