import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.corpus.evaluation_sets import EvaluationSet
from lumi.errors import ConfigError, DataError
from lumi.evaluation.task_rows import local_rows

DECLARED = Path("config/evaluation")
REAL = Path("../shared/data")
NEEDS_REAL = pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
ABC = ["A", "B", "C"]
ENDINGS = ["sits.", "runs.", "eats.", "reads."]
ASKED = "Please choose the correct answer to the question: "
BLANK = "Please choose the correct answer to fill in the blank to complete the given sentence: "


def declared(name: str) -> EvaluationSet:
    return EvaluationSet.load(DECLARED / f"{name}.json")


def only(name: str, **layout) -> EvaluationSet:
    """The set as if it had this one layout."""
    values = {"files": ["s.jsonl"], "format": "jsonl", "texts": ["{text}"], **layout}
    return EvaluationSet.from_values({**declared(name).resolved(), "layouts": [values]}, "test")


def read(name: str, folder: Path, *rows, **layout) -> list[dict]:
    (folder / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    found = local_rows(only(name, **layout), folder)
    assert found is not None
    assert found.files[0] == folder / "s.jsonl"
    return found.rows


def instruction(question: str, options: list[str], answer: int, *, asks=ASKED, word="Answer", gap="\n\n") -> dict:
    listed = " ".join(f"{word}{number}: {option}" for number, option in enumerate(options, 1))
    names = [f"{word.lower()}{number}" for number in range(1, len(options) + 1)]
    return {"instruction": f"{asks}{question}\n\n{listed}{gap}Answer format: {'/'.join(names)}", "input": "",
            "answer": names[answer]}  # fmt: skip


# What lm-eval 0.4.13 makes of the hub's rows.


def hellaswag_query(row: dict) -> str:
    return f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}".strip()


def winogrande_choices(row: dict) -> tuple[list[str], str, int]:
    blank = row["sentence"].index("_")
    options = [row["sentence"][:blank] + row[key] for key in ("option1", "option2")]
    return options, row["sentence"][blank + 1 :].strip(), {"1": 0, "2": 1}[row["answer"]]


def lettered(row: dict) -> tuple[str, list[str], int]:
    question = row["question"] if "question" in row else row["question_stem"]
    return question, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"])


HUB = {
    "arc_easy": {"id": "1", "question": "why?", "choices": {"text": ["no", "yes"], "label": ["1", "2"]},
                 "answerKey": "2"},
    "arc_challenge": {"id": "1", "question": "why?", "choices": {"text": ["no", "yes", "so"], "label": ABC},
                      "answerKey": "C"},
    "boolq": {"question": "is it", "passage": "It is.", "idx": 7, "label": 1},
    "hellaswag": {"ind": 4, "activity_label": "Roofing", "ctx_a": "A man sits. [step] X.", "ctx_b": "", "ctx": "A man",
                  "endings": ENDINGS, "label": "3", "source_id": "a"},
    "lambada": {"text": "he said so"},
    "openbookqa": {"id": "1", "question_stem": "because", "choices": {"text": ["no", "yes"], "label": ["A", "B"]},
                   "answerKey": "B"},
    "piqa": {"goal": "sit", "sol1": "on a chair ", "sol2": "on air", "label": 0},
    "wikitext2": {"page": " = A = \n b \n"},
    "winogrande": {"sentence": "Ann beat Eve, so _ won.", "option1": "Ann", "option2": "Eve", "answer": "1"},
}  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_a_row_of_the_hub_passes_as_it_is(tmp_path, name):
    assert read(name, tmp_path, HUB[name], HUB[name]) == [HUB[name], HUB[name]]


@pytest.mark.parametrize(
    "name, key, given, expected",
    [
        ("boolq", "label", "1", 1), ("boolq", "label", True, 1), ("boolq", "label", "False", 0),
        ("hellaswag", "label", 2, "2"), ("hellaswag", "label", " 0 ", "0"), ("piqa", "label", "1", 1),
        ("winogrande", "answer", 2, "2"), ("arc_easy", "answerKey", 1, "1"), ("openbookqa", "answerKey", " A", "A"),
    ],
)  # fmt: skip
def test_a_label_of_another_type_becomes_that_of_the_hub(tmp_path, name, key, given, expected):
    (row,) = read(name, tmp_path, {**HUB[name], key: given})
    assert row == {**HUB[name], key: expected}
    assert type(row[key]) is type(expected)


