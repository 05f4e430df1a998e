"""The corpus stage, ours beside datatrove and rensa on the same text in one run.

    python benchmarks/corpus.py --text_dir ../shared/data --peer_python PEERS/bin/python --json results.json

The peers are in an environment of their own, with packages that ours has no use for:

    python -m venv PEERS
    PEERS/bin/pip install datatrove rensa spacy orjson nltk fasteners fasttext-numpy2-wheel

- duplicates: what each tool removes of documents with planted copies, against the exact Jaccard similarity of all
  pairs (corpus_duplicates.py);
- speed: the whole stage on one slice of text, ours, datatrove, and ours again;
- growth: ours at several sizes, seconds a MB and memory.

A rate is MB (10^6 bytes) of text read a second, from the start of the process to its end. Memory is the largest sum
of the resident sets of a process and its children, looked at five times a second.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from corpus_duplicates import BELOW, KINDS, TOLERATED, TRUE, Truth, passages, plant
from corpus_runs import (
    WORKERS,
    Cost,
    Kept,
    Slice,
    facts,
    kept_by_datatrove,
    kept_by_ours,
    run_datatrove,
    run_ours,
    run_rensa,
    texts_of,
    write_slices,
)

PARTS = ("duplicates", "speed", "growth")
SHORTEST, LONGEST = 200, 2000  # words of a passage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text_dir", type=Path, required=True, help="with wikipedia/, gutenberg/ and wikitext-2/")
    parser.add_argument("--peer_python", type=Path, help="without it only ours is measured")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--documents", type=int, default=3000, help="passages that copies are planted of")
    parser.add_argument("--sizes_mb", nargs="+", type=float, default=[50, 150, 425])
    parser.add_argument("--peer_mb", type=float, default=30, help="text for the comparison with datatrove")
    parser.add_argument("--work_dir", type=Path, help="default: a temporary folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 180)
    results: dict[str, Any] = {"facts": facts(arguments.peer_python)}
    console.print(json.dumps(results["facts"]), soft_wrap=True, highlight=False)
    parts: dict[str, Callable[[argparse.Namespace, Path], tuple[Any, Table, str]]] = {
        "duplicates": duplicates,
        "speed": speed,
        "growth": growth,
    }
    with tempfile.TemporaryDirectory(dir=arguments.work_dir, prefix="corpus-benchmark-") as scratch:
        for name in arguments.parts:
            folder = Path(scratch) / name
            folder.mkdir()
            results[name], table, note = parts[name](arguments, folder)
            console.print(table)
            console.print(note, highlight=False)
            if arguments.json:  # after each part: a later one may fail
                arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


def duplicates(arguments: argparse.Namespace, folder: Path) -> tuple[Any, Table, str]:
    """Score what ours and the peers remove of planted copies."""
    rng = random.Random(0)
    found = [
        passages(texts_of(arguments.text_dir, name), SHORTEST, LONGEST, rng) for name in ("wikipedia", "gutenberg")
    ]
    both = (text for text in chain.from_iterable(zip_longest(*found)) if text is not None)
    documents = plant(list(islice(both, arguments.documents)))
    truth = Truth.of(documents)
    file = folder / "documents" / "part_00000.jsonl"
    _write_documents(file, [(document.number, document.text) for document in documents])
    answers: dict[str, tuple[Cost, set[int]]] = {}
    cost, corpus = run_ours(file, folder / "ours", arguments.text_dir, whole=False)
    answers["lumi"] = (cost, {int(kept.metadata["number"]) for kept in kept_by_ours(corpus)})
    if arguments.peer_python:
        cost, output = run_datatrove(
            arguments.peer_python, file.parent, folder / "datatrove", arguments.text_dir, whole=False
        )
        answers["datatrove 20x5"] = (cost, {int(kept.metadata["number"]) for kept in kept_by_datatrove(output)})
        for bands, name in ((20, "rensa 20x5"), (None, "rensa, default bands")):
            answers[name] = run_rensa(arguments.peer_python, file, folder / f"rensa_{bands}", bands)
    scores = {name: truth.score(kept, len(documents)) for name, (_, kept) in answers.items()}
    due = sum(similarity >= TRUE for similarity in truth.similar.values())
    kinds = [kind for kind in KINDS if kind != BELOW]
    title = f"Near duplicates: {len(documents):,} documents, {due:,} pairs of J >= {TRUE}"
    table = _table(title, "recall", "precision", "twin kept", *kinds, f"{BELOW}: stay", "removed", "seconds")
    for name, score in scores.items():
        shares = [score.recall, score.precision, score.covered]
        shares += [*(score.by_kind.get(kind, 1.0) for kind in kinds), score.spared]
        seconds = answers[name][0].seconds
        table.add_row(name, *(f"{share:.2%}" for share in shares), f"{score.removed:,}", f"{seconds:.1f}")
    note = (
        f"recall: of the pairs of J >= {TRUE}, the share of which at most one is left; by kind, of the planted ones. "
        f"precision: of the removed, the share with J >= {TOLERATED} to another document; twin kept: to one that is "
        "left. stay: pairs below it of which both are left. seconds: of the process, its start included."
    )
    record = {
        "documents": len(documents),
        "pairs_due": due,
        "planted_pairs_by_jaccard": truth.histogram(),
        "scores": {name: asdict(score) | {"cost": asdict(answers[name][0])} for name, score in scores.items()},
    }
    return record, table, note


def _write_documents(file: Path, rows: list[tuple[int, str]]) -> None:
    file.parent.mkdir()
    with file.open("w", encoding="utf8") as out:
        for number, text in rows:
            out.write(json.dumps({"number": number, "text": text}, ensure_ascii=False) + "\n")


def speed(arguments: argparse.Namespace, folder: Path) -> tuple[Any, Table, str]:
    """Time the whole stage, ours beside datatrove."""
    text = write_slices(arguments.text_dir, folder, [arguments.peer_mb])[arguments.peer_mb]
    rows = []

    def ours(name: str) -> None:
        cost, corpus = run_ours(text.folder, folder / name, arguments.text_dir, whole=True)
        rows.append(_row("lumi", text, cost, kept_by_ours(corpus)))

    ours("ours")
    if arguments.peer_python:
        peer = run_datatrove(arguments.peer_python, text.folder, folder / "peer", arguments.text_dir, whole=True)
        rows.append(_row("datatrove", text, peer[0], kept_by_datatrove(peer[1])))
        ours("ours again")
    record: dict[str, Any] = {"runs": rows}
    note = ""
    if arguments.peer_python:
        mine = [row["mb_per_second"] for row in rows if row["tool"] == "lumi"]
        record["ratio"] = sum(mine) / len(mine) / rows[1]["mb_per_second"]
        note = (
            f"ratio {record['ratio']:.1f}. On a small slice, because datatrove is slow. Both: read JSONL, language, "
            "Gopher quality and repetition, C4 (any line ends and curly brackets), FineWeb, personal data, "
            "decontamination against WikiText-2 test, MinHash 20x5, write compressed JSONL; one language model, the "
            "same thresholds. Ours alone mends Unicode, drops boilerplate, verifies duplicates, hashes files."
        )
    return record, _runs_table(f"Whole stage, {WORKERS} workers each", rows), note


def growth(arguments: argparse.Namespace, folder: Path) -> tuple[Any, Table, str]:
    """Time ours at several sizes."""
    rows = []
    for size_mb, text in write_slices(arguments.text_dir, folder, arguments.sizes_mb).items():
        cost, corpus = run_ours(text.folder, folder / f"ours_{size_mb:g}", arguments.text_dir, whole=True)
        rows.append(_row("lumi", text, cost, kept_by_ours(corpus)))
    return rows, _runs_table(f"Growth: the whole stage, {WORKERS} workers", rows), ""


def _row(tool: str, text: Slice, cost: Cost, kept: list[Kept]) -> dict[str, Any]:
    megabytes = text.num_bytes / 1e6
    return {
        "tool": tool,
        "mb": megabytes,
        "documents": text.num_documents,
        "kept_documents": len(kept),
        "kept_mb": sum(document.num_bytes for document in kept) / 1e6,
        "seconds": cost.seconds,
        "mb_per_second": megabytes / cost.seconds,
        "seconds_per_mb": cost.seconds / megabytes,
        "peak_rss": cost.peak_rss,
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.HEAVY_HEAD if sys.stdout.isatty() else box.MARKDOWN)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _runs_table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = _table(title, "MB of text", "documents", "kept", "MB kept", "seconds", "MB/s", "s/MB", "peak memory")
    for row in rows:
        table.add_row(
            row["tool"],
            f"{row['mb']:.1f}",
            f"{row['documents']:,}",
            f"{row['kept_documents']:,}",
            f"{row['kept_mb']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['mb_per_second']:.2f}",
            f"{row['seconds_per_mb']:.3f}",
            f"{row['peak_rss'] / 2**20:,.0f} MiB",
        )
    return table


if __name__ == "__main__":
    main()
