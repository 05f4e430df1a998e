"""Rows for the tasks of lm-eval, from local files of the public test sets, in the schema that the hub has.

    declared set --> the first of its layouts that is at hand --> rows --> a reader, by a row's keys --> the hub's rows

A row in the hub's schema passes as it is, but for the type of its label. Other forms are turned back: what a task makes
of such a row is what it makes of the hub's. A row that fits no form is an error, as a score over fewer is another.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumi.corpus.evaluation_sets import EvaluationSet, Layout, find_files, find_layout, read_rows
from lumi.errors import ConfigError, DataError

Row = Mapping[str, Any]
Reader = Callable[[Row], dict[str, Any]]
Placed = tuple[str, dict[str, Any]]  # where a row stands, and the row

_BOOLEANS = {"false": "0", "true": "1"}
_SENTENCE_END = re.compile(r"[.!?][\"')]* ")
_WIKIHOW = re.compile(r"\[(?:header|title|step|substeps)\]")
_PAGE = re.compile(r"= (?!=).*(?<!=) =")


class UnusableRow(Exception):
    """A row that the task cannot have; says why."""


@dataclass(frozen=True)
class TaskRows:
    """The rows of a set.

    Attributes:
        rows: in the hub's schema, in the order of the files.
        files: where they are from, files of labels included.
    """

    rows: list[dict[str, Any]]
    files: tuple[Path, ...]


def local_rows(evaluation_set: EvaluationSet, data_dir: Path) -> TaskRows | None:
    """Return the rows of a set for its task in lm-eval; None where the set is not at hand.

    Raises:
        ConfigError: lm-eval's schema for this set is not known here.
        DataError: a file is damaged or empty, a row fits no form or has no usable label, or there are more or fewer
            labels than rows.
    """
    if evaluation_set.name not in _READERS:
        raise ConfigError(
            f"no reader makes rows for lm-eval of the set {evaluation_set.name}",
            f"evaluate some of {', '.join(_READERS)}, or add a reader to lumi.evaluation.task_rows",
        )
    found = find_layout(evaluation_set, data_dir)
    if found is None:
        return None
    layout, paths = found
    placed: list[Placed] = []
    files: list[Path] = []
    for path in paths:
        of_file, label_files = _labelled(path, layout)
        if not of_file:
            raise DataError(f"{path} has no rows in it", "replace the file, or take it away")
        placed += of_file
        files += [path, *label_files]
    rows = [_hub_row(evaluation_set, layout, one) for one in placed]
    if evaluation_set.name == "boolq":
        rows = [{"idx": number, **row} for number, row in enumerate(rows)]
    if evaluation_set.name == "wikitext2" and "page" not in rows[0]:
        rows = [{"page": page} for page in _pages([row["text"] for row in rows], files[0])]
    return TaskRows(rows, tuple(files))


def _labelled(path: Path, layout: Layout) -> tuple[list[Placed], list[Path]]:
    """Return the rows of a file, with the labels that a file beside it has, and that file."""
    rows = list(read_rows(path, layout.format))
    files = find_files(path.parent, layout.labels) if layout.labels else []
    if not files:
        return rows, []
    labels = [one for file in files for one in read_rows(file, "lines") if one[1]["text"].strip()]
    if len(labels) != len(rows):
        raise DataError(
            f"{path} has {len(rows):,} rows, and {files[0]} has {len(labels):,} labels",
            "replace both by the files of one release of the set",
        )
    return [
        (place, row) if "label" in row else (f"{place} with {at}", {**row, "label": label["text"].strip()})
        for (place, row), (at, label) in zip(rows, labels, strict=True)
    ], files


def _hub_row(evaluation_set: EvaluationSet, layout: Layout, placed: Placed) -> dict[str, Any]:
    place, row = placed
    try:
        return _reader(_READERS[evaluation_set.name], row)(row)
    except UnusableRow as error:
        beside = f", put {layout.labels} beside it" if layout.labels else ""
        raise DataError(
            f"{place}: not a row of {evaluation_set.name}: {error}",
            f"replace the file by the split {evaluation_set.split} of {evaluation_set.dataset}, with labels{beside}",
        ) from None


def _reader(forms: Mapping[tuple[str, ...], Reader], row: Row) -> Reader:
    for keys, reader in forms.items():
        if all(key in row for key in keys):
            return reader
    known = " or ".join("+".join(keys) for keys in forms)
    raise UnusableRow(f"its keys are {', '.join(sorted(row)) or 'none'}; known are {known}")


def _boolq(row: Row) -> dict[str, Any]:
    asked = {key: _text(row, key) for key in ("question", "passage")}
    if "label" in row:
        return {**row, "label": _label(row, "label", 2)}
    return {**asked, "label": _label(row, "answer", 2)}


def _hellaswag_hub(row: Row) -> dict[str, Any]:
    for key in ("activity_label", "ctx_a", "ctx_b"):
        _text(row, key, may_be_blank=key == "ctx_b")
    return {**row, "label": str(_label(row, "label", len(_texts(row, "endings"))))}


def _hellaswag(row: Row) -> dict[str, Any]:
    """Take "Activity: Whole sentences. a fragment" apart, as lm-eval capitalises the fragment, which is `ctx_b`.

    WikiHow's contexts, which have marks, end in a whole sentence.
    """
    activity, colon, context = _text(row, "ctx").partition(": ")
    if not colon:
        raise UnusableRow("ctx does not begin with an activity and a colon")
    ends = [] if _WIKIHOW.search(context) else [match.end() for match in _SENTENCE_END.finditer(context)]
    split = bool(ends) and context[ends[-1] :][:1].islower()
    ctx_a, ctx_b = (context[: ends[-1] - 1], context[ends[-1] :]) if split else (context, "")
    return _hellaswag_hub({"activity_label": activity, "ctx_a": ctx_a, "ctx_b": ctx_b, "ctx": context,
                           "endings": row["endings"], "label": row.get("label")})  # fmt: skip


def _lambada(row: Row) -> dict[str, Any]:
    given, _, asked = _text(row, "text").rpartition(" ")  # as the task divides it
    if not given.strip() or not asked.strip():
        raise UnusableRow("text does not end in a space and a word, which is asked for")
    return dict(row)


def _piqa(row: Row) -> dict[str, Any]:
    for key in ("goal", "sol1", "sol2"):
        _text(row, key)
    return {**row, "label": _label(row, "label", 2)}


def _piqa_choices(row: Row) -> dict[str, Any]:
    first, second = _two(row, "choices")
    return {"goal": _question(row), "sol1": first, "sol2": second, "label": _label(row, "gold", 2)}


def _lettered(question: str) -> Reader:
    """Return the reader of the hub's ARC and OpenBookQA, which differ in the key of the question."""

    def read(row: Row) -> dict[str, Any]:
        _text(row, question)
        if not isinstance(row["choices"], Mapping):
            raise UnusableRow(f"choices is {type(row['choices']).__name__}, not an object of text and label")
        texts, labels = _texts(row["choices"], "text"), _texts(row["choices"], "label")
        answer = str(_present(row, "answerKey")).strip()
        if len(texts) != len(labels) or answer not in labels:
            raise UnusableRow(f"answerKey is {answer!r:.40}, and {len(texts)} choices have the labels {labels}")
        return {**row, "answerKey": answer}

    return read


