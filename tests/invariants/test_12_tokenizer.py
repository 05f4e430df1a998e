"""Invariant 12: round trip on any text, transformers' ids, control symbols never out of text, same bytes twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.errors import ConfigError, IntegrityError, TokenizerMismatch, TokenizerMissing
from lumi.tokenizer import NUM_CONTROL, Tokenizer, TokenizerConfig, require_same_tokenizer, train_tokenizer
from lumi.tokenizer.ids import CONTROL_SYMBOLS

HOSTILE = [
    *(
        "",
        " ",
        "  two",
        " lead",
        "trail ",
        "\t\ttabs",
        "\n",
        "\n\n\n",
        "a\r\nb",
        "\x00\x01",
        "    indent\n        more",
    ),
    *("<s>", "</s>", "<|im_start|>user\nhi<|im_end|>", "<pad><unk><|reserved_3|>", "<0x0A>", "1234567890", "x" * 300),
    *(
        "\U0001f600 \U0001f468\u200d\U0001f469",
        "\u4e2d\u6587\u3000\u65e5",
        "e\u0301 \u00e9",
        "\u0645\u0631\u062d\u0628\u0627",
    ),
    *("\ufeff", "\u00a0\u2003", "\ufffd", "\u2028", "The fox walked slowly."),
]


@pytest.fixture(scope="module")
def tokenizer(artifacts):
    return Tokenizer.load(artifacts / "tokenizer")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
def test_round_trip_of_any_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(token >= NUM_CONTROL for token in ids)


@given(st.lists(st.sampled_from([*HOSTILE, *CONTROL_SYMBOLS]), max_size=5).map("".join))
def test_control_symbols_never_come_out_of_text(tokenizer, text):
    assert all(token >= NUM_CONTROL for token in tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fast_and_plain_encoders_agree(tokenizer):
    for text in HOSTILE:
        assert list(tokenizer._fast.encode(text, False)) == tokenizer._plain.encode(text)
    assert [ids.tolist() for ids in tokenizer.encode_batch(HOSTILE)] == [tokenizer.encode(text) for text in HOSTILE]


def test_control_ids_decode_to_nothing_or_their_spelling(tokenizer):
    ids = [1, *tokenizer.encode("hi"), 2]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, keep_control=True) == "<s>hi</s>"


def test_a_newline_is_a_piece(tokenizer):
    (newline,) = tokenizer.encode("\n")
    assert not tokenizer.is_byte(newline)


@pytest.mark.parametrize("folder", ["tokenizer folder", "checkpoint"])
def test_transformers_gives_the_same_ids(artifacts, trained, tokenizer, folder):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(artifacts / "tokenizer" if folder == "tokenizer folder" else trained)
    for text in HOSTILE:
        found = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert found == tokenizer.encode(text), repr(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 2, 3, 0)


@pytest.mark.parametrize("text", ["a" * 1_000_000, " " * 1_000_000, "\n" * 100_000], ids=["a", "blank", "newline"])
def test_a_megabyte_of_one_character(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def train(artifacts, output_dir, **changes):
    values = {"corpus_dirs": [str(artifacts / "corpus")], "output_dir": str(output_dir), "vocab_size": 320}
    return train_tokenizer(TokenizerConfig.from_values(values | changes, "test"))


def test_training_twice_gives_the_same_bytes(artifacts, tmp_path):
    train(artifacts, tmp_path / "again")
    for file in (artifacts / "tokenizer").iterdir():
        if file.name not in ("run_info.json", "manifest.json"):
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_it_is_frozen(artifacts):
    before = (artifacts / "tokenizer" / "spm32k.model").read_bytes()
    with pytest.raises(IntegrityError, match="the tokenizer is frozen") as caught:
        train(artifacts, artifacts / "tokenizer", vocab_size=330)
    assert "make tokenizer-reset" in caught.value.way_out
    assert (artifacts / "tokenizer" / "spm32k.model").read_bytes() == before


def test_a_vocabulary_larger_than_the_text_supports(artifacts, tmp_path):
    with pytest.raises(ConfigError, match="larger than the text supports"):
        train(artifacts, tmp_path / "big", vocab_size=60_000)


def test_the_card_and_report_say_what_it_is(artifacts, tokenizer):
    card = (artifacts / "tokenizer" / "TOKENIZER_CARD.md").read_text()
    assert tokenizer.sha256 in card
    assert "| unknown tokens | 0.0000% |" in card
    assert "| texts that come back exactly | 100.0000% |" in card


def test_no_tokenizer_and_the_wrong_one(tmp_path):
    with pytest.raises(TokenizerMissing, match="No tokenizer found") as caught:
        Tokenizer.load(tmp_path / "spm32k.model")
    assert "make tokenizer-train-mix" in str(caught.value)
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch between datasets") as wrong:
        require_same_tokenizer("a" * 64, "b" * 64, "data/processed/x")
    assert "make reencode-dataset DIR=data/processed/x" in str(wrong.value)
