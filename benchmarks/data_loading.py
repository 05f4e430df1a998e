"""How fast packed rows are read at random, and text is encoded, ours beside peers on the same data in one run.

    python benchmarks/data_loading.py --data_dir data/processed/wiki_32k_1024 --corpus_dir data/corpus/wiki

Rows: a thousand random ones at a time, and whole batches through sampler and loader; the
peer is a parquet table of the same rows. Text: our tokenizer on one CPU (packing runs it in a process a CPU); the
peers are SentencePiece and transformers with the same vocabulary. Each figure is the median of several passes that
take turns. The files are in the page cache; a first read comes at the speed of the disk.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lumi.corpus import read_documents
from lumi.data import BatchLoader, ShardedTokenizedDataset, WeightedMultiDatasetSampler
from lumi.tokenizer import Tokenizer

ROWS = 1000  # of one random read
BATCH = 64


def read_rows(dataset: ShardedTokenizedDataset) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield programs that read random rows and return the bytes they gave."""
    random = np.random.default_rng(0)
    reads = 20

    def ours() -> int:
        return sum(dataset.rows(random.integers(0, len(dataset), ROWS)).nbytes for _ in range(reads))

    def batches() -> int:
        sampler = WeightedMultiDatasetSampler([len(dataset)], None, seed=0)
        loader = BatchLoader([dataset], sampler, batch_size=BATCH)
        try:
            return sum(loader.next_batch().nbytes for _ in range(reads * ROWS // BATCH))
        finally:
            loader.close()

    yield f"{ROWS} random rows", ours
    yield f"sampler and loader, batches of {BATCH}", batches


def read_parquet(dataset: ShardedTokenizedDataset, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield the peer: a batch of random rows is the row groups they lie in, read and cut."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = dataset.rows(np.arange(min(len(dataset), 20_000)))
    table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])})
    pq.write_table(table, folder / "rows.parquet", row_group_size=1000, compression="zstd")
    file = pq.ParquetFile(folder / "rows.parquet")
    random = np.random.default_rng(0)

    def theirs() -> int:
        groups, within = np.divmod(random.integers(0, len(rows), BATCH), 1000)
        taken = [file.read_row_group(int(group)).slice(int(row), 1) for group, row in zip(groups, within, strict=True)]
        return sum(np.stack(part["tokens"].to_numpy()).nbytes for part in taken)

    yield f"parquet, batches of {BATCH} random rows", theirs


def encode(tokenizer: Tokenizer, folder: Path, texts: list[str]) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield programs that encode all texts and return how many bytes of text that was."""
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    tokenizer.export(folder)
    size = sum(len(text.encode()) for text in texts)
    plain = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    theirs = AutoTokenizer.from_pretrained(folder)
    yield "ours, 1 CPU", lambda: size * bool(tokenizer.encode_batch(texts))
    yield "sentencepiece, 1 CPU", lambda: size * bool(plain.encode(texts, num_threads=1))
    yield f"sentencepiece, {os.cpu_count()} CPUs", lambda: size * bool(plain.encode(texts, num_threads=os.cpu_count()))
    yield (
        f"transformers, {os.cpu_count()} CPUs",
        lambda: size * bool(theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]),
    )


def measure(programs: dict[str, Callable[[], int]], passes: int) -> dict[str, float]:
    """Return the median rate of each program in bytes a second."""
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(passes + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            amount = program()
            rates[name].append(amount / (time.perf_counter() - started))
    return {name: statistics.median(found[1:]) for name, found in rates.items()}  # the first pass warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="packed data")
    parser.add_argument("--corpus_dir", type=Path, help="a corpus to encode; without it only rows are read")
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dataset = ShardedTokenizedDataset(arguments.data_dir, "train")
    with tempfile.TemporaryDirectory() as scratch:
        programs = dict([*read_rows(dataset), *read_parquet(dataset, Path(scratch))])
        results = {"rows": measure(programs, arguments.passes)}
        if arguments.corpus_dir:
            texts = [document.text for document in islice(read_documents(arguments.corpus_dir), arguments.documents)]
            tokenizer = Tokenizer.load(dataset.tokenizer_path)
            results["text"] = measure(dict(encode(tokenizer, Path(scratch), texts)), arguments.passes)
    for title, rates in results.items():
        for name, rate in rates.items():
            print(f"{title}: {name:40} {rate / 1e6:10,.1f} MB/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
