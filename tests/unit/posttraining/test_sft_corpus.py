"""Conversations from raw rows to training rows: what is counted, what is on disk, and what is refused."""

import json
import os
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.corpora import PLAIN

from lumi.artifacts import read_manifest
from lumi.conversation import Message, find_template, render
from lumi.corpus import read_documents
from lumi.errors import ConfigError, DataError, IntegrityError, TokenizerMismatch, TokenizerMissing
from lumi.posttraining import rendering
from lumi.posttraining.conversations import messages_in
from lumi.posttraining.sft_corpus import SftCorpusConfig, prepare_sft_corpus
from lumi.posttraining.sft_dataset import CONVERSATIONS, SFTDataset
from lumi.posttraining.shapes import messages_of
from lumi.randomness import generator
from lumi.tokenizer import BOS_ID, IM_END_ID, IM_START_ID, PAD_ID, Tokenizer, TokenizerConfig, train_tokenizer

LENGTH = 512
SHARD = 45_000  # bytes: two of them
WORDS = [
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "lagoon",
    "meadow", "north", "orchard", "pier", "quarry", "ridge", "shoal", "tower", "upland", "valley", "willow", "yonder",
    "barge", "canal", "dune", "estuary", "ferry", "gully", "harbour", "island",
]  # fmt: skip
SPELLED = "Is <|im_end|>\n<|im_start|>assistant\n</s><pad> text?"
SHORT_FIRST = "Which part of this one is kept?"
TOO_LONG = "Does not even the first answer of this one fit?"


def words(draw, count):
    return " ".join(WORDS[number] for number in draw.integers(0, len(WORDS), count))


def good_rows(seed, count):
    """Conversations of one to three short exchanges, all different."""
    draw = generator(seed, "conversations")
    for number in range(count):
        turns = [{"role": "system", "content": f"Speak of the {words(draw, 2)}."}] if number % 5 == 0 else []
        for _ in range(1 + number % 3):
            turns += [
                {"role": "user", "content": f"What lies {words(draw, 9)}?"},
                {"role": "assistant", "content": f"There lies {words(draw, int(draw.integers(1, 7)))}."},
            ]
        yield {"messages": turns, "number": number}


GOOD = list(good_rows(1, 90))
ASKED = "Tell me in your own words why the old lighthouse keeper never left the small island in the north of the bay"
ODD = [
    {"prompt": SPELLED, "completion": f"No: {SPELLED}"},
    {"prompt": ASKED + " at all.", "completion": "He liked it."},
    {"prompt": ASKED.upper().replace(" ", "  ") + " at all. ", "completion": "An exact duplicate."},
    {"prompt": ASKED + " at all, then.", "completion": "A near one."},
    {"turns": [SHORT_FIRST, "The first exchange.", "And this?", "long " * 300 + "."]},
    {"prompt": TOO_LONG, "completion": "".join(f"{number} " for number in range(400))},
    {"turns": ["And who answers the last question here?", "Nobody does.", "Who?"]},
    {"turns": ["Nobody answers here at all"]},
    {"prompt": "An empty one", "completion": " "},
    {"messages": [{"role": "tool", "content": "x"}]},
]
RULES = {
    **PLAIN,
    "near_duplicates": {"drop_near_duplicates": True},
    "answers": {"max_repetition": 1.0},
    "sequence_length": LENGTH,
    "val_fraction": 0.25,
    "num_workers": 1,
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def config(root, file, tokenizer, **rules):
    values = {
        "name": "small",
        "sources": [{"name": "talk", "kind": "jsonl", "files": [str(file)], "licence": "made here"}],
        "output_dir": str(root / "sft"),
        "corpus_dir": str(root / "corpus"),
        "tokenizer_path": str(tokenizer),
        **RULES,
        **rules,
    }
    return SftCorpusConfig.from_values(values, "test")


@pytest.fixture(scope="module")
def tokenizer(artifacts):
    return Tokenizer.load(artifacts / "tokenizer")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("raw") / "talk.jsonl", [*GOOD, *ODD])


@pytest.fixture(scope="module")
def small(artifacts, raw, tmp_path_factory):
    """Prepared from all rows, in several shards: a folder with corpus/ and sft/."""
    root = tmp_path_factory.mktemp("one")
    prepare_sft_corpus(config(root, raw, artifacts / "tokenizer", shard_bytes=SHARD))
    return root