def _numbered(question: str) -> Reader:
    """Return the reader of {query, choices, gold} for the same sets.

    A choice that stands twice was put there to make four of three: the `gold` of such files is not to be relied on.
    """

    def read(row: Row) -> dict[str, Any]:
        texts = _texts(row, "choices")
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise UnusableRow(f"choices has {twice[0]!r:.40} twice, so it was padded")
        return _with_letters(question, _question(row), texts, _label(row, "gold", len(texts)))

    return read


def _instructed(question: str) -> Reader:
    """Return the reader of the form of LLM-Adapters for the same sets."""

    def read(row: Row) -> dict[str, Any]:
        asked, texts, gold = _instruction(row, "to the question: ", "\n\nAnswer1: ", "Answer")
        return _with_letters(question, asked, texts, gold)

    return read


def _with_letters(key: str, question: str, texts: Sequence[str], gold: int) -> dict[str, Any]:
    letters = [chr(ord("A") + number) for number in range(len(texts))]
    return {key: question, "choices": {"text": list(texts), "label": letters}, "answerKey": letters[gold]}


def _winogrande_hub(row: Row) -> dict[str, Any]:
    for key in ("sentence", "option1", "option2"):
        _text(row, key)
    if row["sentence"].count("_") != 1:
        raise UnusableRow(f"sentence has {row['sentence'].count('_')} blanks _, not one")
    answer = str(_present(row, "answer")).strip()
    if answer not in ("1", "2"):
        raise UnusableRow(f"answer is {answer!r:.40}, not 1 or 2")
    return {**row, "answer": answer}


