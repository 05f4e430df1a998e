"""The make targets: their list, and what each says when something is missing."""

import contextlib
import itertools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.corpora import PLAIN

from lumi.corpus.synthetic import synthetic_documents

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf8")
# `install` has nothing to do here: the tests run in an environment that is there already.
MAKE = ["make", "--no-print-directory", "PYTHON=true", f"BIN={Path(sys.executable).parent}"]

# What `make test` itself hands down would make these makes talk of their directories.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def checkout(tmp_path):
    """A repository without data, checkpoints and runs."""
    for name in ("Makefile", "scripts", "config", "src"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    return tmp_path


def make(checkout, *words, **options):
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = options if "input" in options else {"stdin": subprocess.DEVNULL, **options}
    return subprocess.run(
        [*MAKE, *words],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def targets():
    return re.findall(r"^([a-z][a-z-]*):", MAKEFILE, flags=re.MULTILINE)


def test_help_lists_every_target_with_its_meaning(checkout):
    shown = make(checkout, "help").stdout
    listed = re.findall(r"^  ([a-z-]+)\s{2,}\S", shown, flags=re.MULTILINE)
    assert listed == targets()
    assert "\x1b" not in shown
    assert shown == make(checkout).stdout


def test_every_target_is_phony():
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, flags=re.MULTILINE)[1]
    assert set(phony.replace("\\\n", " ").split()) == set(targets())


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_missing_data_names_the_target_to_run(checkout, size):
    done = make(checkout, f"pretrain-{size}")
    assert done.returncode != 0
    assert "data/processed/wiki_32k_1024 is missing  ->  make prepare-wiki-with-tokenizer" in done.stdout + done.stderr
    ready = checkout / "data/processed/wiki_32k_1024"
    ready.mkdir(parents=True)
    (ready / "manifest.json").touch()
    done = make(checkout, f"pretrain-{size}")
    assert "data/processed/owt_32k_1024 is missing  ->  make prepare-owt-with-tokenizer" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        (["prepare-wiki-with-tokenizer"], "out of reach for data set wikimedia/wikipedia"),
        (["prepare-owt-with-tokenizer"], "out of reach for data set Skylion007/openwebtext"),
        (["tokenizer-train-mix"], "out of reach for data set wikimedia/wikipedia"),
        (["prepare-corpus"], "make prepare-corpus CONFIG=config/datasets/sources/NAME.json"),
        (["prepare-mix"], "make prepare-mix MIX=tiny"),
        (["prepare-mix", "MIX=tiny"], "No tokenizer found at data/tokenizer"),
        (["data-rebuild-all"], "nothing was done"),
        (["reencode-dataset"], "make reencode-dataset DIR=data/processed/NAME"),
        (["reencode-dataset", "DIR=data/processed/none"], "data/processed/none does not exist"),
        (["tokenizer-reset"], "No tokenizer found at data/tokenizer"),
        (["evaluate", "MODEL=nowhere"], "no model at nowhere"),
        (["serve", "MODEL=nowhere"], "no model at nowhere"),
        (["generate", "MODEL=nowhere", "PROMPT=a b"], "no model at nowhere"),
        (["report", "RUN=nowhere"], "no run at nowhere"),
    ],
)
def test_what_is_missing_is_one_clear_error(checkout, words, message):
    done = make(checkout, *words)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def stand_ins(tmp_path):
    """A checkout with files in place of the hub's data sets, and a vocabulary that they support."""
    for name in ("Makefile", "scripts", "src"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    mix = tmp_path / "config/datasets/training_configs/tokenizer_training_mix.json"
    mix.write_text(json.dumps({**json.loads(mix.read_text()), "vocab_size": 512}))
    for name in ("wikipedia", "openwebtext"):
        path = tmp_path / f"config/datasets/sources/{'wikipedia_en' if name == 'wikipedia' else name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **PLAIN, "languages": []}))
        (tmp_path / "data/raw" / name).mkdir(parents=True)
        texts = itertools.islice(synthetic_documents(len(name)), 1500)
        rows = "".join(json.dumps({"title": name, "text": f"{text} {name}. " * 3}) + "\n" for text in texts)
        (tmp_path / "data/raw" / name / "rows.jsonl").write_text(rows)
    return tmp_path


def packed_names(folder):
    return sorted(path.name for path in (folder / "data/processed").iterdir() if (path / "manifest.json").is_file())


def test_the_blueprints_data_targets_run_end_to_end(stand_ins):
    for target in ("tokenizer-train-mix", "prepare-wiki-with-tokenizer", "prepare-owt-with-tokenizer"):
        done = make(stand_ins, target)
        assert done.returncode == 0, done.stderr
        assert "instead of the hub" in done.stderr
    assert (stand_ins / "data/tokenizer/spm32k.model").is_file()
    assert packed_names(stand_ins) == ["owt_32k_1024", "wiki_32k_1024"]
    counts = json.loads((stand_ins / "data/corpus/wiki/manifest.json").read_text())["counts"]
    assert counts["sources"]["wikipedia-en"]["documents"] > 100
    assert "up to date: data/tokenizer" in make(stand_ins, "tokenizer-train-mix").stderr

    before = (stand_ins / "data/processed/wiki_32k_1024/manifest.json").stat().st_mtime_ns
    assert "nothing was done" in make(stand_ins, "data-rebuild-all", input="no\n").stdout
    assert (stand_ins / "data/processed/wiki_32k_1024/manifest.json").stat().st_mtime_ns == before
    shutil.rmtree(stand_ins / "data/tokenizer")
    done = make(stand_ins, "data-rebuild-all", input="YES\n")
    assert done.returncode == 0, done.stderr
    assert (stand_ins / "data/processed/wiki_32k_1024/manifest.json").stat().st_mtime_ns > before

    config = "config/datasets/sources/openwebtext.json"
    assert make(stand_ins, "prepare-corpus", f"CONFIG={config}").returncode == 0
    assert (stand_ins / "data/corpus/openwebtext/manifest.json").is_file()


def test_flash_attention_without_a_card_says_so_before_any_work(checkout):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    done = make(checkout, "test-pipeline-flash")
    assert done.returncode != 0
    assert "FlashAttention was asked for, and a CUDA card is missing here" in done.stderr
    assert not (checkout / "runs").exists()


def reset_at_a_terminal(checkout, answer):
    """Run the target at a terminal of its own, type the answer, return the exit code and what was shown."""
    leader, follower = pty.openpty()
    running = subprocess.Popen(
        [*MAKE, "tokenizer-reset"],
        cwd=checkout,
        env=ENVIRONMENT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        close_fds=True,
    )
    os.close(follower)
    shown = b""
    while b"Type YES" not in shown:
        shown += os.read(leader, 4096)
    os.write(leader, answer)
    code = running.wait(timeout=60)
    with contextlib.suppress(OSError):  # the other side is closed
        shown += os.read(leader, 4096)
    os.close(leader)
    return code, shown.decode()


@pytest.fixture
def with_tokenizer(checkout, artifacts):
    (checkout / "data").mkdir()
    shutil.copytree(artifacts / "tokenizer", checkout / "data/tokenizer")
    return checkout


@pytest.mark.parametrize("answer", [b"no\n", b"\n", b"\x04"], ids=["no", "nothing", "end of input"])
def test_reset_with_another_answer_deletes_nothing(with_tokenizer, answer):
    before = sorted(path.name for path in (with_tokenizer / "data/tokenizer").iterdir())
    code, shown = reset_at_a_terminal(with_tokenizer, answer)
    assert code != 0
    assert "this deletes data/tokenizer" in shown
    assert "nothing was deleted" in shown
    assert "Traceback" not in shown
    assert sorted(path.name for path in (with_tokenizer / "data/tokenizer").iterdir()) == before


def test_reset_with_yes_deletes_the_tokenizer_alone(with_tokenizer):
    (with_tokenizer / "data/corpus").mkdir()
    code, _ = reset_at_a_terminal(with_tokenizer, b"YES\n")
    assert code == 0
    assert [path.name for path in (with_tokenizer / "data").iterdir()] == ["corpus"]


def test_reset_without_a_terminal_deletes_nothing(with_tokenizer):
    done = make(with_tokenizer, "tokenizer-reset")
    assert done.returncode != 0
    assert "no terminal" in done.stderr
    assert (with_tokenizer / "data/tokenizer/spm32k.model").exists()


def test_clean_keeps_everything_that_cost_time(tmp_path):
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    kept = ["data/corpus/a", "checkpoints/pretrain", "runs/demo", ".venv/bin", "evaluation_results"]
    gone = [".mypy_cache", ".ruff_cache", "runs/test-pipeline", "src/lumi/__pycache__"]
    for name in [*kept, *gone, "tests", "scripts", "benchmarks"]:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert make(tmp_path, "clean").returncode == 0
    assert all((tmp_path / name).is_dir() for name in kept)
    assert not any((tmp_path / name).exists() for name in gone)


def test_ci_runs_the_words_that_a_person_types(tmp_path):
    """From any folder; a failing check ends it before the tests, with a code that is not zero."""
    shutil.copytree(REPOSITORY / ".ci", tmp_path / "place with space/.ci")
    (tmp_path / "place with space/Makefile").write_text(
        "check:\n\t@echo checked\n\t@test ! -e broken\ntest:\n\t@echo tested in CI=$(CI)\n"
    )
    command = [str(tmp_path / "place with space/.ci/run")]
    done = subprocess.run(command, cwd="/", env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["checked", "tested in CI=true"]
    (tmp_path / "place with space/broken").touch()
    done = subprocess.run(command, cwd="/", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "tested" not in done.stdout
