"""Files that are one JSON array, and rows that are joined by a key they share."""

import gzip
import json
import lzma

import pytest
from tests.corpora import PLAIN

from lumi.corpus import CorpusConfig, SourceConfig, prepare_corpus, read_documents
from lumi.corpus.sources import read_source
from lumi.errors import DataError
from lumi.posttraining.conversations import ConversationsConfig, conversation_outcomes

ROWS = [{"text": "The first text, caf\u00e9.\nIt has two lines.", "n": 1}, {"text": "The second [one].", "n": 2}]


def source(path, **more):
    return SourceConfig(name="s", kind="jsonl", files=(str(path),), licence="none", **more)


def rows_of(path, **more):
    return list(read_source(source(path, **more)))


def written(tmp_path, data, name="a.json"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


class TestArrays:
    @pytest.mark.parametrize("suffix, pack", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_an_array_is_its_objects_also_compressed(self, tmp_path, suffix, pack, indent):
        path = written(tmp_path, pack(json.dumps(ROWS, indent=indent).encode()), f"a.json{suffix}")
        rows = rows_of(path)
        assert [row.data for row in rows] == ROWS
        assert [row.place for row in rows] == [f"{path}, item 1", f"{path}, item 2"]

    def test_a_folder_of_arrays_and_lines(self, tmp_path):
        (tmp_path / "in").mkdir()
        written(tmp_path / "in", json.dumps(ROWS[:1]).encode(), "a.json")
        written(tmp_path / "in", json.dumps(ROWS[1]).encode() + b"\n", "b.json")
        written(tmp_path / "in", lzma.compress(json.dumps([{"text": "third"}]).encode()), "c.json.xz")
        written(tmp_path / "in", b'{"about": "the data"}', "dataset_info.json")
        values = {"name": "c", "sources": [source(tmp_path / "in").resolved()], **PLAIN, "num_workers": 1,
                  "output_dir": str(tmp_path / "out")}  # fmt: skip
        prepare_corpus(CorpusConfig.from_values(values, "test"))
        assert [one.text for one in read_documents(tmp_path / "out")] == [ROWS[0]["text"], ROWS[1]["text"], "third"]

    @pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"  ", b"\xef\xbb\xbf \t"], ids=["bom", "blanks", "both"])
    def test_what_may_stand_before_it(self, tmp_path, before):
        assert [row.data for row in rows_of(written(tmp_path, before + json.dumps(ROWS).encode()))] == ROWS

    def test_blank_lines_before_it(self, tmp_path):
        assert [row.data for row in rows_of(written(tmp_path, b"\n \n" + json.dumps(ROWS).encode()))] == ROWS

    def test_an_empty_array_and_an_empty_file_have_no_rows(self, tmp_path):
        assert rows_of(written(tmp_path, b"[]")) == rows_of(written(tmp_path, b"", "b.json")) == []

    def test_items_that_are_no_objects_are_broken_one_by_one(self, tmp_path):
        path = written(tmp_path, json.dumps([ROWS[0], "words", None, [1], ROWS[1]]).encode())
        values = {"name": "c", "sources": [source(path).resolved()], **PLAIN, "output_dir": str(tmp_path / "out"),
                  "num_workers": 1}  # fmt: skip
        manifest = prepare_corpus(CorpusConfig.from_values(values, "test"))
        counts = manifest.counts
        assert (counts["rows_read"], counts["documents"], counts["dropped"]) == (5, 2, {"broken_row": 3})
        rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected" / "s.jsonl").read_text().splitlines()]
        assert [row["place"] for row in rejected] == [f"{path}, item {number}" for number in (2, 3, 4)]
        assert {row["reason"] for row in rejected} == {"not a JSON object"}

    @pytest.mark.parametrize("data", [b'[{"text": "a"}', b'[{"text": "a"},]', b"[" * 100_000, b'["\xff"]', b"[] x"])
    def test_an_array_that_cannot_be_read_is_an_error_with_its_name(self, tmp_path, data):
        with pytest.raises(DataError, match=r"a\.json is not a JSON array that can be read") as raised:
            rows_of(written(tmp_path, data))
        assert raised.value.way_out

    def test_lines_are_still_lines_whatever_brackets_they_hold(self, tmp_path):
        lines = [b'{"text": "[1]"}', b"[not the first line]", b"{broken"]
        rows = rows_of(written(tmp_path, b"\n" + b"\n".join(lines) + b"\n"))
        assert [row.data.strip() for row in rows] == lines
        assert [row.place.rsplit(":")[-1] for row in rows] == ["2", "3", "4"]