def test_boolq_of_its_authors(tmp_path):
    rows = read("boolq", tmp_path, *({"question": "is it", "title": "T", "passage": "P.", "answer": answer}
                                     for answer in (True, False, "true")))  # fmt: skip
    assert rows == [{"idx": number, "question": "is it", "passage": "P.", "label": label}
                    for number, label in enumerate([1, 0, 1])]  # fmt: skip


@pytest.mark.parametrize(
    "context, ctx_b",
    [
        ("A man is sitting on a roof. he", "he"),
        ("He sits. He stands up! the man in black", "the man in black"),
        ('He says "so." the man', "the man"),
        ("He sits. he stands. The man", ""),  # the last sentence counts
        ("A man is sitting on a roof.", ""),
        ("a man", ""),
        ("He sits. 5 the guy", ""),
        ('It ends. " power', ""),
        ("[header] How to sit [title] Take a chair. [step] Sit down. then stand up.", ""),
    ],
)
def test_hellaswag_in_one_text(tmp_path, context, ctx_b):
    (row,) = read("hellaswag", tmp_path, {"ctx": f"Roofing: {context}", "label": 3, "endings": ENDINGS})
    assert (row["activity_label"], row["ctx_b"]) == ("Roofing", ctx_b)
    assert f"{row['ctx_a']} {row['ctx_b']}".rstrip() == context
    capitalised = context[: len(context) - len(ctx_b)] + ctx_b.capitalize()
    assert hellaswag_query(row) == f"Roofing: {capitalised}"
    assert (row["endings"], row["label"]) == (ENDINGS, "3")


@pytest.mark.parametrize("name, key", [("arc_easy", "question"), ("openbookqa", "question_stem")])
def test_questions_with_numbered_choices(tmp_path, name, key):
    rows = read(name, tmp_path, {"query": "Question: why?", "choices": ["no", "yes", "so"], "gold": "1"},
                {"query": "Question: why?\nAnswer:", "choices": ["no", "yes"], "gold": 0})  # fmt: skip
    assert rows == [
        {key: "why?", "choices": {"text": ["no", "yes", "so"], "label": ABC}, "answerKey": "B"},
        {key: "why?", "choices": {"text": ["no", "yes"], "label": ["A", "B"]}, "answerKey": "A"},
    ]


@pytest.mark.parametrize("name, key", [("arc_challenge", "question"), ("openbookqa", "question_stem")])
def test_questions_with_instructions(tmp_path, name, key):
    odd = ["Answer1: to the question: is", "Answer format: any", "x Answer2: y Answer1: z", "Answer7: z\n\nQ"]
    plain, strange = read(name, tmp_path, instruction("why: so?", ["no", "yes", "so"], 2), instruction("?", odd, 0))
    assert plain == {key: "why: so?", "choices": {"text": ["no", "yes", "so"], "label": ABC}, "answerKey": "C"}
    assert lettered(strange) == ("?", odd, 0)


words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(lambda text: "_" not in text)
phrases = st.lists(words, min_size=1, max_size=4).map(" ".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(phrases, st.lists(phrases, min_size=2, max_size=6), st.data())
def test_an_instruction_gives_back_what_it_was_made_of(tmp_path, question, options, data):
    gold = data.draw(st.integers(0, len(options) - 1))
    (row,) = read("arc_easy", tmp_path, instruction(question, options, gold))
    assert lettered(row) == (question, options, gold)


def test_piqa_with_labels_beside_it(tmp_path):
    bare = {key: HUB["piqa"][key] for key in ("goal", "sol1", "sol2")}
    (tmp_path / "s.lst.gz").write_bytes(gzip.compress(b"1\n0\n1\n\n"))
    rows = read("piqa", tmp_path, bare, bare, {**bare, "label": 0}, labels="*.lst")
    assert rows == [{**bare, "label": label} for label in (1, 0, 0)]  # a row's own label counts
    found = local_rows(only("piqa", labels="*.lst"), tmp_path)
    assert found.files == (tmp_path / "s.jsonl", tmp_path / "s.lst.gz")


def test_piqa_with_numbered_choices(tmp_path):
    rows = read("piqa", tmp_path, {"query": "Question: sit", "choices": ["on a chair", "on air"], "gold": 0})
    assert rows == [{"goal": "sit", "sol1": "on a chair", "sol2": "on air", "label": 0}]


@pytest.mark.parametrize(
    "contexts, sentence",
    [
        (["Ann beat Eve, so Ann", "Ann beat Eve, so Eve"], "Ann beat Eve, so _ won."),
        (["so Sarah", "so Sally"], "so _ won."),  # not "so Sa_"
        (["so Tom", "so Tom's"], "so _ won."),
        (["so the red car", "so the red cat"], "so the red _ won."),
        (["Ann", "Eve"], "_ won."),
    ],
)
def test_winogrande_in_parts(tmp_path, contexts, sentence):
    (row,) = read("winogrande", tmp_path, {"context_options": contexts, "continuation": "won.", "gold": 1})
    assert row["sentence"] == sentence
    assert winogrande_choices(row) == (contexts, "won.", 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.just(""), phrases.map("{} ".format)), phrases, phrases, phrases, st.integers(0, 1))
