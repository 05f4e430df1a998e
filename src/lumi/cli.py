"""The `lumi` command and the numbered scripts: one table of stages, each run with the same manners.

A stage is a config class and a function of that config; both are named here as text and imported only when
called, so that `lumi --help` answers at once. Errors a user can mend are printed without a traceback (exit 1);
Ctrl-C exits with 130 and SIGTERM with 143, finished shards kept.
"""

import errno
import importlib
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from lumi.errors import LumiError

# what the file system answers to a path or to rights that are not right; anything else is a bug of ours
_OF_THE_USER = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.EDQUOT,
)  # fmt: skip


class Stage(NamedTuple):
    """One subcommand: ``module:ConfigClass`` and ``module:function``, and a line for the overview."""

    config: str
    run: str
    about: str


STAGES = {
    "prepare-corpus": Stage(
        "lumi.corpus:CorpusConfig", "lumi.corpus:prepare_corpus", "clean raw text into a corpus (01_prepare_corpus.py)"
    ),
    "train-tokenizer": Stage(
        "lumi.tokenizer:TokenizerConfig",
        "lumi.tokenizer:train_tokenizer",
        "train the one tokenizer (02_train_tokenizer.py)",
    ),
    "pack": Stage("lumi.data:PackConfig", "lumi.data:pack_dataset", "tokenize and pack a corpus (03_pack_dataset.py)"),
    "prepare-mix": Stage(
        "lumi.data:MixConfig", "lumi.data:prepare_mix", "prepare and pack the data sets of a run, by its token budget"
    ),
    "pretrain": Stage(
        "lumi.pretraining:PretrainConfig", "lumi.pretraining:pretrain", "train a model from scratch (04_pretrain.py)"
    ),
    "prepare-sft-corpus": Stage(
        "lumi.posttraining:SftCorpusConfig",
        "lumi.posttraining:prepare_sft_corpus",
        "conversations as data for SFT (02_prepare_sft_corpus.py)",
    ),
    "prepare-dpo-corpus": Stage(
        "lumi.posttraining:DpoCorpusConfig",
        "lumi.posttraining:prepare_dpo_corpus",
        "preferences as data for DPO (02_prepare_dpo_corpus.py)",
    ),
    "dpo": Stage("lumi.posttraining:DpoConfig", "lumi.posttraining:dpo", "teach a model what is preferred (04_dpo.py)"),
    "sft": Stage(
        "lumi.posttraining:SftConfig", "lumi.posttraining:sft", "teach a model to answer (03_sft_industrial.py)"
    ),
    "merge": Stage(
        "lumi.posttraining:MergeConfig", "lumi.posttraining:merge", "make a whole model of a LoRA checkpoint"
    ),
    "export": Stage(
        "lumi.export:ExportConfig", "lumi.export:export", "a checkpoint for transformers, vLLM, llama.cpp, Ollama"
    ),
    "plan": Stage("lumi.planning:PlanConfig", "lumi.planning:plan", "what a run will cost: memory, hours, disk"),
    "monitor": Stage("lumi.monitor:MonitorConfig", "lumi.monitor:monitor", "watch a run in the terminal, live"),
    "evaluate": Stage(
        "lumi.evaluation:EvaluateConfig", "lumi.evaluation:evaluate", "measure a checkpoint (05_evaluate.py)"
    ),
    "compare": Stage(
        "lumi.evaluation.compare:CompareConfig",
        "lumi.evaluation.compare:compare",
        "measured models side by side, and what can be told apart",
    ),
    "assess": Stage(
        "lumi.assessment.assess:AssessConfig",
        "lumi.assessment.assess:assess",
        "measured figures against the targets, and what to try next",
    ),
    "generate": Stage("lumi.inference:GenerateConfig", "lumi.inference:run_generate", "continue a prompt"),
    "chat": Stage(
        "lumi.inference.chat:ChatConfig", "lumi.inference.chat:run_chat", "talk to a tuned model, here or at a server"
    ),
    "serve": Stage(
        "lumi.serving:ServeConfig", "lumi.serving:serve", "models behind an HTTP server, as OpenAI's (06_serve.py)"
    ),
    "reencode": Stage(
        "lumi.data:ReencodeConfig",
        "lumi.data:reencode_dataset",
        "pack a data set's corpus again with the present tokenizer",
    ),
    "tokenizer-reset": Stage(
        "lumi.tokenizer:ResetConfig", "lumi.tokenizer:reset_tokenizer", "delete the frozen tokenizer, after asking"
    ),
    "report": Stage(
        "lumi.reporting:ReportConfig",
        "lumi.reporting:write_report",
        "a page about a run, or several side by side",
    ),
    "checkpoint list": Stage(
        "lumi.training.inspection:ListConfig", "lumi.training.inspection:list_checkpoints", "the checkpoints of a run"
    ),
    "checkpoint verify": Stage(
        "lumi.training.inspection:VerifyConfig",
        "lumi.training.inspection:verify",
        "hash checkpoints, name what is damaged",
    ),
    "checkpoint diff": Stage(
        "lumi.training.inspection:DiffConfig", "lumi.training.inspection:diff", "what differs between two checkpoints"
    ),
    "demo": Stage("lumi.demo:DemoConfig", "lumi.demo:run_demo", "the whole road on embedded text, in minutes"),
    "check-env": Stage("lumi.environment:CheckConfig", "lumi.environment:check_environment", "what this machine has"),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one stage and exit: 0 done, 1 an error the user can mend, 2 usage, 130/143 interrupted, 141 the
    reader of the output left.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost a busy machine a factor of five
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0
    for words in (1, 2):
        name = " ".join(arguments[:words]).replace("_", "-")
        if name in STAGES:
            return run_stage(STAGES[name], arguments[words:], prog=f"lumi {name}")
    family = arguments[0].replace("_", "-") + " "
    there = [name for name in STAGES if name.startswith(family)] or list(STAGES)
    print(f"lumi: no command {' '.join(arguments[:2])!r}; there are: {', '.join(there)}", file=sys.stderr)
    return 2


def _reader_is_gone() -> bool:
    """Whether who read our output (`| head`, a pager that was left) has had enough."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def run_stage(stage: Stage, argv: Sequence[str], *, prog: str) -> int:
    """Parse, run, and turn what went wrong into one clear line and an exit code."""
    from lumi.config import parse_config
    from lumi.progress import say

    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        run = _resolve(stage.run)
        run(parse_config(_resolve(stage.config), argv, prog=prog))
    except LumiError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, the same command continues from there")
        return 130
    except OSError as error:
        place = error.filename or "while writing"
        if error.errno == errno.ENOSPC:
            say(f"error: the disk is full ({place})\n  -> free some space and run the same"
                " command again: finished shards are kept")  # fmt: skip
            return 1
        if error.errno not in _OF_THE_USER:
            raise
        say(f"error: {place}: {os.strerror(error.errno or 0).lower()}\n  -> check that path and its rights")
        return 1
    return 0


def _terminate(_signal: int, _frame: object) -> NoReturn:
    sys.exit(143)


def _resolve(name: str):  # type: ignore[no-untyped-def]  # a class or a function, known only by its name
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def _print_overview() -> None:
    print("usage: lumi COMMAND [options]\n")
    for name, stage in STAGES.items():
        print(f"  {name:<18} {stage.about}")
    print("\n`lumi COMMAND --help` lists the options of one command.")


if __name__ == "__main__":
    main()
