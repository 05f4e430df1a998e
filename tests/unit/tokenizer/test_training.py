"""Training the tokenizer: what it learns from, and what it refuses."""

import json

import pytest
import zstandard

from lumi.artifacts import Workspace
from lumi.config import Config
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from lumi.tokenizer.training import _parts, _sample

PROSE = "The old mill by the river was quiet. Nobody came there any more, and the water ran on."
CODE = "def area(width, height):\n    if width < 0:\n        return 0\n\n    return width * height\n\n\n"


def make_corpus(folder, texts):
    with Workspace(folder, "corpus", Config(), [], fresh=True) as work:
        work.open()
        lines = [{"id": str(n), "text": text, "source": "test", "metadata": {}} for n, text in enumerate(texts)]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (work.path / "shard_00000.jsonl.zst").write_bytes(zstandard.compress(data))
        work.record("shard_00000.jsonl.zst", rows=len(texts))
        size = sum(len(text.encode()) for text in texts)
        work.publish(counts={"documents": len(texts), "bytes": size}, versions={})
    return folder


def make_config(corpora, output_dir, **changes):
    values = {"corpus_dirs": [str(path) for path in corpora], "output_dir": str(output_dir), "vocab_size": 400}
    return TokenizerConfig.from_values(values | changes, "test")


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus", [f"{PROSE} {n}\n\n{CODE}" for n in range(50)])