def test_winogrande_gives_back_what_is_scored(tmp_path, prefix, first, second, continuation, gold):
    parts = {"context_options": [prefix + first, prefix + second], "continuation": continuation, "gold": gold}
    (row,) = read("winogrande", tmp_path, parts)
    assert winogrande_choices(row) == tuple(parts.values())


def test_winogrande_with_instructions(tmp_path):
    asked = instruction("Ann beat Eve, so _ won.", ["Ann", "Eve"], 0, asks=BLANK, word="Option", gap=" ")
    assert read("winogrande", tmp_path, asked) == [HUB["winogrande"]]


PAGES = [" = A = \n \n b \n \n = = C = = \n \n \n = = = D = = = \n \n e \n \n ", " = F ( g ) = \n \n h = i \n \n"]


@pytest.mark.parametrize(
    "change", [str, lambda text: text.replace("\n", "\r\n"), lambda text: re.sub(r"(?m)^ \n", "", text)]
)
def test_wikitext_becomes_pages_from_whole_copies_and_from_those_without_blank_lines(tmp_path, change):
    (tmp_path / "s.jsonl").write_text(change(" \n" + "\n".join(PAGES)), newline="")
    found = local_rows(only("wikitext2", format="lines"), tmp_path)
    assert [row["page"] for row in found.rows] == PAGES


def test_wikitext_line_by_line_as_the_hub_has_it(tmp_path):
    lines = "\n".join(["", *PAGES]).splitlines(keepends=True)
    rows = read("wikitext2", tmp_path, *({"text": line if line.strip() else ""} for line in lines))
    assert [row["page"] for row in rows] == PAGES


def test_the_first_layout_at_hand_counts_and_none_is_none(tmp_path):
    assert local_rows(declared("piqa"), tmp_path) is None
    (tmp_path / "llm-eval").mkdir()
    other = {"query": "Question: sit", "choices": ["so", "not so"], "gold": 0}
    (tmp_path / "llm-eval/piqa.jsonl").write_text(json.dumps(other))
    assert local_rows(declared("piqa"), tmp_path).rows[0]["sol1"] == "so"
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa/validation.jsonl").write_text(json.dumps(HUB["piqa"]))
    assert local_rows(declared("piqa"), tmp_path).rows == [HUB["piqa"]]


@pytest.mark.parametrize("name", ["hellaswag", "lambada"])
def test_a_whole_set_goes_before_a_part_of_it(tmp_path, name):
    import pyarrow
    import pyarrow.parquet as parquet

    part, whole = (
        ("test_first_1.jsonl", "test-0.parquet")
        if name == "lambada"
        else ("validation_first_1.jsonl", "data/validation-0.parquet")
    )
    (tmp_path / name / "data").mkdir(parents=True)
    (tmp_path / name / part).write_text(json.dumps(HUB[name]))
    assert len(local_rows(declared(name), tmp_path).rows) == 1
    parquet.write_table(pyarrow.Table.from_pylist([HUB[name]] * 2), tmp_path / name / whole)
    assert local_rows(declared(name), tmp_path).rows == [HUB[name]] * 2


def without(name: str, key: str) -> dict:
    return {one: value for one, value in HUB[name].items() if one != key}