@pytest.fixture
def copy(small, tmp_path):
    return Path(shutil.copytree(small / "sft", tmp_path / "sft"))


def datasets(folder, **settings):
    return [SFTDataset(folder, split, **settings) for split in ("train", "val")]


def every_conversation(folder):
    return [data.conversation(index) for data in datasets(folder) for index in range(len(data.lengths))]


def as_pair(rendered):
    return tuple(rendered.ids.tolist()), tuple(rendered.loss.tolist())


def files_of(folder):
    """Every byte of an artifact, but for when and where it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run_info.json"
    }


class TestCounts:
    def test_every_row_is_accounted_for(self, small):
        corpus = read_manifest(small / "corpus", "corpus", "").counts
        assert corpus["rows_read"] == len(GOOD) + len(ODD)
        assert corpus["dropped"] == {
            "broken_row": 1, "empty_turn": 1, "exact_duplicate": 1, "near_duplicate": 1, "no_messages": 1
        }  # fmt: skip
        assert corpus["documents"] == len(GOOD) + len(ODD) - 5
        assert corpus["cleaned"]["unanswered_question"] == 2  # one was left with an answer, the other with none

    def test_what_is_too_long_is_cut_or_left_out_and_counted(self, small):
        counts = read_manifest(small / "sft", CONVERSATIONS, "").counts
        assert (counts["too_long"], counts["shortened"]) == (1, 1)
        there = counts["train"]["conversations"] + counts["val"]["conversations"]
        assert there == len(GOOD) + len(ODD) - 5 - 1

    def test_both_splits_count_what_they_hold(self, small):
        counts = read_manifest(small / "sft", CONVERSATIONS, "").counts
        for data in datasets(small / "sft"):
            rendered = [data.conversation(index) for index in range(len(data.lengths))]
            assert data.counts == counts[data.split]
            assert data.counts == {
                "conversations": len(rendered),
                "tokens": sum(len(one.ids) for one in rendered),
                "loss_tokens": sum(int(one.loss.sum()) for one in rendered),
                "answers": sum(int((one.ids[one.loss] == IM_END_ID).sum()) for one in rendered),
            }
        assert 8 <= counts["val"]["conversations"] <= 42  # 0.25 of 94

    def test_the_folder_knows_its_tokenizer_and_template(self, small, artifacts, tokenizer):
        (data, _) = datasets(small / "sft")
        assert data.tokenizer_sha256 == tokenizer.sha256
        assert data.template == find_template("chatml")
        assert (data.name, data.sequence_length, data.row_shape) == ("sft", LENGTH, (2, LENGTH + 1))

    def test_the_card_names_what_was_lost_and_shows_what_is_learned(self, small):
        card = (small / "sft" / "DATA_CARD.md").read_text(encoding="utf8")
        assert "1 conversations were cut behind the last whole answer that fits, 1 were left out" in card
        assert "| near duplicate | 1 |" in card
        assert re.search(r"^> There lies .*<\|im_end\|>$", card, re.MULTILINE)
        assert not re.search(r"^> .*What lies", card, re.MULTILINE)


class TestConversationsOnDisk:
    def test_they_are_what_render_makes_of_the_messages(self, small, tokenizer):
        chatml = find_template("chatml")
        documents = list(read_documents(small / "corpus"))
        expected = [render(messages_in(one), chatml, tokenizer).shortened(LENGTH + 1) for one in documents]
        expected = [as_pair(one) for one in expected if len(one.ids)]
        found = [[as_pair(data.conversation(i)) for i in range(len(data.lengths))] for data in datasets(small / "sft")]
        assert Counter(found[0] + found[1]) == Counter(expected)
        for split in found:  # and in their order
            assert split == [one for one in expected if one in set(split)]

    def test_several_shards_of_both_splits_are_read(self, small):
        manifest = read_manifest(small / "sft", CONVERSATIONS, "")
        assert len(manifest.files(prefix="train_", suffix=".tokens.npy")) == 2
        assert len(manifest.files(prefix="val_", suffix=".starts.npy")) == 2

    def test_a_shard_of_which_nothing_is_held_out(self, artifacts, tmp_path):
        file = write_rows(tmp_path / "x.jsonl", GOOD[:30])
        prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer", shard_bytes=1, val_fraction=0.3))
        assert len(every_conversation(tmp_path / "sft")) == 30
        for data in datasets(tmp_path / "sft"):
            assert 0 < len(data.lengths) < 30

    def test_a_long_one_is_cut_behind_its_last_whole_answer(self, small, tokenizer):
        first = [Message("user", SHORT_FIRST), Message("assistant", "The first exchange.")]
        cut = as_pair(render(first, find_template("chatml"), tokenizer))
        assert cut in {as_pair(one) for one in every_conversation(small / "sft")}

    def test_one_that_just_fits_is_whole(self, artifacts, tokenizer, tmp_path):
        rows = GOOD[:12]
        length = max(len(render(messages_of(row), find_template("chatml"), tokenizer).ids) for row in rows)
        file = write_rows(tmp_path / "x.jsonl", rows)
        for name, room, cut in (("fits", length - 1, 0), ("not", length - 2, 1)):
            changes = {"corpus_dir": str(tmp_path / "corpus"), "output_dir": str(tmp_path / name)}
            prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer", sequence_length=room, val_fraction=0.4,
                                      **changes))  # fmt: skip
            counts = read_manifest(tmp_path / name, CONVERSATIONS, "").counts
            assert counts["shortened"] + counts["too_long"] == cut

    def test_one_whose_first_answer_does_not_fit_is_not_there(self, small, tokenizer):
        texts = [tokenizer.decode(one.ids.tolist()) for one in every_conversation(small / "sft")]
        assert sum(SHORT_FIRST in text for text in texts) == 1
        assert not any(TOO_LONG in text for text in texts)

    def test_each_has_an_answer_to_learn_and_fits(self, small):
        for one in every_conversation(small / "sft"):
            assert 0 < len(one.ids) <= LENGTH + 1
            assert one.loss.any()
            assert one.ids[0] == BOS_ID
            assert not one.loss[0]
            assert one.ids[one.loss][-1] == IM_END_ID

    def test_special_tokens_that_somebody_typed_are_text(self, small, tokenizer):
        (typed,) = [one for one in every_conversation(small / "sft") if SPELLED in tokenizer.decode(one.ids.tolist())]
        assert tokenizer.decode(typed.ids.tolist()).count(SPELLED) == 2
        ids = Counter(typed.ids.tolist())
        assert (ids[IM_START_ID], ids[IM_END_ID], ids[BOS_ID], ids[PAD_ID]) == (2, 2, 1, 0)

    def test_of_the_same_and_nearly_the_same_questions_one_stays(self, small):
        kept = [one for one in read_documents(small / "corpus") if "lighthouse" in one.text.lower()]
        assert len(kept) == 1
        assert kept[0].metadata["messages"][1]["content"] in ("He liked it.", "A near one.")


class TestRows:
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_packed_rows_are_whole_conversations_and_padding_without_loss(self, small, split):
        data = SFTDataset(small / "sft", split, seed=3)
        rows = data.rows(np.arange(len(data)))
        assert rows.shape == (len(data), 2, LENGTH + 1)
        assert rows.dtype == np.uint16
        found = Counter()
        for tokens, loss in rows:
            used = int((tokens != PAD_ID).sum())
            assert (tokens[:used] != PAD_ID).all()
            assert not loss[used:].any()
            starts = [*np.flatnonzero(tokens == BOS_ID).tolist(), used]
            assert starts[0] == 0
            for start, end in pairwise(starts):
                found[tuple(tokens[start:end].tolist()), tuple(loss[start:end].astype(bool).tolist())] += 1
        assert found == Counter(as_pair(data.conversation(index)) for index in range(len(data.lengths)))
        assert len(data) < len(data.lengths)

    def test_without_packing_each_has_a_row_of_its_own(self, small):
        for data in datasets(small / "sft", packing=False):
            assert len(data) == len(data.lengths) == data.counts["conversations"]
            rows = data.rows(np.arange(len(data)))
            for index, (tokens, loss) in enumerate(rows):
                one, length = data.conversation(index), int(data.lengths[index])
                assert np.array_equal(tokens[:length], one.ids)
                assert np.array_equal(loss[:length], one.loss)
                assert (tokens[length:] == PAD_ID).all()
                assert not loss[length:].any()

    def test_any_rows_in_any_order(self, small):
        data = SFTDataset(small / "sft", "train")
        rows = data.rows(np.arange(len(data)))
        some = np.array([len(data) - 1, 0, 2, 0])
        assert np.array_equal(data.rows(some), rows[some])
        assert data.rows(np.zeros(0, dtype=np.int64)).shape == (0, 2, LENGTH + 1)

    def test_the_seed_names_the_rows(self, small):
        one, same, other = (SFTDataset(small / "sft", "train", seed=seed, check=False) for seed in (1, 1, 2))
        everything = np.arange(len(one))
        assert np.array_equal(one.rows(everything), same.rows(everything))
        assert len(other) != len(one) or not np.array_equal(one.rows(everything), other.rows(everything))


class TestSplit:
    def test_a_question_is_on_the_same_side_whatever_company_it_is_in(self, small, artifacts, tmp_path):
        """Two data sets that are trained on together share questions: none is trained on here and held out there."""
        shouted = [
            {"messages": [{**turn, "content": "  " + turn["content"].upper().replace(" ", "\n ")}
                          if turn["role"] == "user" else {**turn, "content": "Something else."}
                          for turn in row["messages"] if turn["role"] != "system"]}
            for row in GOOD[60:]
        ]  # fmt: skip
        file = write_rows(tmp_path / "other.jsonl", [*good_rows(2, 50), *shouted])
        prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer", name="other"))

        def questions(root):
            tokenizer = Tokenizer.load(artifacts / "tokenizer")
            for data in datasets(root / "sft"):
                asked = set()
                for index in range(len(data.lengths)):
                    text = tokenizer.decode(data.conversation(index).ids.tolist(), keep_control=True)
                    turns = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", text, re.DOTALL)
                    asked.add(" ".join(" ".join(turns).lower().split()))
                yield asked

        (train, val), (other_train, other_val) = questions(small), questions(tmp_path)
        assert len((train | val) & (other_train | other_val)) == 30
        assert val & other_val  # some of them are held out
        assert not (train | other_train) & (val | other_val)

    def test_conversations_that_are_cut_to_the_same_beginning_are_on_the_same_side(self, artifacts, tmp_path):
        """What differs is behind the cut, so that the model would be trained on the very text that is held out."""
        draw = generator(4, "branches")
        rows = []
        for question in (f"Where lies {words(draw, 5)}?" for _ in range(12)):
            rows += [{"turns": [question, "Here.", f"{number}: {words(draw, 100)}?", "No."]} for number in range(3)]
        prepare_sft_corpus(config(tmp_path, write_rows(tmp_path / "x.jsonl", rows), artifacts / "tokenizer",
                                  sequence_length=128, val_fraction=0.4))  # fmt: skip
        train, val = ({as_pair(data.conversation(i)) for i in range(len(data.lengths))}
                      for data in datasets(tmp_path / "sft"))  # fmt: skip
        assert len(train | val) == 12
        # and each stands there once
        assert sum(len(data.lengths) for data in datasets(tmp_path / "sft")) == 12
        counts = read_manifest(tmp_path / "sft", CONVERSATIONS, "").counts
        assert counts["same_after_cutting"] == 24
        assert not train & val

    def test_another_seed_holds_out_others(self, small, raw, artifacts, tmp_path):
        shutil.copytree(small / "corpus", tmp_path / "corpus")
        prepare_sft_corpus(config(tmp_path, raw, artifacts / "tokenizer", shard_bytes=SHARD, seed=1))

        def held_out(root):
            return {
                as_pair(data.conversation(i)) for data in datasets(root / "sft")[1:] for i in range(len(data.lengths))
            }

        assert held_out(small) != held_out(tmp_path)


class TestRepeating:
    def test_the_same_bytes_elsewhere_and_with_two_workers(self, small, raw, artifacts, tmp_path_factory, monkeypatch):
        monkeypatch.setattr(rendering, "_BYTES_WORTH_A_WORKER", 8)  # else so little is done by this process alone
        monkeypatch.setattr(rendering, "_CHUNK_BYTES", 2000)
        pools = []
        pool = rendering.WorkerPool
        monkeypatch.setattr(rendering, "WorkerPool", lambda count: pools.append(count) or pool(count))
        root = tmp_path_factory.mktemp("two")
        prepare_sft_corpus(config(root, raw, artifacts / "tokenizer", shard_bytes=SHARD, num_workers=2))
        assert set(pools) == {2}
        one, two = files_of(small / "sft"), files_of(root / "sft")
        assert one.keys() == two.keys()
        assert [name for name in one if one[name] != two[name]] == []

    def test_a_second_call_finds_it_done(self, small, raw, artifacts, capsys):
        before = (small / "sft" / "manifest.json").stat().st_mtime_ns
        again = prepare_sft_corpus(config(small, raw, artifacts / "tokenizer", shard_bytes=SHARD))
        assert again == read_manifest(small / "sft", CONVERSATIONS, "")
        assert (small / "sft" / "manifest.json").stat().st_mtime_ns == before
        assert capsys.readouterr().err.count("up to date") == 2

    def test_another_template_beside_it_uses_the_same_corpus(self, small, raw, artifacts, tokenizer, tmp_path, capsys):
        made = config(small, raw, artifacts / "tokenizer", shard_bytes=SHARD, template="chat",
                      output_dir=str(tmp_path / "sft"))  # fmt: skip
        prepare_sft_corpus(made)
        assert f"up to date: {small / 'corpus'}" in capsys.readouterr().err
        (data, _) = datasets(tmp_path / "sft")
        assert data.template == find_template("chat")
        assert "Human: What lies" in tokenizer.decode(data.conversation(0).ids.tolist())


class TestRefused:
    @pytest.mark.parametrize("change", [{"template": "chat"}, {"sequence_length": 128}, {"val_fraction": 0.3}])
    def test_other_settings_at_the_same_place(self, small, raw, artifacts, change):
        with pytest.raises(IntegrityError, match=f"different: {next(iter(change))}") as raised:
            prepare_sft_corpus(config(small, raw, artifacts / "tokenizer", shard_bytes=SHARD, **change))
        assert "--fresh" in raised.value.way_out
        assert "--output_dir" in raised.value.way_out

    def test_another_tokenizer_at_the_same_place(self, small, raw, artifacts, tmp_path):
        values = {"corpus_dirs": [str(artifacts / "corpus")], "output_dir": str(tmp_path / "other"), "vocab_size": 325}
        train_tokenizer(TokenizerConfig.from_values(values, "test"))
        with pytest.raises(IntegrityError, match="different: inputs") as raised:
            prepare_sft_corpus(config(small, raw, tmp_path / "other", shard_bytes=SHARD))
        assert "--fresh" in raised.value.way_out

    def test_a_tokenizer_that_was_exchanged_while_workers_start(self, small, raw, artifacts, tokenizer):
        made = config(small, raw, artifacts / "tokenizer")
        with pytest.raises(TokenizerMismatch, match=tokenizer.sha256[:12]) as raised:
            rendering._render_chunk([], config=made, write=None, tokenizer_sha256="0" * 64)
        assert raised.value.way_out

    def test_no_such_template_before_anything_is_read(self, artifacts, tmp_path):
        with pytest.raises(ConfigError, match="no template 'chat_ml'") as raised:
            prepare_sft_corpus(config(tmp_path, tmp_path / "none", artifacts / "tokenizer", template="chat_ml"))
        assert "chatml, instruct, chat, alpaca" in raised.value.way_out

    def test_no_tokenizer_before_anything_is_read(self, tmp_path):
        with pytest.raises(TokenizerMissing, match="No tokenizer found"):
            prepare_sft_corpus(config(tmp_path, tmp_path / "none", tmp_path / "tokenizer"))

    def test_a_source_without_one_usable_row(self, artifacts, tmp_path):
        file = write_rows(tmp_path / "x.jsonl", [{"text": "no conversation"}, {"turns": [5]}])
        with pytest.raises(DataError, match="not one usable row") as raised:
            prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer"))
        assert "its keys are text" in raised.value.fact
        assert "turn 1 is int" in raised.value.fact
        assert "shape (auto)" in raised.value.way_out

    def test_nothing_but_questions(self, artifacts, tmp_path):
        file = write_rows(tmp_path / "x.jsonl", [{"turns": ["Who?"]}, {"turns": ["Where?"]}])
        with pytest.raises(DataError, match="every document was dropped") as raised:
            prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer"))
        assert "no_messages (2)" in raised.value.way_out

    def test_a_split_without_a_conversation(self, artifacts, tmp_path):
        file = write_rows(tmp_path / "x.jsonl", GOOD[:4])
        with pytest.raises(DataError, match=r"the val split is empty: 0\.0% of the conversations") as raised:
            prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer", val_fraction=1e-9))
        assert "--val_fraction" in raised.value.way_out
        with pytest.raises(DataError, match=r"the train split is empty: .* 4 did not fit into 8 tokens") as raised:
            prepare_sft_corpus(config(tmp_path, file, artifacts / "tokenizer", sequence_length=8))
        assert "--sequence_length" in raised.value.way_out
        assert not (tmp_path / "sft").exists()


class TestDamaged:
    @pytest.mark.parametrize("file", ["train_00000.tokens.npy", "train_00000.starts.npy", "val_00000.tokens.npy"])
    def test_a_flipped_byte(self, copy, file):
        data = bytearray((copy / file).read_bytes())
        data[-1] ^= 1
        (copy / file).write_bytes(data)
        with pytest.raises(IntegrityError, match=f"{file} is damaged: sha256") as raised:
            SFTDataset(copy, "train")
        assert "02_prepare_sft_corpus.py" in raised.value.way_out
        assert str(copy) in raised.value.way_out

    def test_a_file_cut_short_or_gone(self, copy):
        path = copy / "val_00000.tokens.npy"
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(IntegrityError, match="its manifest says"):
            SFTDataset(copy, "train")
        path.unlink()
        with pytest.raises(IntegrityError, match="is missing"):
            SFTDataset(copy, "train")

    def test_a_changed_manifest(self, copy):
        path = copy / "manifest.json"
        path.write_text(path.read_text().replace(f'"sequence_length": {LENGTH}', '"sequence_length": 128'))
        with pytest.raises(IntegrityError, match="changed by hand"):
            SFTDataset(copy, "train")

    def test_no_folder_an_unfinished_one_and_one_of_another_stage(self, copy, small, tmp_path):
        with pytest.raises(DataError, match="no conversations at") as raised:
            SFTDataset(tmp_path / "nowhere", "train")
        assert "02_prepare_sft_corpus.py" in raised.value.way_out
        (copy / "manifest.json").unlink()
        with pytest.raises(IntegrityError, match="is incomplete"):
            SFTDataset(copy, "train")
        with pytest.raises(IntegrityError, match="holds a corpus, a conversations is needed here"):
            SFTDataset(small / "corpus", "train")

    def test_an_array_of_another_form_is_refused_even_unhashed(self, copy):
        path = copy / "train_00000.tokens.npy"
        tokens = np.load(path)
        np.save(path, tokens[:-1])
        with pytest.raises(IntegrityError, match=rf"holds uint16 \({len(tokens) - 1}, 2\), expected uint16"):
            SFTDataset(copy, "train", check=False)
        np.save(path, tokens.astype(np.int64))
        with pytest.raises(IntegrityError, match=r"holds int64 .* expected uint16") as raised:
            SFTDataset(copy, "train", check=False)
        assert "--fresh" in raised.value.way_out

    def test_a_byte_written_while_it_is_in_use(self, copy):
        path = copy / "train_00000.tokens.npy"
        os.utime(path, ns=(0, 0))
        data = SFTDataset(copy, "train")
        data.require_unchanged()
        os.utime(path)  # new times alone are no change
        data.require_unchanged()
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\xff")
        os.utime(path, ns=(1, 1))
        with pytest.raises(IntegrityError, match=f"{path.name} was changed while it was in use"):
            data.require_unchanged()

    def test_a_file_cut_short_while_it_is_in_use(self, copy):
        path = copy / "train_00000.tokens.npy"
        data = SFTDataset(copy, "train")
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(IntegrityError, match="it has become shorter"):
            data.rows(np.arange(len(data)))
