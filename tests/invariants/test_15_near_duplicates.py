"""Invariant 15: a document goes only if its true Jaccard similarity with an earlier kept one reaches the threshold.

Earlier means source order, then id; neither the order of files nor workers nor chunks have a say.
"""

import hashlib
import json
import re

import numpy as np
import pytest
from tests.corpora import PLAIN

from lumi.corpus import CorpusConfig, prepare_corpus, read_documents
from lumi.corpus import stage as corpus_stage

THRESHOLD = 0.8


def changed(words, rng, share):
    """Replace a block of words, and a few more here and there."""
    words = list(words)
    block = int(share * len(words))
    start = rng.integers(0, len(words) - block)
    words[start : start + block] = [f"n{number}" for number in rng.integers(0, 10**6, block)]
    return words


@pytest.fixture(scope="module")
def rows():
    """Families of texts that are alike in all degrees, chains among them."""
    rng = np.random.default_rng(15)
    texts = []
    for family in range(40):
        words = [f"w{number}" for number in rng.integers(0, 10**6, int(rng.integers(30, 200)))]
        texts.append(words)
        for share in (0.02, 0.05, 0.08, 0.1, 0.15, 0.3):
            words = changed(words if family % 2 else texts[-1], rng, share)
            texts.append(words)
    order = rng.permutation(len(texts))
    return [" ".join(texts[place]) for place in order]


def jaccard(a, b):
    return len(a & b) / len(a | b)


def survivors(sources):
    """Decide with plain sets, one text after the other."""
    kept = []
    for texts in sources:
        for text in sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).hexdigest()):
            words = re.findall(r"\w+", text)
            shingles = {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
            if all(jaccard(shingles, other) < THRESHOLD for _, other in kept):
                kept.append((text, shingles))
    return {text for text, _ in kept}


def build(folder, sources, **settings):
    """Each source is a list of files, each a list of texts."""
    folder.mkdir()
    configs = []
    for number, files in enumerate(sources):
        for part, texts in enumerate(files):
            path = folder / f"s{number}-{part}.jsonl"
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        paths = [str(folder / f"s{number}-{part}.jsonl") for part in range(len(files))]
        configs.append({"name": f"s{number}", "kind": "jsonl", "files": paths, "licence": "none"})
    values = {"name": "c", "sources": configs, **PLAIN, "near_duplicates": {"jaccard": THRESHOLD},
              "output_dir": str(folder / "out"), "num_workers": 1, "shard_bytes": 20_000, **settings}  # fmt: skip
    manifest = prepare_corpus(CorpusConfig.from_values(values, "test"))
    return {document.text for document in read_documents(folder / "out")}, manifest


def test_what_stays_is_what_plain_sets_say(rows, tmp_path):
    half = len(rows) // 2
    kept, manifest = build(tmp_path / "a", [[rows[:half]], [rows[half:]]])
    assert kept == survivors([rows[:half], rows[half:]])
    gone = manifest.counts["dropped"]["near_duplicate"]
    assert gone == len(set(rows)) - len(kept) > 50
    clusters = manifest.counts["near_duplicates"]["clusters"]
    assert sum((int(size) - 1) * number for size, number in clusters.items()) == gone


@pytest.mark.parametrize("seed, files, workers, chunk", [(1, 1, 1, 10**6), (2, 4, 1, 3000), (3, 7, 3, 3000)])
def test_neither_files_nor_workers_nor_chunks_decide(rows, tmp_path, monkeypatch, seed, files, workers, chunk):
    monkeypatch.setattr(corpus_stage, "_CHUNK_BYTES", chunk)
    half = len(rows) // 2
    rng = np.random.default_rng(seed)
    sources = []
    for texts in (rows[:half], rows[half:]):
        shuffled = [texts[place] for place in rng.permutation(len(texts))]
        size = -(-len(shuffled) // files)
        sources.append([shuffled[start : start + size] for start in range(0, len(shuffled), size)])
    kept, _ = build(tmp_path / "a", sources, num_workers=workers)
    assert kept == survivors([rows[:half], rows[half:]])


def test_without_it_all_stay(rows, tmp_path):
    kept, _ = build(tmp_path / "a", [[rows]], near_duplicates={"drop_near_duplicates": False})
    assert kept == set(rows)
