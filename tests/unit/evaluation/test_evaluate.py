"""The evaluation stage through its public function: figures, files, up to date, mismatches."""

import json
import math
import shutil

import pytest

from lumi.errors import ConfigError, DataError, IntegrityError, TokenizerMismatch
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.evaluation.evaluate import results_name
from lumi.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture
def config(made, tmp_path):
    return EvaluateConfig(
        model_path=made.final,
        data_dirs=(made.packed,),
        text_files=(made.raw,),
        output_dir=tmp_path / "out",
        text_modes=("stream",),
        tasks=(),
        prompts=None,
        device="cpu",
    )


def results_of(config):
    return config.output_dir / results_name(config.model_path)


def changed(config, **changes):
    return config.model_copy(update=changes)


def test_what_is_measured_and_written(config, packed_dataset, tokenizer, made, capsys):
    found = evaluate(config)
    (held_out,), (text,) = found.held_out, found.text
    assert held_out.bytes == packed_dataset.counts["text_bytes"]
    assert held_out.tokens == packed_dataset.counts["tokens"] - packed_dataset.counts["documents"]  # <s> is not scored
    assert held_out.bits_per_byte == pytest.approx(held_out.nats / math.log(2) / held_out.bytes)
    assert held_out.token_perplexity == pytest.approx(math.exp(held_out.nats / held_out.tokens))
    written = "\n\n".join(json.loads(line)["text"] for line in made.raw.read_text(encoding="utf8").splitlines())
    assert (text.bytes, text.words) == (len(written.encode()), len(written.split()))
    assert text.tokens == len(tokenizer.encode(written))
    assert (text.window, text.stride) == (32, 16)
    assert [row.name for row in found.compression] == ["this model", "xz -9", "token trigram"]
    assert found.compression[2].bits_per_byte < 8
    on_disk = json.loads((results_of(config) / "results.json").read_text())
    assert on_disk["held_out"][0]["nats"] == held_out.nats
    assert "at least 16 tokens before it" in (results_of(config) / "results.md").read_text()
    assert "bits per byte" in capsys.readouterr().out


def test_the_batch_does_not_change_the_figures(config):
    one, other = evaluate(config), evaluate(changed(config, batch_size=3, fresh=True))
    assert one.held_out[0].nats == pytest.approx(other.held_out[0].nats, rel=1e-9)
    assert one.text[0].nats == pytest.approx(other.text[0].nats, rel=1e-9)


def test_twice_is_up_to_date_and_other_settings_are_measured_anew(config, capsys):
    first = evaluate(config)
    before = (results_of(config) / "results.json").read_bytes()
    assert evaluate(config) == first
    assert "up to date" in capsys.readouterr().err
    assert evaluate(changed(config, fresh=True)) == first
    assert (results_of(config) / "results.json").read_bytes() == before
    assert evaluate(changed(config, stride=8)).text[0].stride == 8


def test_without_data_the_training_data_are_taken(config):
    found = evaluate(changed(config, data_dirs=(), text_files=(), baselines=False))
    assert [m.name for m in found.held_out] == ["packed"]
    assert [row.name for row in found.compression] == ["this model"]


def test_max_tokens_is_stated(config):
    found = evaluate(changed(config, max_tokens=40))
    assert found.text[0].tokens == 40
    assert "the first 40 tokens of the text" in found.text[0].protocol
    assert found.held_out[0].protocol.startswith("the first 1 of all held-out rows")


def test_another_tokenizer_is_refused(config, made, tmp_path):
    train_tokenizer(
        TokenizerConfig(corpus_dirs=(made.root / "corpus",), output_dir=tmp_path / "tokenizer", vocab_size=350)
    )
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch"):
        evaluate(changed(config, tokenizer_path=tmp_path / "tokenizer"))
    assert evaluate(changed(config, tokenizer_path=made.tokenizer)).held_out


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"window": 33}, ConfigError, "longer than the model's context of 32"),
        ({"stride": 33}, ConfigError, "stride 33 is longer than the window of 32"),
        ({"data_dirs": ("nowhere",)}, DataError, "no packed data at nowhere"),
        ({"text_files": ("nowhere.txt",)}, DataError, "nowhere.txt does not exist"),
        ({"model_path": "nowhere"}, DataError, "no model at nowhere"),
    ],
)
def test_bad_input_is_named(config, changes, error, message):
    values = {**config.resolved(), **{k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()}}
    with pytest.raises(error, match=message):
        evaluate(EvaluateConfig.from_values(values, where="test"))


def test_a_damaged_checkpoint_is_refused(config, made, tmp_path):
    damaged = tmp_path / "final"
    shutil.copytree(made.final, damaged)
    weights = bytearray((damaged / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(weights)
    with pytest.raises(IntegrityError, match=r"model\.safetensors is damaged"):
        evaluate(changed(config, model_path=damaged))
