"""The tokenizer in use, beyond invariant 12."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumi.errors import DataError, IntegrityError, TokenizerMissing
from lumi.tokenizer import NUM_CONTROL, Tokenizer

TRICKY = st.sampled_from(
    [" ", "  ", "\n", "\n\n", "\t", "\r\n", ".\n", "<s>", "</s>", "<|im_end|>", "<0x0A>", "12", " fox", "aaaaaaaa"]
)  # fmt: skip
TEXT = st.lists(TRICKY | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")), max_size=6)


@pytest.fixture(scope="module")
def tokenizer(artifacts):
    return Tokenizer.load(artifacts / "tokenizer")


@given(TEXT.map("".join))
def test_both_encoders_and_transformers_agree_on_any_text(tokenizer, theirs, text):
    ids = tokenizer.encode(text)
    assert ids == tokenizer._plain.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert b"".join(map(tokenizer.piece_bytes, ids)) == text.encode()


@pytest.fixture(scope="module")
def theirs(artifacts):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(artifacts / "tokenizer")


def test_a_batch_is_its_texts(tokenizer):
    texts = [f"text {number} " * (number % 5) for number in range(30)]
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert {ids.dtype for ids in batch} == {np.dtype(np.uint16)}
    assert tokenizer.encode_batch([]) == []


def test_an_answer_cut_inside_a_character(tokenizer):
    ids = tokenizer.encode("\U0001f600")
    assert len(ids) == 4  # spelled in bytes
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert all(tokenizer.is_byte(token) for token in ids)


def test_where_it_loads_from(artifacts, trained, tokenizer, tmp_path):
    lone = shutil.copy(artifacts / "tokenizer" / "spm32k.model", tmp_path / "mine.model")
    for place in (artifacts / "tokenizer" / "spm32k.model", trained, trained / "tokenizer.model", Path(lone)):
        assert Tokenizer.load(place).sha256 == tokenizer.sha256
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "none", tmp_path / "none.model"):
        with pytest.raises(TokenizerMissing, match="No tokenizer found"):
            Tokenizer.load(place)
    (tmp_path / "text.model").write_text("this is no model")
    with pytest.raises(DataError, match="is not a SentencePiece model"):
        Tokenizer.load(tmp_path / "text.model")


@pytest.mark.parametrize("file", ["spm32k.model", "tokenizer.json", "tokenizer_config.json", "TOKENIZER_CARD.md"])
def test_a_flipped_byte_is_refused_and_named(artifacts, tmp_path, file):
    shutil.copytree(artifacts / "tokenizer", tmp_path / "tokenizer")
    flip(tmp_path / "tokenizer" / file)
    with pytest.raises(IntegrityError, match=file) as caught:
        Tokenizer.load(tmp_path / "tokenizer")
    assert "restore" in caught.value.way_out


def test_a_flipped_byte_in_the_copy_of_a_checkpoint_is_refused_and_named(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "final")
    flip(tmp_path / "final" / "tokenizer.model")
    with pytest.raises(IntegrityError, match=r"tokenizer\.model is damaged"):
        Tokenizer.load(tmp_path / "final")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_lone_model_exports_the_same_files(artifacts, tmp_path):
    tokenizer = Tokenizer.load(Path(shutil.copy(artifacts / "tokenizer" / "spm32k.model", tmp_path / "mine.model")))
    (tmp_path / "copy").mkdir()
    (tmp_path / "straight").mkdir()
    names = tokenizer.export(tmp_path / "copy")
    assert Tokenizer.load(artifacts / "tokenizer").export(tmp_path / "straight") == names
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_fast_encoder_that_disagrees_is_not_used(artifacts, tokenizer, monkeypatch, capsys):
    import kitoken

    class Other:
        @staticmethod
        def from_sentencepiece(_):
            return Other()

        def encode(self, text, _specials):
            return [NUM_CONTROL] * len(text)

    monkeypatch.setattr(kitoken, "Kitoken", Other)
    slow = Tokenizer.load(artifacts / "tokenizer")
    assert "using SentencePiece" in capsys.readouterr().err
    assert slow.encode("The fox walked.\n") == tokenizer.encode("The fox walked.\n")
    assert [ids.tolist() for ids in slow.encode_batch(["a", "fox"])] == [tokenizer.encode("a"), tokenizer.encode("fox")]


def test_a_tokenizer_of_others_is_refused(tmp_path):
    import io

    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    texts = iter(["the quick brown fox jumps over the lazy dog"] * 50)
    SentencePieceTrainer.train(sentence_iterator=texts, model_writer=model, vocab_size=60, minloglevel=2,
                               hard_vocab_limit=False)  # fmt: skip
    (tmp_path / "other.model").write_bytes(model.getvalue())
    with pytest.raises(DataError, match=r"not made by Lumi: its first ids are not <s>, </s>, <pad>"):
        Tokenizer.load(tmp_path / "other.model")
