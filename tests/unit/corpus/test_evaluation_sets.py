import gzip
import json
from pathlib import Path

import pytest

from lumi.corpus.evaluation_sets import EvaluationSet, load_evaluation_sets, scored_texts
from lumi.errors import ConfigError, DataError

DECLARED = Path("config/evaluation")
REAL = Path("../shared/data")


def declared(**layout) -> EvaluationSet:
    values = {"name": "s", "title": "S", "licence": "none", "citation": "none", "dataset": "a/b", "split": "test"}
    return EvaluationSet.from_values({**values, "layouts": [{"format": "jsonl", "texts": ["{q}"], **layout}]}, "test")


def write(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@pytest.mark.parametrize(
    "layout, row, texts",
    [
        ({}, {"q": "what?", "passage": "given"}, ["what?"]),
        ({"texts": ["{q} {a[label]}"]}, {"q": "so", "a": ["x", "y"], "label": "1"}, ["so y"]),
        ({"texts": ["{q} {c.text[*]}", "{c.text[0]}"]}, {"q": "so", "c": {"text": ["x", "y"]}}, ["so x", "so y", "x"]),
        ({"after": "question: ", "before": "\n\nAnswer"}, {"q": "The question: why?\n\nAnswer1: no"}, ["why?"]),
        ({"fill": {"_": ["{a}", "{b}"]}}, {"q": "so _ did", "a": "he", "b": "she"}, ["so he did", "so she did"]),
    ],
)
def test_the_declared_text_of_a_row(tmp_path, layout, row, texts):
    write(tmp_path / "s/test.jsonl", row)
    assert scored_texts(declared(files=["s/test.jsonl"], **layout), tmp_path) == texts


def test_every_format_and_compression(tmp_path):
    import pyarrow
    import pyarrow.parquet as parquet

    rows = [{"q": "one"}, {"q": "two"}]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"q": "one"}\n\n{"q": "two"}\n'))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.raw").write_text("one\n \ntwo\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for file, kind, text in [("a.jsonl", "jsonl", "{q}"), ("a.json", "json", "{q}"), ("a.parquet", "parquet", "{q}"),
                             ("a.raw", "lines", "{text}")]:  # fmt: skip
        assert scored_texts(declared(files=[file], format=kind, texts=[text]), tmp_path) == ["one", "two"], kind


def test_the_first_place_that_has_files_counts_and_none_is_not_at_hand(tmp_path):
    write(tmp_path / "second/1.jsonl", {"q": "a"})
    write(tmp_path / "second/2.jsonl", {"q": "b"})
    write(tmp_path / "third.jsonl", {"q": "c"})
    assert scored_texts(declared(files=["first.jsonl", "second/*.jsonl", "third.jsonl"]), tmp_path) == ["a", "b"]
    assert scored_texts(declared(files=["first.jsonl"]), tmp_path) is None
    assert scored_texts(declared(files=["first.jsonl"]), tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content, complaint",
    [
        ('{"q": "a"}\n{"p": "b"}\n', "row 2: not as declared: KeyError: 'q'"),
        ('{"q": ["a"]}\n', "row 1: not as declared: TypeError: {q} is no text but a list"),
        ('{"q": "a"}\n{"q"\n', "cannot be read"),
    ],
)
def test_a_damaged_set_is_an_error_and_never_looked_for_in_part(tmp_path, content, complaint):
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"s\.jsonl") as error:
        scored_texts(declared(files=["s.jsonl"]), tmp_path)
    assert complaint in str(error.value)


def test_a_template_can_reach_fields_alone(tmp_path):
    write(tmp_path / "s.jsonl", {"q": "a"})
    for template in ("{q.__class__}", "{q!r}", "{q:>9}", "{0}", "{}"):
        with pytest.raises(DataError):
            scored_texts(declared(files=["s.jsonl"], texts=[template]), tmp_path)


def test_the_shipped_sets_are_those_that_are_evaluated():
    sets = load_evaluation_sets(DECLARED)
    assert [one.name for one in sets] == ["arc_challenge", "arc_easy", "boolq", "hellaswag", "lambada", "openbookqa",
                                          "piqa", "wikitext2", "winogrande"]  # fmt: skip
    boolq = next(one for one in sets if one.name == "boolq")
    assert {text for layout in boolq.layouts for text in layout.texts} == {"{question}"}  # never the passage


def test_folders_that_declare_nothing_right(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        load_evaluation_sets(tmp_path / "nowhere")
    shipped = (DECLARED / "boolq.json").read_text()
    (tmp_path / "a.json").write_text(shipped)
    (tmp_path / "b.json").write_text(shipped)
    with pytest.raises(ConfigError, match="two files declare the set boolq"):
        load_evaluation_sets(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    "name, count, start",
    [
        ("arc_challenge", 1172, "An astronomer observes"),
        ("arc_easy", 2376, "Which statement best explains"),
        ("boolq", 3270, "does ethanol take more energy"),
        ("hellaswag", 2000, "Roof shingle removal: A man is sitting on a roof. he starts pulling up"),
        ("lambada", 1000, "In my palm is a clear stone"),
        ("openbookqa", 500, "A person wants to start saving"),
        ("piqa", 3676, "How do I ready a guinea pig cage"),
        ("wikitext2", 2891, "= Robert Boulter ="),
        ("winogrande", 2534, "Sarah was a much better surgeon than Maria so Sarah always got the easier"),
    ],
)
def test_real_sets(name, count, start):
    texts = scored_texts(EvaluationSet.load(DECLARED / f"{name}.json"), REAL)
    assert len(texts) == count
    assert texts[0].startswith(start)
