"""`lumi generate`: the text goes to standard output, streamed or whole."""

import pytest
from tests.training_runs import write_checkpoint

from lumi.errors import TokenizerMismatch
from lumi.inference import GenerateConfig, GenerationConfig, generate, run_generate
from lumi.model import ModelConfig, create_model, load_model
from lumi.model.pretrained import weights
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel

SETTINGS = GenerationConfig(temperature=1.0, max_new_tokens=10, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "final"
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=1, d_model=32, n_head=2, head_dim=16, sequence_length=32
    )
    write_checkpoint(folder, WholeModel(shape, tokenizer), weights(create_model(shape)), {})
    return folder


def test_one_prompt_is_streamed_several_are_answered_together(checkpoint, capsys):
    model, tokenizer = load_model(checkpoint), Tokenizer.load(checkpoint)
    whole = generate(model, tokenizer, ["The old", "Water"], SETTINGS)
    run_generate(GenerateConfig(model_path=checkpoint, prompt=("The old",), device="cpu", generation=SETTINGS))
    assert capsys.readouterr().out == f"The old{whole[0].text}\n"
    run_generate(GenerateConfig(model_path=checkpoint, prompt=("The old", "Water"), device="cpu", generation=SETTINGS))
    out = capsys.readouterr().out
    assert f"The old{whole[0].text}\n" in out
    assert f"Water{whole[1].text}\n" in out


def test_another_tokenizer_is_refused(checkpoint, tmp_path):
    other = bytearray((checkpoint / "tokenizer.model").read_bytes())
    place = other.index(b"<|reserved_9|>")
    other[place : place + 14] = b"<|reserved_X|>"
    (tmp_path / "other.model").write_bytes(other)
    with pytest.raises(TokenizerMismatch, match="Tokenizer mismatch"):
        run_generate(GenerateConfig(model_path=checkpoint, tokenizer_path=tmp_path / "other.model", device="cpu"))
