"""Stage 1 of DPO: what becomes of each pair, and what the rows hold."""

import pytest
from tests.dpo_runs import make_preferences, rows

from lumi.artifacts import read_manifest
from lumi.errors import IntegrityError
from lumi.posttraining import PreferenceDataset
from lumi.tokenizer import Tokenizer


def pair(asked, chosen, rejected):
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def test_each_reject_is_counted_by_its_reason(artifacts, tmp_path):
    made = [
        *rows(),
        pair("Who is it?", "It is the fox.", "It is the dog."),
        pair("Who is it?", "It is the dog.", "It is the fox."),  # the same pair, swapped
        pair("Who was it?", "The owl.", "The owl."),
        pair("Who came?", "The hen.", " "),
        {"chosen": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}],
         "rejected": [{"role": "user", "content": "C?"}, {"role": "assistant", "content": "D."}]},
        pair("Say much.", "The bee hums. " * 3, " ".join(f"{n} bees" for n in range(200))),
    ]  # fmt: skip
    out = make_preferences(tmp_path, artifacts / "tokenizer", made=made)
    dropped = read_manifest(tmp_path / "pairs-corpus", "corpus", "").counts["dropped"]
    assert {name: dropped[name] for name in ("identical_sides", "empty_side", "prompts_differ")} == {
        "identical_sides": 1, "empty_side": 1, "prompts_differ": 1,
    }  # fmt: skip
    assert sum(count for name, count in dropped.items() if "duplicate" in name) == 1
    counts = read_manifest(out, "preferences", "").counts
    assert counts["too_long"] == 1
    assert counts["train"]["pairs"] + counts["val"]["pairs"] == len(rows()) + 1
    assert (out / "DATA_CARD.md").is_file()


def test_the_last_answers_alone_bear_loss_and_no_prompt_is_in_both_splits(artifacts, tmp_path):
    out = make_preferences(tmp_path, artifacts / "tokenizer")
    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    prompts = {}
    for split in ("train", "val"):
        dataset = PreferenceDataset(out, split)
        prompts[split] = set()
        for number in range(len(dataset.lengths)):
            chosen, rejected = (dataset.files[2 * number + side] for side in range(2))
            learned = [tokenizer.decode(side.ids[side.loss].tolist()) for side in (chosen, rejected)]
            assert "please." in learned[0]
            assert "yourself." in learned[1]
            assert all("Hello" not in text and "Where" not in text for text in learned)
            assert int(chosen.loss.argmax()) == int(rejected.loss.argmax()), "they share their prompt"
            prompts[split].add(chosen.ids[: int(chosen.loss.argmax())].tobytes())
    assert prompts["train"]
    assert prompts["val"]
    assert not prompts["train"] & prompts["val"]


def test_the_same_bytes_with_two_workers(artifacts, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = make_preferences(tmp_path / "one", artifacts / "tokenizer")
    two = make_preferences(tmp_path / "two", artifacts / "tokenizer", num_workers=2)
    files = sorted(path.name for path in one.glob("*_0*"))
    assert files
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_a_flipped_byte_is_refused(artifacts, tmp_path):
    out = make_preferences(tmp_path, artifacts / "tokenizer")
    name = min(path.name for path in out.glob("train_*"))
    data = bytearray((out / name).read_bytes())
    data[-1] ^= 1
    (out / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        PreferenceDataset(out, "train")