def _winogrande(row: Row) -> dict[str, Any]:
    """Put the blank where the two contexts, equal until then, begin their last words."""
    contexts = _two(row, "context_options")
    pairs = enumerate(zip(*contexts, strict=False))  # as long as the shorter one
    differ = next((at for at, (one, other) in pairs if one != other), min(map(len, contexts)))
    prefix = re.sub(r"\S+\Z", "", contexts[0][:differ])  # Sa|rah and Sa|lly differ from Sa on: cut before the word
    first, second = (context[len(prefix) :] for context in contexts)
    sentence = f"{prefix}_ {_text(row, 'continuation').strip()}"
    answer = str(_label(row, "gold", 2) + 1)
    return _winogrande_hub({"sentence": sentence, "option1": first, "option2": second, "answer": answer})


def _winogrande_instructed(row: Row) -> dict[str, Any]:
    sentence, options, gold = _instruction(row, "the given sentence: ", "\n\nOption1: ", "Option")
    if len(options) != 2:
        raise UnusableRow(f"instruction has {len(options)} options, not two")
    answer = str(gold + 1)
    return _winogrande_hub({"sentence": sentence, "option1": options[0], "option2": options[1], "answer": answer})


def _wikitext(row: Row) -> dict[str, Any]:
    return {**row, "text": _text(row, "text", may_be_blank=True)}


def _pages(texts: Sequence[str], path: Path) -> list[str]:
    r"""Join lines to pages as the hub's document-level set does: one begins at each line " = Title = ".

    Two lines of the test split only look like titles (" = 1 henry and capacitance C = "); the hub divides there too.
    """
    lines = [text.rstrip("\r\n") for text in texts]  # copies with the line ends of Windows go round
    lines = [line if line.strip() else " " for line in lines]  # the hub's line-level set has "" for " "
    if " " not in lines:
        lines = _with_blank_lines(lines)
    pages: list[list[str]] = [[]]
    for line in lines:
        if _PAGE.fullmatch(line.strip()):
            if not "".join(pages[-1]).strip():
                pages.pop()  # what stands before the first title is a blank line
            pages.append([])
        pages[-1].append(line)
    if not any(_PAGE.fullmatch(page[0].strip()) for page in pages):
        raise DataError(f"{path} has no line of the form ' = Title = '", "replace it by WikiText-2's wiki.test.raw")
    pages[-1].append("")  # the last page keeps its last line end
    return ["\n".join(page) for page in pages]


def _with_blank_lines(lines: Sequence[str]) -> list[str]:
    """Put WikiText's blank lines back into a copy without: around each heading, and one more after an article.

    They belong to the text that is scored: without them, perplexity would be another than on the hub's copy.
    """
    whole: list[str] = []
    for line in lines:
        if line.strip().startswith("= ") and line.strip().endswith(" ="):
            ends_article = whole and _PAGE.fullmatch(line.strip())
            whole += [" ", " ", line, " "] if ends_article else [" ", line, " "]
        else:
            whole.append(line)
    return [*whole, " "]


