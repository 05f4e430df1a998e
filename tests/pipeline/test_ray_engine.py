"""The corpus stage on a Ray cluster of two nodes: the same bytes as on one machine, also when a node dies."""

import json
import threading

import pytest
from tests.corpora import PLAIN

from lumi.cluster import RayPool
from lumi.corpus import CorpusConfig, prepare_corpus
from lumi.corpus import stage as corpus_stage
from lumi.errors import DataError

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "a.jsonl"
    rows = [
        json.dumps({"text": f"Text {n % 900}: " + f"word{n % 900} " * (20 + n // 950) + "\nThe end."})
        for n in range(1000)  # from 900 on exact duplicates, from 950 on near ones
    ]
    rows[7], rows[300] = "{broken", '{"no": "text"}'
    path.write_text("\n".join(rows) + "\n")
    (path.parent / "sets").mkdir()
    layout = {"files": ["test.jsonl"], "format": "jsonl", "texts": ["{text}"]}
    declared = {
        "name": "test",
        "title": "T",
        "licence": "none",
        "citation": "none",
        "dataset": "a/b",
        "split": "test",
        "num_texts": 1,
    }
    (path.parent / "sets/test.json").write_text(json.dumps({**declared, "layouts": [layout]}))
    (path.parent / "test.jsonl").write_text(json.dumps({"text": "word77 " * 13}) + "\n")
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(corpus_stage, "_CHUNK_BYTES", 2000)


@pytest.fixture
def cluster():
    """Two raylets, a CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made, made.add_node(num_cpus=1)
    made.shutdown()


def build(raw, output_dir, **engine):
    source = {"name": "s", "kind": "jsonl", "files": [str(raw)], "licence": "none"}
    tests = {"evaluation_sets": str(raw.parent / "sets"), "evaluation_data": str(raw.parent)}
    values = {"name": "c", "sources": [source], "quality": PLAIN["quality"], "decontamination": tests,
              "output_dir": str(output_dir), "shard_bytes": 20_000, **engine}  # fmt: skip
    return prepare_corpus(CorpusConfig.from_values(values, "test"))


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run_info.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_same_bytes_also_when_a_node_dies(raw, tmp_path, cluster, monkeypatch):
    made, second = cluster
    manifest = build(raw, tmp_path / "native", num_workers=1)
    assert {"broken_row", "contaminated", "exact_duplicate", "near_duplicate"} <= set(manifest.counts["dropped"])
    with RayPool(made.address) as pool:
        assert pool.num_workers == 2
    build(raw, tmp_path / "ray", engine="ray", ray_address=made.address)
    assert contents(tmp_path / "ray") == contents(tmp_path / "native")

    half = threading.Event()
    close = corpus_stage.SegmentWriter.close

    def close_and_tell(writer, **how):
        segment = close(writer, **how)
        if segment.number == 2 and not half.is_set():
            half.set()
            made.remove_node(second, allow_graceful=False)
        return segment

    monkeypatch.setattr(corpus_stage.SegmentWriter, "close", close_and_tell)
    build(raw, tmp_path / "killed", engine="ray", ray_address=made.address)
    assert half.is_set()
    assert contents(tmp_path / "killed") == contents(tmp_path / "native")


def test_an_error_in_a_worker_is_the_users_error(cluster):
    made, _ = cluster
    with pytest.raises(DataError, match="what was wrong") as caught:
        with RayPool(made.address) as pool:
            pool.submit(_fail).result()
    assert caught.value.way_out == "the way out"


def _fail():
    raise DataError("what was wrong", "the way out")


def test_no_cluster_is_one_clear_error(raw, tmp_path):
    with pytest.raises(DataError, match=r"no Ray cluster at 127\.0\.0\.1:9") as caught:
        build(raw, tmp_path / "out", engine="ray", ray_address="127.0.0.1:9")
    assert "ray start --head" in caught.value.way_out