def test_newlines_and_indentation_become_pieces_as_they_occur(corpus, tmp_path):
    train_tokenizer(make_config([corpus], tmp_path / "tokenizer"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    pieces = [tokenizer.piece_bytes(token).decode() for token in tokenizer.encode(CODE)]
    assert ":\n" in pieces
    assert "        " in pieces
    assert len(tokenizer.encode("\n\n")) == 1


def test_text_without_a_newline_still_gives_one_its_piece(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [f"{PROSE} {n}" for n in range(50)])
    train_tokenizer(make_config([corpus], tmp_path / "tokenizer", vocab_size=360))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    (newline,) = tokenizer.encode("\n")
    assert not tokenizer.is_byte(newline)


def test_spelled_control_symbols_in_the_text_are_just_text(tmp_path):
    """Text full of them (strikethrough tags, WikiText's <unk>) must neither fail nor make a second piece of them."""
    texts = [f"{PROSE} <s>{n}</s> <unk> <|im_start|>user\nhi<|im_end|> <0x0A>" for n in range(200)]
    train_tokenizer(make_config([make_corpus(tmp_path / "corpus", texts)], tmp_path / "tokenizer"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    for text in texts[:3]:
        assert min(tokenizer.encode(text)) >= 16
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_part_of_a_long_document_is_left_out(tmp_path):
    """SentencePiece drops sentences over its limit, and those with its own mark U+2585, without a word."""
    long = "\u00e9" * 100_000 + ("word " * 60_000) + "\u2585" + "\u4e2d" * 200_000
    assert "".join(_parts([long])) == long.replace("\u2585", "")
    assert max(len(part.encode()) for part in _parts([long])) <= 4 << 16
    corpus = make_corpus(tmp_path / "corpus", [long, *(f"{PROSE} {n}" for n in range(50))])
    train_tokenizer(make_config([corpus], tmp_path / "tokenizer", vocab_size=330, character_coverage=1.0))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    for character in "\u00e9\u4e2d":
        assert len(tokenizer.encode(character)) == 1


def test_no_piece_goes_on_behind_a_newline(tmp_path):
    texts = [f'"Who?"\n"I," he said.\n\n"And {n}"\n* one\n* two \ufdd0' for n in range(300)]
    train_tokenizer(make_config([make_corpus(tmp_path / "corpus", texts)], tmp_path / "tokenizer", vocab_size=330,
                                character_coverage=1.0))  # fmt: skip
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    pieces = [tokenizer.piece_bytes(token) for token in range(tokenizer.vocab_size)]
    assert [piece for piece in pieces if piece.endswith(b".\n\n")]  # those that end with newlines are there
    assert not [piece for piece in pieces if b"\n" in piece.rstrip(b"\n")]
    assert "\ufdd0".encode() not in pieces


def test_the_sample_keeps_to_budget_and_weights(tmp_path):
    first = make_corpus(tmp_path / "first", [f"first {n:04d}" for n in range(3000)])
    second = make_corpus(tmp_path / "second", [f"second {n:03d}" for n in range(1000)])

    def drawn(**changes):
        texts = list(_sample(make_config([first, second], tmp_path / "none", **changes)))
        return [10 * sum(text.startswith(name) for text in texts) for name in ("first", "second")]

    assert drawn() == [30_000, 10_000]
    assert drawn(max_bytes=8000) == pytest.approx([6000, 2000], rel=0.15)
    assert drawn(max_bytes=8000, corpus_weights=[1, 3]) == pytest.approx([2000, 6000], rel=0.15)
    assert drawn(corpus_weights=[1, 1]) == [pytest.approx(10_000, rel=0.15), 10_000]  # the smaller one sets the end
    assert drawn(max_bytes=8000) == drawn(max_bytes=8000)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], []])
def test_weights_need_one_positive_number_per_corpus(tmp_path, weights):
    with pytest.raises(ConfigError, match="one number above zero per corpus"):
        make_config([tmp_path / "a", tmp_path / "b"], tmp_path / "none", corpus_weights=weights)


def test_the_largest_vocabulary_that_the_error_names_can_be_trained(corpus, tmp_path):
    with pytest.raises(ConfigError, match="larger than the text supports; it supports") as caught:
        train_tokenizer(make_config([corpus], tmp_path / "tokenizer", vocab_size=20_000))
    largest = int(caught.value.fact.rsplit(" ", 1)[1])
    train_tokenizer(make_config([corpus], tmp_path / "tokenizer", vocab_size=largest))
    assert Tokenizer.load(tmp_path / "tokenizer").vocab_size == largest


def test_a_vocabulary_too_small_for_the_characters(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", ["".join(chr(0x4E00 + n) for n in range(500))])
    with pytest.raises(ConfigError, match="does not hold the bytes and characters") as caught:
        train_tokenizer(make_config([corpus], tmp_path / "tokenizer"))
    assert "--vocab_size 773" in caught.value.way_out  # 500 characters, newline, 256 bytes, 16 symbols


def test_again_is_up_to_date_and_other_text_is_refused(corpus, tmp_path, capsys):
    first = train_tokenizer(make_config([corpus], tmp_path / "tokenizer"))
    assert train_tokenizer(make_config([corpus], tmp_path / "tokenizer")) == first
    assert "up to date" in capsys.readouterr().err
    other = make_corpus(tmp_path / "other", [PROSE])
    with pytest.raises(IntegrityError, match=r"the tokenizer is frozen.*inputs") as caught:
        train_tokenizer(make_config([other], tmp_path / "tokenizer"))
    assert "make tokenizer-reset" in caught.value.way_out


def test_there_must_be_text(tmp_path):
    with pytest.raises(DataError, match="no text to learn"):
        train_tokenizer(make_config([make_corpus(tmp_path / "empty", [])], tmp_path / "tokenizer"))
    with pytest.raises(DataError, match="no finished corpus"):
        train_tokenizer(make_config([tmp_path / "nowhere"], tmp_path / "tokenizer"))


def test_the_report_measures_what_it_says(corpus, tmp_path):
    manifest = train_tokenizer(make_config([corpus], tmp_path / "tokenizer"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    texts = [f"{PROSE} {n}\n\n{CODE}" for n in range(50)]  # all of it: less than the sample may be
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    counts = manifest.counts
    assert counts["sha256"] == tokenizer.sha256
    assert counts["fertility"] == pytest.approx(tokens / sum(len(text.split()) for text in texts), abs=1e-4)
    assert counts["bytes_per_token_prose"] == pytest.approx(sum(map(len, texts)) / tokens, abs=1e-4)
    assert (counts["coverage"], counts["unknown_rate"], counts["round_trip_rate"]) == (1.0, 0.0, 1.0)
    assert json.loads((tmp_path / "tokenizer" / "report.json").read_text())["fertility"] == counts["fertility"]


def test_coverage_counts_characters_spelled_in_bytes(tmp_path):
    text = 3 * PROSE + "\u4e2d"
    corpus = make_corpus(tmp_path / "corpus", [text])
    manifest = train_tokenizer(make_config([corpus], tmp_path / "tokenizer", vocab_size=300, character_coverage=0.98))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    spelled = sum(tokenizer.is_byte(tokenizer.encode(character)[0]) for character in text)
    assert 1 < spelled < 12
    assert manifest.counts["coverage"] == pytest.approx(1 - spelled / len(text), abs=1e-6)