def lines(*rows):
    return b"".join(row + b"\n" if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)


def part(tree, number, **more):
    return {"message_tree_id": tree, "message_id": f"{tree}{number}", **more}


class TestGroups:
    def test_rows_that_follow_one_another_become_one(self, tmp_path):
        values = [part("t", 1), part("t", 2), part("u", 1), part("v", 1), part("v", 2), part("v", 3)]
        path = written(tmp_path, lines(*values))
        rows = rows_of(path, group_by="message_tree_id")
        assert [row.data for row in rows] == [{"tree": values[:2]}, {"tree": values[2:3]}, {"tree": values[3:]}]
        assert [row.place for row in rows] == [f"{path}:1", f"{path}:3", f"{path}:4"]

    def test_the_same_key_further_on_is_another_group(self, tmp_path):
        values = [part("t", 1), part("u", 1), part("t", 2)]
        rows = rows_of(written(tmp_path, lines(*values)), group_by="message_tree_id")
        assert [row.data for row in rows] == [{"tree": [value]} for value in values]

    def test_a_row_without_the_key_stays_as_it_is_and_ends_a_group(self, tmp_path):
        alone, null = {"text": "alone"}, {"message_tree_id": None, "text": "null"}
        values = [alone, part("t", 1), null, part("t", 2), alone]
        rows = rows_of(written(tmp_path, lines(*values)), group_by="message_tree_id")
        assert [row.data if isinstance(row.data, dict) else json.loads(row.data) for row in rows] == [
            alone, {"tree": [values[1]]}, null, {"tree": [values[3]]}, alone,
        ]  # fmt: skip

    def test_a_broken_row_between_is_still_there_to_be_counted(self, tmp_path):
        values = [part("t", 1), b"{broken", part("t", 2), b"[1]", part("u", 1), b"\xff"]
        path = written(tmp_path, lines(*values))
        rows = rows_of(path, group_by="message_tree_id")
        broken = [row for row in rows if isinstance(row.data, bytes)]
        assert [(row.place, row.data.strip()) for row in broken] == [
            (f"{path}:2", b"{broken"), (f"{path}:4", b"[1]"), (f"{path}:6", b"\xff"),
        ]  # fmt: skip
        grouped = [value for row in rows if isinstance(row.data, dict) for value in row.data["tree"]]
        assert grouped == [values[0], values[2], values[4]]

    def test_items_of_an_array_too(self, tmp_path):
        values = [part("t", 1), part("t", 2), part("u", 1)]
        rows = rows_of(written(tmp_path, json.dumps(values).encode()), group_by="message_tree_id")
        assert [row.data for row in rows] == [{"tree": values[:2]}, {"tree": values[2:]}]

    def test_skipping_counts_groups(self, tmp_path):
        path = written(tmp_path, lines(part("t", 1), part("t", 2), part("u", 1), part("v", 1)))
        by = source(path, group_by="message_tree_id")
        whole = list(read_source(by))
        assert list(read_source(by, skip=1)) == whole[1:]
        assert list(read_source(by, skip=3)) == []

    def test_trees_of_messages_become_conversations(self, tmp_path):
        def node(tree, name, parent, role, text, **more):
            return {"message_tree_id": tree, "message_id": name, "parent_id": parent, "role": role, "text": text} | more

        path = written(tmp_path, lines(
            node("t", "t", None, "prompter", "Why?"), node("t", "t1", "t", "assistant", "Worse.", rank=1),
            node("t", "t2", "t", "assistant", "Better.", rank=0), b"{broken",
            node("u", "u", None, "prompter", "How?"), node("u", "u1", "u", "assistant", "Thus.", rank=None),
            node("v", "v", None, "prompter", "Nobody?"),
        ))  # fmt: skip
        values = {"name": "c", "sources": [source(path, group_by="message_tree_id").resolved()], **PLAIN,
                  "output_dir": str(tmp_path / "out"), "num_workers": 1}  # fmt: skip
        values["sources"][0] |= {"text_field": ""}
        manifest = prepare_corpus(ConversationsConfig.from_values(values, "test"), conversation_outcomes)
        assert manifest.counts["rows_read"] == 4
        assert manifest.counts["dropped"] == {"broken_row": 1, "no_messages": 1}
        said = [[turn["content"] for turn in one.metadata["messages"]] for one in read_documents(tmp_path / "out")]
        assert sorted(said) == [["How?", "Thus."], ["Why?", "Better."]]