def _instruction(row: Row, asks: str, first: str, word: str) -> tuple[str, list[str], int]:
    """Take an instruction of LLM-Adapters apart: the question, its options, and the number of the right one."""
    _, begun, body = _text(row, "instruction").partition(asks)
    body, ended, names = body.rpartition("Answer format: ")
    options = names.strip().split("/")
    if not begun or not ended or options != [f"{word.lower()}{number}" for number in range(1, len(options) + 1)]:
        form = f"'...{asks}...Answer format: {word.lower()}1/{word.lower()}2/...'"
        raise UnusableRow(f"instruction is not of the form {form}")
    marks = [first, *(f" {word}{number}: " for number in range(2, len(options) + 1))]
    question, *texts = (part.strip() for part in _divided(body, marks))
    if not question or not all(texts):
        raise UnusableRow("instruction has a blank question or option")
    answer = str(_present(row, "answer")).strip().lower()
    if answer not in options:
        raise UnusableRow(f"answer is {answer!r:.40}, not one of {names.strip()}")
    return question, texts, options.index(answer)


def _divided(text: str, marks: Sequence[str]) -> list[str]:
    """Divide a text at marks in their order; an option may have such words in it, if only one division is possible."""
    early, late = [text], [text]
    for mark, last in zip(marks, reversed(marks), strict=True):
        before, found, after = early.pop().partition(mark)
        if not found:
            raise UnusableRow(f"instruction has no {mark!r} where it belongs")
        early += [before, after]
        before, _, after = late.pop(0).rpartition(last)
        late = [before, after, *late]
    if early != late:
        raise UnusableRow(f"instruction can be divided at {', '.join(map(repr, marks))} in more than one way")
    return early


def _present(row: Row, key: str) -> Any:
    if row.get(key) is None or row[key] == "":
        raise UnusableRow(f"no {key}")
    return row[key]


def _label(row: Row, key: str, num_choices: int) -> int:
    written = str(_present(row, key)).strip().lower()
    if num_choices == 2:
        written = _BOOLEANS.get(written, written)
    if not re.fullmatch("[0-9]{1,3}", written) or int(written) >= num_choices:
        raise UnusableRow(f"{key} is {row[key]!r:.40}, and there are {num_choices} choices, counted from 0")
    return int(written)


def _text(row: Row, key: str, *, may_be_blank: bool = False) -> str:
    text = row.get(key)
    if not isinstance(text, str):
        raise UnusableRow(f"{key} is {type(text).__name__}, not text" if key in row else f"no {key}")
    if not may_be_blank and not text.strip():
        raise UnusableRow(f"{key} is blank")
    return text


def _texts(row: Row, key: str) -> list[str]:
    texts = row.get(key)
    if not isinstance(texts, list) or len(texts) < 2:
        raise UnusableRow(f"{key} is not a list of two or more texts")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UnusableRow(f"{key} has something that is blank or no text")
    return texts


def _two(row: Row, key: str) -> tuple[str, str]:
    texts = _texts(row, key)
    if len(texts) != 2:
        raise UnusableRow(f"{key} has {len(texts)} texts, not two")
    return texts[0], texts[1]


def _question(row: Row) -> str:
    """Return the question of a query, without the frame that the task puts around it again."""
    question = _text(row, "query").removeprefix("Question: ").removesuffix("\nAnswer:")
    if not question.strip():
        raise UnusableRow("query is blank")
    return question


_READERS: Mapping[str, Mapping[tuple[str, ...], Reader]] = {
    name: {
        (question, "choices"): _lettered(question),
        ("query", "choices"): _numbered(question),
        ("instruction",): _instructed(question),
    }
    for name, question in (("arc_challenge", "question"), ("arc_easy", "question"), ("openbookqa", "question_stem"))
} | {
    "boolq": {("question", "passage"): _boolq},
    "hellaswag": {("ctx_a", "ctx_b", "endings"): _hellaswag_hub, ("ctx", "endings"): _hellaswag},
    "lambada": {("text",): _lambada},
    "piqa": {("goal", "sol1", "sol2"): _piqa, ("query", "choices"): _piqa_choices},
    "wikitext2": {("page",): dict, ("text",): _wikitext},
    "winogrande": {
        ("sentence", "option1", "option2"): _winogrande_hub,
        ("context_options", "continuation"): _winogrande,
        ("instruction",): _winogrande_instructed,
    },
}
