import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.corpus.evaluation_sets import EvaluationSet, load_evaluation_sets, read_rows, scored_texts
from lumi.errors import ConfigError, DataError

DECLARED = Path("config/evaluation")
REAL = Path("../shared/data")


def declared(**layout) -> EvaluationSet:
    values = {
        "name": "s",
        "title": "S",
        "licence": "none",
        "citation": "none",
        "dataset": "a/b",
        "split": "test",
        "num_texts": 1,
    }
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


def test_plain_text_is_read_whole_and_of_other_formats_no_blank_lines(tmp_path):
    (tmp_path / "a.raw").write_bytes(b" = A = \r\n \r\n\nb")
    assert [row["text"] for _, row in read_rows(tmp_path / "a.raw", "lines")] == [" = A = \r\n", " \r\n", "\n", "b"]
    (tmp_path / "a.jsonl").write_text('{"q": "one"}\n \n{"q": "two"}\n')
    assert list(read_rows(tmp_path / "a.jsonl", "jsonl")) == [
        (f"{tmp_path}/a.jsonl:1", {"q": "one"}), (f"{tmp_path}/a.jsonl:3", {"q": "two"})
    ]  # fmt: skip


def test_the_first_place_that_has_files_counts_and_none_is_not_at_hand(tmp_path):
    write(tmp_path / "second/1.jsonl", {"q": "a"})
    write(tmp_path / "second/2.jsonl", {"q": "b"})
    write(tmp_path / "third.jsonl", {"q": "c"})
    assert scored_texts(declared(files=["first.jsonl", "second/*.jsonl", "third.jsonl"]), tmp_path) == ["a", "b"]
    assert scored_texts(declared(files=["first.jsonl"]), tmp_path) is None
    assert scored_texts(declared(files=["first.jsonl"]), tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "content, layout, complaint",
    [
        ('{"q": "a"}\n\n{"p": "b"}\n', {}, "s.jsonl:3: not as declared: KeyError: 'q'"),
        ('{"q": ["a"]}\n', {}, "s.jsonl:1: not as declared: TypeError: {q} is no text but a list"),
        ('{"q": "a"}\n{"q"\n', {}, "s.jsonl:2: not as declared: JSONDecodeError"),
        ('{"q": "a"}\n["q"]\n', {}, "s.jsonl:2: not as declared: TypeError: a row is an object, not a list"),
        ('{"q": "a"}\n{"q": " "}\n', {}, "s.jsonl:2: not as declared: ValueError: a text is blank"),
        ('{"q": null}\n', {}, "{q} is no text but a NoneType"),
        ('{"a": ["x", null]}\n', {"texts": ["{a[*]}"]}, "{a[*]} is no text but a NoneType"),
        ('{"a": []}\n', {"texts": ["{a[*]}"]}, "[*] is of an empty list"),
        ('{"a": "xy", "n": 1}\n', {"texts": ["{a[n]}"]}, "[n] is of a list, not of a str"),
        ('{"a": "xy"}\n', {"texts": ["{a[*]}"]}, "[*] is of a list, not of a str"),
        ('{"a": ["x", "y"], "n": 2}\n', {"texts": ["{a[n]}"]}, "[n] is 2, and there are 2"),
        ('{"a": ["x", "y"], "n": -1}\n', {"texts": ["{a[n]}"]}, "[n] is -1, and there are 2"),
        ('{"a": ["x", "y"], "n": ""}\n', {"texts": ["{a[n]}"]}, "s.jsonl:1: not as declared: ValueError"),
        ('{"q": "why?"}\n', {"after": "Question: "}, "'Question: ' is not in the text"),
        ('{"q": "why?"}\n', {"before": "Answer"}, "'Answer' is not in the text"),
        ('{"q": "so he did", "a": "he"}\n', {"fill": {"_": ["{a}"]}}, "'_' is not in the text"),
        ('[{"q": "a"}, {}]', {"format": "json"}, "s.jsonl, row 2: not as declared: KeyError"),
        ('{"q": "a"}', {"format": "json"}, "cannot be read: a JSON list of rows is declared, not a dict"),
        ("one\n\udcff\n", {"format": "lines", "texts": ["{text}"]}, "s.jsonl:2: not as declared: UnicodeDecodeError"),
        ("PAR1", {"format": "parquet"}, "cannot be read"),
        ("", {}, "s.jsonl has no text in it"),
        ("\n\n", {"format": "lines", "texts": ["{text}"]}, "s.jsonl has no text in it"),
    ],
)
def test_a_damaged_set_is_an_error_and_never_looked_for_in_part(tmp_path, content, layout, complaint):
    (tmp_path / "s.jsonl").write_bytes(content.encode("utf8", "surrogateescape"))
    with pytest.raises(DataError) as error:
        scored_texts(declared(files=["s.jsonl"], **layout), tmp_path)
    assert complaint in error.value.fact


