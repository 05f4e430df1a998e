"""What `lumi export` refuses, and that it leaves nothing half-written."""

import shutil

import pytest
from tests.exports import make_adapter, make_model

from lumi.cli import main
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.export import ExportConfig, export
from lumi.export import gguf_file as writing
from lumi.model.lora import LoraConfig


@pytest.fixture(scope="module")
def checkpoint(artifacts, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("run") / "final", artifacts / "tokenizer")


def run(model_path, output_dir, **values):
    return export(ExportConfig(**{"model_path": model_path, "output_dir": output_dir, "format": "gguf", **values}))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FORMATS = pytest.mark.parametrize("format_", ["hf", "gguf"])


@FORMATS
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.model", "config.json"])
def test_a_flipped_bit(file, format_, checkpoint, tmp_path):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    flip_a_bit(damaged / file)
    with pytest.raises(IntegrityError, match=rf"{file} is damaged"):
        run(damaged, tmp_path / "out", format=format_)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@FORMATS
def test_missing_partial_and_foreign_checkpoints(format_, checkpoint, artifacts, tmp_path):
    partial = shutil.copytree(checkpoint, tmp_path / "step_5.partial")
    (partial / "manifest.json").unlink()  # a model of others has none either
    with pytest.raises(IntegrityError, match=r"no manifest(.|\n)*models of others"):
        run(partial, tmp_path / "out", format=format_)
    with pytest.raises(IntegrityError, match="does not exist"):
        run(tmp_path / "no", tmp_path / "out", format=format_)
    with pytest.raises(IntegrityError, match="a checkpoint is needed"):
        run(artifacts / "corpus", tmp_path / "out", format=format_)
    assert [path.name for path in tmp_path.iterdir()] == ["step_5.partial"]


@FORMATS
def test_adapters_and_models_are_told_apart(format_, checkpoint, tmp_path):
    step = make_adapter(tmp_path / "step_1", checkpoint, LoraConfig(r=4))
    with pytest.raises(DataError, match="--adapter"):
        run(step, tmp_path / "out", format=format_)
    with pytest.raises(ConfigError, match="holds no adapter"):
        run(checkpoint, tmp_path / "out", format=format_, adapter=True)


def test_the_folder_must_be_free(checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    for path in (tmp_path / "full", tmp_path / "full" / "mine"):
        with pytest.raises(ConfigError, match="would be lost"):
            run(checkpoint, path)
    assert (tmp_path / "full" / "mine").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    assert sorted(path.name for path in run(checkpoint, tmp_path / "empty").iterdir()) == [
        "Modelfile",
        "model-f16.gguf",
    ]


@pytest.mark.parametrize(
    ("format_", "dtype", "adapter"),
    [
        ("hf", "q8_0", False),
        ("hf", "f16", False),
        ("gguf", "bf16", False),
        ("gguf", "int3", False),
        ("gguf", "q8_0", True),
    ],
)
def test_types_that_the_format_has_not(format_, dtype, adapter):
    values = {"model_path": "x", "output_dir": "y", "format": format_, "dtype": dtype, "adapter": adapter}
    with pytest.raises(ConfigError, match="dtype"):
        ExportConfig.from_values(values, "test")


def test_what_is_cut_off_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gguf.GGUFWriter.write_tensor_data", full)
        with pytest.raises(OSError, match="No space"):
            run(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "model-q8_0.gguf").write_text("of an export that was killed")
    assert sorted(path.name for path in run(checkpoint, tmp_path / "out").iterdir()) == ["Modelfile", "model-f16.gguf"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_gguf(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"lumi-lab\[export\]"):
        run(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("format_", "programs"), [("hf", ("vllm serve", "sglang")), ("gguf", ("llama-cli -m", "ollama"))]
)
def test_the_command_says_how_to_run_it(format_, programs, checkpoint, tmp_path, capsys):
    out = tmp_path / "a {folder}"
    with pytest.raises(SystemExit) as end:
        main(["export", "--model_path", str(checkpoint), "--output_dir", str(out), "--format", format_])
    assert end.value.code == 0
    said = capsys.readouterr().err
    for program in programs:
        assert program in said
    assert str(out) in said.splitlines()[-1]
