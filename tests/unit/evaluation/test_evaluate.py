"""The evaluation stage through its public function: figures, files, up to date, mismatches."""

import json
import math
import shutil

import pytest
from tests.training_runs import write_checkpoint

from lumi.errors import ConfigError, DataError, IntegrityError, TokenizerMismatch
from lumi.evaluation import EvaluateConfig, evaluate
from lumi.evaluation.evaluate import results_name
from lumi.evaluation.results import Figure, TaskResult, read_parts, verdict
from lumi.evaluation.significance import accuracy_error, ratio_error
from lumi.model import create_model, read_model_config
from lumi.model.pretrained import weights as model_weights
from lumi.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from lumi.training import WholeModel


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


def test_figures_are_made_of_their_outcomes(config):
    found = evaluate(config)
    parts = read_parts(results_of(config))
    for measured in (*found.held_out, *found.text):
        part = next(one for one in parts.values() if measured in (one.held_out, one.text))
        values, weights = part.outcomes.values, part.outcomes.weights
        assert sum(values) / sum(weights) == pytest.approx(measured.bits_per_byte)
        assert sum(weights) == pytest.approx(measured.bytes)
        assert measured.standard_error == pytest.approx(ratio_error(values, weights))
        assert part.model_sha256 == found.model.sha256


def test_another_type_to_compute_in_is_measured_anew(config):
    one, other = evaluate(config), evaluate(changed(config, dtype="bf16"))
    assert one.held_out[0].nats != other.held_out[0].nats
    assert evaluate(changed(config, dtype="auto")).held_out == one.held_out  # fp32 on a CPU


def test_another_model_of_the_same_name_is_measured_anew(config, made, tmp_path):
    folder = tmp_path / made.final.parts[-3] / made.final.parts[-2] / made.final.parts[-1]
    shape = read_model_config(made.final)
    files = WholeModel(shape, Tokenizer.load(made.tokenizer))
    run = json.loads((made.final / "run.json").read_text())
    write_checkpoint(folder, files, model_weights(create_model(shape, seed=9)), run)
    first = evaluate(config)
    other = evaluate(changed(config, model_path=folder))
    assert results_of(config) == results_of(changed(config, model_path=folder))
    assert other.held_out[0].nats != first.held_out[0].nats
    assert other.model.sha256 != first.model.sha256


def test_what_was_measured_earlier_stays(config):
    both = evaluate(config)
    text = changed(config, data_dirs=())
    assert evaluate(text).held_out == both.held_out  # not asked for this time
    assert evaluate(changed(text, fresh=True)).held_out == both.held_out
    shorter = evaluate(changed(text, max_tokens=40))
    assert [one.tokens for one in shorter.text] == [40]  # in the place of the whole
    assert shorter.held_out == both.held_out


def test_texts_of_one_name_are_two(config, tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "\u65e5\u672c.txt")
        paths[-1].write_text(f"the history of {name} small old town " * 3)
    evaluate(changed(config, data_dirs=(), text_files=tuple(paths)))
    kept = [part for part in read_parts(results_of(config)).values() if part.text]
    assert len(list((results_of(config) / "parts").glob("text-*"))) == 2
    assert len(kept) == 2


def test_only_a_whole_evaluation_goes_into_the_card(config, made, tmp_path):
    model = tmp_path / "final"
    shutil.copytree(made.final, model, ignore=shutil.ignore_patterns("README.md"))
    evaluate(changed(config, model_path=model, max_tokens=40))
    assert not (model / "README.md").exists()
    whole = evaluate(changed(config, model_path=model))
    assert f"{whole.held_out[0].bits_per_byte:.4f}" in (model / "README.md").read_text()
    (model / "README.md").unlink()
    (model / "README.md").mkdir()  # cannot be written
    assert evaluate(changed(config, model_path=model, fresh=True)).held_out == whole.held_out


def test_a_verdict_asks_for_more_than_luck():
    def task(right, rows, chance=0.5):
        figure = Figure(value=right / rows, standard_error=accuracy_error([1.0] * right + [0.0] * (rows - right)))
        return TaskResult(
            task="t", title="T", protocol="p", rows=rows, rows_of_the_whole_set=rows, metric="acc",
            accuracies={"acc": figure}, chance=chance, majority=None,
        )  # fmt: skip

    assert verdict(task(2, 2)) == "not told from chance"
    assert verdict(task(60, 100)) == "not told from chance"
    assert verdict(task(61, 100)) == "better than chance"
    assert verdict(task(39, 100)) == "worse than chance"
    assert verdict(task(7, 100, chance=0.0)) == "better than chance"