def test_a_compressed_file_that_was_cut_off_is_an_error(tmp_path):
    whole = gzip.compress(b"".join(b'{"q": "%d"}\n' % number for number in range(5000)))
    (tmp_path / "s.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"s\.jsonl\.gz cannot be read"):
        scored_texts(declared(files=["s.jsonl"]), tmp_path)


@pytest.mark.parametrize(
    "layout",
    [*({"texts": [text]} for text in ("{q.__class__!r}", "{q!r}", "{q:>9}", "{0}", "{}", "{q", "q}", "{{q}}", "q", "")),
     {"fill": {"_": ["{a!r}"]}}, {"fill": {"": ["{a}"]}},
     {"labels": "../x"}, {"labels": ""},
     {"files": ["/etc/x"]}, {"files": ["../x"]}, {"files": ["a/../../x"]}, {"files": [""]}],
)  # fmt: skip
def test_a_template_reaches_fields_alone_and_a_glob_files_below_the_folder(tmp_path, layout):
    values = {"files": ["s.jsonl"], "format": "jsonl", "texts": ["{q}"], **layout}
    shipped = json.loads((DECLARED / "boolq.json").read_text())
    (tmp_path / "boolq.json").write_text(json.dumps({**shipped, "layouts": [values]}))
    with pytest.raises(ConfigError, match=r"boolq\.json: layouts"):
        load_evaluation_sets(tmp_path)


def test_a_name_in_a_template_is_a_key_and_never_an_attribute(tmp_path):
    write(tmp_path / "s.jsonl", {"q": "a"})
    with pytest.raises(DataError):
        scored_texts(declared(files=["s.jsonl"], texts=["{q.__class__}"]), tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text().filter(lambda text: "_" not in text and text.strip()), min_size=2, max_size=5), st.data())
def test_whatever_a_field_holds_is_put_in_as_it_is(tmp_path, values, data):
    label = data.draw(st.integers(0, len(values) - 1))
    write(tmp_path / "s.jsonl", {"ctx": "so {label} _", "endings": values, "label": label})
    layout = {"files": ["s.jsonl"], "texts": ["{ctx}"], "fill": {"_": ["{endings[label]}", "{endings[*]}"]}}
    assert scored_texts(declared(**layout), tmp_path) == [
        f"so {{label}} {value}".strip() for value in (values[label], *values)
    ]


QUESTION = {"question": "why?", "question_stem": "why?", "text": "why?", "ctx": "why?", "endings": ["no", "yes"],
            "label": "1", "goal": "why?", "sol1": "yes", "sol2": "no", "sentence": "why _?", "option1": "he",
            "option2": "she", "passage": "given", "answer": "1"}  # fmt: skip


@pytest.mark.parametrize(
    "name, here, elsewhere, texts",
    [
        ("arc_easy", "ARC-Easy/test-00000-of-00001.parquet", "ARC-Challenge/test-00000-of-00001.parquet", ["why?"]),
        ("arc_challenge", "ARC-Challenge/test/0000.parquet", "ARC-Easy/test/0000.parquet", ["why?"]),
        ("boolq", "data/validation-00000-of-00001.parquet", "data/train-00000-of-00001.parquet", ["why?"]),
        ("hellaswag", "data/validation-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", ["why? yes"]),
        ("lambada", "data/lambada_test.jsonl", "data/lambada_test_de.jsonl", ["why?"]),
        ("lambada", "default/test/0000.parquet", "de/test/0000.parquet", ["why?"]),
        ("openbookqa", "main/test-00000-of-00001.parquet", "additional/test-00000-of-00001.parquet", ["why?"]),
        ("piqa", "plain_text/validation/0000.parquet", "plain_text/test/0000.parquet", ["why? yes", "why? no"]),
        ("wikitext2", "wikitext-2-raw-v1/test-00000-of-00001.parquet", "wikitext-103-v1/test-00000-of-00002.parquet",
         ["why?"]),
        ("winogrande", "winogrande_xl/validation-00000-of-00001.parquet",
         "winogrande_l/validation-00000-of-00001.parquet", ["why he?", "why she?"]),
    ],
)  # fmt: skip
def test_of_a_whole_repository_of_the_hub_one_subset_and_split_is_read(tmp_path, name, here, elsewhere, texts):
    import pyarrow
    import pyarrow.parquet as parquet

    for file in (here, elsewhere):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        blank = [{**QUESTION, "text": ""}] if name == "wikitext2" else []  # the hub keeps its empty lines
        if path.suffix == ".jsonl":
            write(path, QUESTION)
        else:
            parquet.write_table(pyarrow.Table.from_pylist([*blank, QUESTION, *blank]), path)
    one = EvaluationSet.load(DECLARED / f"{name}.json")
    assert scored_texts(one, tmp_path) == texts
    (tmp_path / name / here).unlink()
    assert scored_texts(one, tmp_path) is None  # what is left is not the set


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


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", [path.stem for path in sorted(DECLARED.glob("*.json")) if path.stem != "wikitext2"])
def test_real_sets_have_one_text_from_either_folder_and_in_every_form(name):
    declared_set = EvaluationSet.load(DECLARED / f"{name}.json")
    texts = scored_texts(declared_set, REAL)
    assert scored_texts(declared_set, REAL / "eval") == texts
    for layout in declared_set.layouts:
        same = scored_texts(declared_set.model_copy(update={"layouts": (layout,)}), REAL)
        if same is not None and "sentence" not in layout.after:  # there the blank is not filled
            assert [" ".join(text.split()) for text in same] == [" ".join(text.split()) for text in texts]
