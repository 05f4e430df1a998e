"""The corpus stage by datatrove; run by the peers' Python.

    python datatrove_pipeline.py INPUT WORK OUTPUT --steps all --language_model lid.176.ftz --test_text wiki.test.raw
    python datatrove_pipeline.py INPUT WORK OUTPUT --steps duplicates

INPUT is a folder of JSONL files, each a task. The order is that of FineWeb (Penedo et al. 2024, arXiv:2406.17557):
language, Gopher, C4, FineWeb rules, personal data, decontamination; then MinHash in four runs. Its exact dedup is left
out, because exact copies have the same signature; that saves it two runs.
"""

import argparse
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

MINHASH = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=5, num_buckets=20, hashes_per_bucket=5)
DECONTAMINATION = NGramsDecontConfig(n_grams=13)


def language_filter(model: Path) -> LanguageFilter:
    found = LanguageFilter("en", language_threshold=0.65)
    found.model.MODEL_URL = str(model.resolve())  # the one that ours uses; its own would be fetched
    return found


def decontamination(test_text: Path, folder: Path) -> NGramsDecontFilter:
    """Return the filter, its index made: the index step itself takes test sets from the network alone."""
    folder.mkdir(parents=True)
    found = NGramsDecontFilter(str(folder), config=DECONTAMINATION)
    hashes: set[int] = set()
    for line in test_text.read_text(encoding="utf8").splitlines():
        hashes.update(NGramsDecontIndexer.compute_hashes(found, line))
    np.array(sorted(hashes), dtype=DECONTAMINATION.hash_config.np_descr).tofile(folder / "wikitext2.index.hashes")
    return found


def filters(arguments: argparse.Namespace) -> list[PipelineStep]:
    """Return the steps that look at one document at a time, with the thresholds that ours gets."""
    return [
        language_filter(arguments.language_model),
        GopherRepetitionFilter(),
        GopherQualityFilter(max_doc_words=None),
        C4QualityFilter(filter_no_terminal_punct=False, filter_curly_bracket=False, min_num_sentences=3),
        FineWebQualityFilter(line_punct_thr=1e-9, char_duplicates_ratio=0.1),
        PIIFormatter(),
        decontamination(arguments.test_text, arguments.work / "tests"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("work", type=Path, help="for what it writes on the way")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", choices=["all", "duplicates"], default="all")
    parser.add_argument("--language_model", type=Path)
    parser.add_argument("--test_text", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    work, source = arguments.work, arguments.input
    tasks = len(list(source.glob("*.jsonl")))

    def run(name: str, steps: list[PipelineStep], tasks: int) -> None:
        workers = min(tasks, arguments.workers)
        LocalPipelineExecutor(steps, tasks=tasks, workers=workers, logging_dir=str(work / "logs" / name)).run()

    if arguments.steps == "all":
        clean = work / "clean"
        run("filters", [JsonlReader(str(source)), *filters(arguments), JsonlWriter(str(clean))], tasks)
        source = clean
    signatures, buckets, removed = (str(work / name) for name in ("signatures", "buckets", "removed"))
    run("signatures", [JsonlReader(str(source)), MinhashDedupSignature(signatures, config=MINHASH)], tasks)
    run("buckets", [MinhashDedupBuckets(signatures, buckets, config=MINHASH)], MINHASH.num_buckets)
    run("clusters", [MinhashDedupCluster(buckets, removed, config=MINHASH)], 1)
    run(
        "output",
        [JsonlReader(str(source)), MinhashDedupFilter(removed), JsonlWriter(str(arguments.output))],
        tasks,
    )


if __name__ == "__main__":
    main()