QUERY = {"query": "Question: why?", "choices": ["no", "yes"], "gold": 1}
PARTS = {"context_options": ["so Ann", "so Eve"], "continuation": "won.", "gold": 1}
CTX = {"ctx": "Roofing: A man. he", "endings": ENDINGS, "label": 0}
TOLD = instruction("why?", ["no", "yes"], 1)
FILLED = instruction("so _ won.", ["Ann", "Eve"], 0, asks=BLANK, word="Option", gap=" ")


@pytest.mark.parametrize(
    "name, row, complaint",
    [
        ("boolq", {"q": 1, "a": 2}, "its keys are a, q; known are question+passage"),
        ("boolq", {}, "its keys are none"),
        ("piqa", {"goal": "sit"}, "known are goal+sol1+sol2 or query+choices"),
        ("boolq", without("boolq", "label"), "no answer"),
        ("boolq", {**HUB["boolq"], "label": -1}, "label is -1, and there are 2 choices, counted from 0"),
        ("boolq", {**HUB["boolq"], "label": 2}, "label is 2, and there are 2"),
        ("boolq", {**HUB["boolq"], "label": 1.0}, "label is 1.0, and there are 2"),
        ("boolq", {**HUB["boolq"], "label": None}, "no label"),
        ("boolq", {**HUB["boolq"], "passage": None}, "passage is NoneType, not text"),
        ("boolq", {**HUB["boolq"], "question": " "}, "question is blank"),
        ("hellaswag", {**HUB["hellaswag"], "label": ""}, "no label"),
        ("hellaswag", {**HUB["hellaswag"], "label": "4"}, "label is '4', and there are 4"),
        ("hellaswag", {**HUB["hellaswag"], "label": True}, "label is True, and there are 4"),
        ("hellaswag", without("hellaswag", "activity_label"), "no activity_label"),
        ("hellaswag", {**HUB["hellaswag"], "endings": "so"}, "endings is not a list of two or more texts"),
        ("hellaswag", {**HUB["hellaswag"], "endings": ["so", None]}, "endings has something that is blank or no text"),
        ("hellaswag", {**CTX, "endings": ["sits."]}, "endings is not a list of two or more texts"),
        ("hellaswag", {**CTX, "ctx": "A man. he"}, "ctx does not begin with an activity and a colon"),
        ("hellaswag", {"ctx": "Roofing: A man. he", "endings": ENDINGS}, "no label"),
        ("lambada", {"text": "so"}, "text does not end in a space and a word"),
        ("lambada", {"text": "he said so "}, "text does not end in a space and a word"),
        ("arc_easy", without("arc_easy", "answerKey"), "no answerKey"),
        ("arc_easy", {**HUB["arc_easy"], "answerKey": "B"}, "answerKey is 'B', and 2 choices have the labels ['1', '2"),
        ("arc_easy", {**HUB["arc_easy"], "choices": {"text": ["a", "b", "c"], "label": ["1", "2"]}}, "and 3 choices"),
        ("arc_easy", {**HUB["arc_easy"], "choices": ["a", "b"]}, "choices is list, not an object of text and label"),
        ("arc_easy", {**QUERY, "gold": 2}, "gold is 2, and there are 2"),
        ("arc_easy", {"query": "Question: why?", "choices": ["no", "yes"]}, "no gold"),
        ("arc_easy", {**QUERY, "query": "Question: "}, "query is blank"),
        ("arc_easy", {**QUERY, "choices": ["no", "no", "yes"]}, "choices has 'no' twice, so it was padded"),
        ("openbookqa", {**TOLD, "answer": "answer3"}, "answer is 'answer3', not one of answer1/answer2"),
        ("openbookqa", {"instruction": TOLD["instruction"]}, "no answer"),
        (
            "openbookqa",
            {**TOLD, "instruction": "why?"},
            "instruction is not of the form '...to the question: ...Answer fo",
        ),
        (
            "openbookqa",
            {**TOLD, "instruction": f"{ASKED}why?"},
            "of the form '...to the question: ...Answer format: answer1/answer2/...'",
        ),
        ("openbookqa", instruction("why?", ["a Answer2: b", "c"], 0), "' Answer2: ' in more than one way"),
        (
            "openbookqa",
            {**TOLD, "instruction": TOLD["instruction"].replace("r2: ", "r2 ")},
            "has no ' Answer2: ' where",
        ),
        ("openbookqa", instruction("why?", ["a", " "], 0), "instruction has a blank question or option"),
        ("piqa", without("piqa", "label"), "no label"),
        ("piqa", {**QUERY, "choices": ["a", "b", "c"]}, "choices has 3 texts, not two"),
        ("winogrande", {**HUB["winogrande"], "answer": ""}, "no answer"),
        ("winogrande", {**HUB["winogrande"], "answer": "0"}, "answer is '0', not 1 or 2"),
        ("winogrande", {**HUB["winogrande"], "sentence": "so won."}, "sentence has 0 blanks _, not one"),
        ("winogrande", {**PARTS, "context_options": ["a_b so Ann", "a_b so Eve"]}, "sentence has 2 blanks _, not one"),
        ("winogrande", {**PARTS, "context_options": ["so ", "so Eve"]}, "option1 is blank"),
        ("winogrande", {**PARTS, "gold": 2}, "gold is 2, and there are 2"),
        ("winogrande", {**FILLED, "answer": "option3"}, "answer is 'option3', not one of option1/option2"),
        ("winogrande", instruction("so _", ["a", "b", "c"], 0, asks=BLANK, word="Option", gap=" "), "3 options, not"),
        ("wikitext2", {"text": None}, "text is NoneType, not text"),
    ],
)
def test_a_row_that_the_task_cannot_have_is_an_error_with_its_place(tmp_path, name, row, complaint):
    (tmp_path / "s.jsonl").write_text(f"{json.dumps(HUB[name])}\n\n{json.dumps(row)}\n")
    with pytest.raises(DataError) as error:
        local_rows(only(name), tmp_path)
    assert f"{tmp_path}/s.jsonl:3: not a row of {name}: " in error.value.fact
    assert complaint in error.value.fact
    assert declared(name).dataset in error.value.way_out


