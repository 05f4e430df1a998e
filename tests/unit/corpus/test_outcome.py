"""What becomes of one row: every way in which it can be broken, and what its metadata become."""

import datetime
import decimal
import hashlib
import json
import math

import pytest
from tests.corpora import PLAIN

from lumi.corpus.config import CorpusConfig
from lumi.corpus.outcome import outcomes_of
from lumi.corpus.rows import RawRow


def outcome(data, **source):
    values = {"name": "s", "kind": "jsonl", "files": ["x"], "licence": "none", **source}
    config = CorpusConfig.from_values(
        {"name": "c", "sources": [values], **PLAIN, "output_dir": "x", "min_characters": 3, "num_workers": 1}, "test"
    )
    (made,) = outcomes_of([RawRow("x:1", data)], config=config, source=config.sources[0])
    return made


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"{not json}", "not JSON"),
        (b'{"text": "a b c"} x', "not JSON"),
        (b'{"text": "a b c"', "not JSON"),
        (b'{"text": "a b c", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 100 deep"),
        (b'{"text": "a b c", "n": ' + b"1" * 5000 + b"}", "not JSON that can be read"),
        (b'{"text": "\xff\xfe"}', "not UTF-8"),
        ('{"text": "a b c"}'.encode("utf-16"), "not UTF-8"),
        (b'{"text": "\\ud800"}', "not UTF-8"),
        (b'{"text": "a b c", "title": "\\ud800"}', "metadata are not UTF-8"),
        (b'{"text": "a b c", "\\udc00": 1}', "metadata are not UTF-8"),
        ({"text": b"\xff"}, "not UTF-8"),
        (b'{"title": "a b c"}', "no text under 'text'"),
        (b'{"text": null}', "no text under 'text'"),
        (b'{"text": ["a b c"]}', "no text under 'text'"),
        (b'"text"', "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"text": ""}', "the text is empty"),
        (b'{"text": " \\n\\u0000\\r "}', "the text is empty"),
    ],
    ids=range(18),
)
def test_broken_rows(data, reason):
    made = outcome(data)
    assert made.broken.startswith(reason)
    assert (made.place, made.line, made.reason) == ("x:1", b"", "")
    assert 0 < len(made.excerpt) <= 4 * 200


def test_a_good_row():
    made = outcome(b'\xef\xbb\xbf{"title": "A", "text": "caf\\u00e9 \\r\\n2"}')
    record = json.loads(made.line)
    digest = hashlib.sha256("caf\u00e9\n2".encode()).digest()
    assert record == {"id": digest.hex()[:32], "text": "caf\u00e9\n2", "source": "s", "metadata": {"title": "A"}}
    assert made.line.endswith(b"}\n")
    assert (made.digest, made.num_bytes, made.num_characters) == (digest, 7, 6)
    assert made.changed == ("unify_newlines", "trim_blanks")


def test_a_dropped_row_is_not_broken():
    made = outcome(b'{"text": "ab"}')
    assert (made.reason, made.broken, made.line) == ("too_short", "", b"")


def test_metadata_become_the_nearest_json():
    values = {"n": math.nan, "day": datetime.date(2020, 1, 2), "at": datetime.datetime(2020, 1, 2, 3), "raw": b"\xff",
              "price": decimal.Decimal("1.50"), "tags": [math.inf, 1, True, None, "x"], "deep": {"t": 0.5}}  # fmt: skip
    assert json.loads(outcome({"text": "a b c", **values}).line)["metadata"] == {
        "n": None, "day": "2020-01-02", "at": "2020-01-02T03:00:00", "raw": "\\xff", "price": "1.50",
        "tags": [None, 1, True, None, "x"], "deep": {"t": 0.5},
    }  # fmt: skip
    assert json.loads(outcome(b'{"text": "a b c", "n": NaN, "m": 1e999}').line)["metadata"] == {"n": None, "m": None}


def test_the_shipped_rules_see_the_metadata():
    row = b'{"text": "a b c", "title": "IRONCLAD WARSHIP"}'
    assert outcome(row, drop_where={"title": ["IRONCLAD WARSHIP"]}).reason == "named_in_config"
    assert outcome(row, drop_where={"title": ["Ironclad"]}).reason == ""


def test_how_deep_metadata_may_be_does_not_depend_on_the_interpreter():
    deep = b"[" * 100 + b"]" * 100
    flat = b"[" + b'"[[", ' * 200 + b'""]'
    for value, reason in ((deep[1:-1], ""), (deep, "nested more than 100 deep"), (flat, "")):
        assert outcome(b'{"text": "some words here", "n": ' + value + b"}").broken == reason
