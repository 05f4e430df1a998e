"""A small packed data set of synthetic text, made by the real stages: what the benchmarks of training need."""

from pathlib import Path

from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.data import PackConfig, pack_dataset
from lumi.tokenizer import TokenizerConfig, train_tokenizer


def make_small_data(folder: Path, *, max_bytes: int = 100_000, sequence_length: int = 64) -> Path:
    """Write corpus, tokenizer (320 pieces) and packed rows below a folder; return the packed data set."""
    source = {"name": "synthetic", "kind": "synthetic", "seed": 1, "max_bytes": max_bytes, "licence": "made here"}
    plain = {
        "cleaning": {"repair_unicode": False, "drop_boilerplate": False, "mask_personal_data": False},
        "quality": {"judge_quality": False},
        "decontamination": {"decontaminate": False},
        "near_duplicates": {"drop_near_duplicates": False},
    }
    corpus = {"name": "synthetic", "sources": [source], **plain, "output_dir": str(folder / "corpus"), "num_workers": 1}
    prepare_corpus(CorpusConfig.from_values(corpus, "benchmark"))
    tokenizer = {"corpus_dirs": [str(folder / "corpus")], "output_dir": str(folder / "tokenizer"), "vocab_size": 320}
    train_tokenizer(TokenizerConfig.from_values(tokenizer, "benchmark"))
    packing = {
        "corpus_dir": str(folder / "corpus"),
        "tokenizer_path": str(folder / "tokenizer"),
        "output_dir": str(folder / "packed"),
        "sequence_length": sequence_length,
        "val_fraction": 0.1,
        "num_workers": 1,
    }
    pack_dataset(PackConfig.from_values(packing, "benchmark"))
    return folder / "packed"