@pytest.mark.parametrize(
    "labels, complaint",
    [
        ("0\n", "s.jsonl has 2 rows, and {folder}/s.lst has 1 labels"),
        ("0\n1\n1\n", "s.jsonl has 2 rows, and {folder}/s.lst has 3 labels"),
        ("0\n2\n", "s.jsonl:2 with {folder}/s.lst:2: not a row of piqa: label is '2', and there are 2 choices"),
        ("0\n\udcff\n", "s.lst:2: not as declared: UnicodeDecodeError"),
    ],
)
def test_labels_that_are_not_those_of_the_rows(tmp_path, labels, complaint):
    (tmp_path / "s.lst").write_bytes(labels.encode("utf8", "surrogateescape"))
    with pytest.raises(DataError) as error:
        read("piqa", tmp_path, without("piqa", "label"), without("piqa", "label"), labels="s.lst")
    assert complaint.format(folder=tmp_path) in error.value.fact


def test_the_way_out_of_missing_labels_names_their_file(tmp_path):
    with pytest.raises(DataError, match=r"put valid-labels\.lst beside it"):
        read("piqa", tmp_path, without("piqa", "label"), labels="valid-labels.lst")


@pytest.mark.parametrize(
    "content, layout, complaint",
    [
        ("", {}, "s.jsonl has no rows in it"),
        ('{"text": "he said so"}\n{"text"\n', {}, "s.jsonl:2: not as declared: JSONDecodeError"),
        ("[1]\n", {}, "s.jsonl:1: not as declared: TypeError: a row is an object, not a list"),
        ("{}", {"format": "json"}, "s.jsonl cannot be read: a JSON list of rows is declared"),
        ("PAR1", {"format": "parquet"}, "s.jsonl cannot be read"),
    ],
)
def test_a_damaged_file(tmp_path, content, layout, complaint):
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(DataError) as error:
        local_rows(only("lambada", **layout), tmp_path)
    assert complaint in error.value.fact


def test_a_text_without_titles_is_not_wikitext(tmp_path):
    (tmp_path / "s.jsonl").write_text("so\n = = B = = \n")
    with pytest.raises(DataError, match="no line of the form ' = Title = '"):
        local_rows(only("wikitext2", format="lines"), tmp_path)


def test_a_set_without_a_reader_is_named(tmp_path):
    own = EvaluationSet.from_values({**declared("boolq").resolved(), "name": "own"}, "test")
    with pytest.raises(ConfigError, match="no reader makes rows for lm-eval of the set own"):
        local_rows(own, tmp_path)


COUNTS = {"arc_challenge": 1172, "arc_easy": 2376, "boolq": 3270, "hellaswag": 2000, "lambada": 1000,
          "openbookqa": 500, "piqa": 1838, "winogrande": 1267}  # fmt: skip


@NEEDS_REAL
@pytest.mark.parametrize("folder", [REAL, REAL / "eval"], ids=["data", "eval"])
@pytest.mark.parametrize("name", COUNTS)
def test_real_sets_have_all_their_rows(name, folder):
    rows = local_rows(declared(name), folder).rows
    assert len(rows) == COUNTS[name]
    assert len({frozenset(row) for row in rows}) == 1
    if name == "boolq":
        assert round(100 * sum(row["label"] for row in rows) / len(rows), 2) == 62.17


@NEEDS_REAL
def test_real_hellaswag_is_asked_as_the_hub_asks_it():
    rows = local_rows(declared("hellaswag"), REAL).rows
    lines = (REAL / "eval/hellaswag/validation_first_2000.jsonl").read_text().splitlines()
    for row, line in zip(rows, lines, strict=True):
        query, context = hellaswag_query(row), json.loads(line)["ctx"]
        begin = len(context) - len(row["ctx_b"])
        assert query == context[:begin] + row["ctx_b"].capitalize()
        assert row["ctx_b"] or not context.rsplit(". ", 1)[1][0].isalpha()  # nothing to capitalise
    assert sum(bool(row["ctx_b"]) for row in rows) == 1998


def one_layout(name: str, file: str) -> EvaluationSet:
    whole = declared(name)
    (layout,) = [layout for layout in whole.layouts if any(file in pattern for pattern in layout.files)]
    return whole.model_copy(update={"layouts": (layout,)})


@NEEDS_REAL
def test_real_sets_are_the_same_in_every_form():
    forms = {name: [local_rows(one_layout(name, file), REAL).rows for file in files]
             for name, files in (("piqa", ("eval/piqa/", "llm-eval/")),
                                 ("winogrande", ("llm-eval/", "llm-adapters/")))}  # fmt: skip
    for one, other in zip(*forms["winogrande"], strict=True):  # a sentence has two spaces after its blank
        assert winogrande_choices(one) == winogrande_choices(other)
    for one, other in zip(*forms["piqa"], strict=True):
        assert {key: value.strip() if key != "label" else value for key, value in one.items()} == other


@NEEDS_REAL
def test_real_arc_easy_comes_from_the_copy_with_the_right_labels():
    """LLM-Eval's copy has 4 choices in each row, also where ARC has 3 or 5, and `gold` is often one too high."""
    with pytest.raises(DataError, match=r"arc_easy\.jsonl:94: .*choices has 'decrease' twice"):
        local_rows(one_layout("arc_easy", "llm-eval/"), REAL)
    rows = [lettered(row) for row in local_rows(declared("arc_easy"), REAL).rows]
    assert rows[14] == ("All living and nonliving material is composed of", ["air", "elements", "water", "soil"], 1)
    assert [sum(len(choices) == count for _, choices, _ in rows) for count in (3, 4, 5)] == [7, 2365, 4]


@NEEDS_REAL
def test_real_winogrande_is_scored_as_its_file_says():
    lines = (REAL / "eval/llm-eval/winogrande.jsonl").read_text().splitlines()
    for row, line in zip(local_rows(declared("winogrande"), REAL).rows, lines, strict=True):
        parts = json.loads(line)
        assert winogrande_choices(row) == (parts["context_options"], parts["continuation"], parts["gold"])


@NEEDS_REAL
def test_real_wikitext_has_its_blank_lines_where_the_tokenised_copy_has_them():
    """The raw copy has none; the tokenised one, whose words are others, has them all."""
    raw = [row["page"] for row in local_rows(declared("wikitext2"), REAL).rows]
    tokens = only("wikitext2", files=["wikitext-2/wiki.test.tokens"], format="lines")
    tokenised = [row["page"] for row in local_rows(tokens, REAL).rows]
    assert len(raw) == len(tokenised) == 62
    blanks = [[[not line.strip() for line in page.split("\n")] for page in pages] for pages in (raw, tokenised)]
    titles = [page.split("\n")[0] for page, one, other in zip(raw, *blanks, strict=True) if one != other]
    assert titles == [" = Constant k filter = ", " = 1 rad / s and a nominal impedance k = ",
                      " = 1 henry and capacitance C = ", " = Nerva = "]  # fmt: skip
    assert local_rows(declared("wikitext2"), REAL / "eval") is None
