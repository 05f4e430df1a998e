"""The card of a finished model: what the hub reads, what people read, nothing invented, nothing in its way."""

import contextlib
import io
import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from tests.training_runs import config, write_checkpoint

from lumi.artifacts import MANIFEST
from lumi.cli import main
from lumi.errors import ConfigError
from lumi.model import ModelConfig, count_parameters, create_model, read_model_config
from lumi.model.pretrained import weights as model_weights
from lumi.pretraining import pretrain
from lumi.tokenizer import Tokenizer
from lumi.training import WholeModel, verify_checkpoint
from lumi.training.checkpoint import MODEL_CARD, link_checkpoint
from lumi.training.cost import cost_of, duration
from lumi.training.lineage import making_steps
from lumi.training.model_card import CardFigure, CardResults, CardTable, write_model_card
from lumi.training.training_data import hub_licence

RESULTS = CardResults(
    tables=(CardTable("Tasks", ("task", "acc"), (("Easy | one", "0.5"),), ("never <s> or padding",)),),
    figures=(
        CardFigure("allenai/ai2_arc", "ARC Easy", "accuracy", "accuracy", 0.5),
        CardFigure("allenai/ai2_arc", "ARC Easy", "perplexity", "perplexity of the answers", 12.5),
        CardFigure("wiki", "WikiText: 2", "bits_per_byte", "bits per byte", 1.25),
    ),
)


def front_matter(card):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def snippets(card, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def finished(trained, tmp_path):
    """A finished run of its own."""
    shutil.copytree(trained.parent, tmp_path / "run")
    return tmp_path / "run" / "final"


def test_a_finished_run_has_a_card_that_the_hub_reads(trained):
    path = trained / MODEL_CARD
    assert not list(trained.parent.glob("step_*/README.md"))
    assert not (trained.parent / "best" / MODEL_CARD).exists()
    data = ModelCard.load(path).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["lumi-lab", "llama", "pretraining"]
    assert data.license == "other"  # "made here" is no licence that the hub knows
    assert data.base_model is None
    assert data.datasets is None
    assert data.to_dict() == front_matter(path.read_text())
    assert ModelCard.load(path).validate is not None


def test_it_says_what_is_known(trained):
    card = (trained / MODEL_CARD).read_text()
    total = count_parameters(read_model_config(trained)).total
    for fact in (
        f"| parameters | {total:,} |", "| layers | 2 |", "| context, tokens | 32 |", "| steps | 20 |",
        "AdamW, beta 0.9 and 0.95", "0.01, cosine, warm-up over 10% of the steps, at the end 10% of it",
        "| device | 1 x CPU |", "fp32, weights in float32", "| packed | made here |", "100.0%",
        "Its training data were not compared with test sets", "lumi generate --model_path .",
    ):  # fmt: skip
        assert fact in card
    for unknown in ("None", "lumi chat", "## Evaluation", "peak FLOP/s"):
        assert unknown not in card


def test_the_manifest_does_not_mind_it(finished):
    verify_checkpoint(finished)
    before = (finished / MANIFEST).read_bytes()
    write_model_card(finished, RESULTS)
    verify_checkpoint(finished)
    assert (finished / MANIFEST).read_bytes() == before
    assert MODEL_CARD not in before.decode()


def test_the_same_command_again_leaves_the_card_with_its_results(packed, tmp_path, capsys):
    settings = config([packed], tmp_path / "run", schedule__max_steps=4, training__save_steps=2)
    final = pretrain(settings)
    write_model_card(final, RESULTS)
    with_results = (final / MODEL_CARD).read_text()
    pretrain(settings)
    assert "up to date" in capsys.readouterr().err
    assert (final / MODEL_CARD).read_text() == with_results
    (final / MODEL_CARD).unlink()  # killed between the folder and its card
    pretrain(settings)
    assert "| steps | 4 |" in (final / MODEL_CARD).read_text()
    pretrain(config([packed], tmp_path / "run", schedule__max_steps=6, training__save_steps=2))
    card = (final / MODEL_CARD).read_text()
    assert "| steps | 6 |" in card  # of the new last step,
    assert "ARC Easy" not in card  # of which there are no results


def test_a_second_name_has_no_card(finished):
    link_checkpoint(finished, finished.parent / "another")
    verify_checkpoint(finished.parent / "another")
    assert not (finished.parent / "another" / MODEL_CARD).exists()
    assert (finished / MODEL_CARD).exists()


def test_results_come_into_the_index_and_the_tables(finished):
    path = write_model_card(finished, RESULTS)
    found = ModelCard.load(path).data.eval_results
    assert [(r.dataset_type, r.dataset_name, r.metric_type, r.metric_value) for r in found] == [
        ("allenai/ai2_arc", "ARC Easy", "accuracy", 0.5),
        ("allenai/ai2_arc", "ARC Easy", "perplexity", 12.5),
        ("wiki", "WikiText: 2", "bits_per_byte", 1.25),
    ]
    assert front_matter(path.read_text())["model-index"][0]["name"] == "test"
    card = path.read_text()
    assert "| Easy \\| one | 0.5 |" in card
    assert "- never &lt;s&gt; or padding" in card  # not struck through


def test_what_it_tells_to_do_works(finished, monkeypatch):
    monkeypatch.chdir(finished)
    (snippet,) = snippets((finished / MODEL_CARD).read_text(), "python")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(snippet, "README.md", "exec"), {})
    assert shown.getvalue().startswith("The history of")
    (*_, commands, _) = snippets((finished / MODEL_CARD).read_text(), "bash")
    with pytest.raises(SystemExit) as ended:
        main(commands.split()[1:])
    assert ended.value.code == 0


def test_a_model_of_which_little_is_recorded(artifacts, tmp_path):
    shape = ModelConfig(vocab_size=320, n_layer=1, d_model=32, n_head=2, head_dim=16, sequence_length=32)
    files = WholeModel(shape, Tokenizer.load(artifacts / "tokenizer"))
    folder = tmp_path / "some run" / "final"
    write_checkpoint(folder, files, model_weights(create_model(shape)), {"config": {}})
    card = write_model_card(folder).read_text()
    assert "# some run" in card
    assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
    for absent in ("## Training data", "optimiser", "None", "null"):
        assert absent not in card


def test_data_that_are_gone_or_damaged_are_not_told_about(finished):
    described = json.loads((finished / "run.json").read_text())
    packed = finished.parent.parent / "packed"
    packed.mkdir()
    described["data"][0]["path"] = str(packed)
    (finished / "run.json").write_text(json.dumps(described))
    for contents in (None, '{"kind": "packed data"}', "{"):
        if contents is not None:
            (packed / MANIFEST).write_text(contents)
        card = write_model_card(finished).read_text()
        assert "license" not in front_matter(card)
        assert "## Training data" in card  # rows and share are in the run's own record


def test_an_adapter_alone_has_no_card(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "adapter")
    (tmp_path / "adapter" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json"):
        write_model_card(tmp_path / "adapter")


def test_a_tuned_model_names_its_base_and_answers(base, chats, tmp_path, monkeypatch):
    from tests.sft_runs import config as sft_config

    from lumi.posttraining import sft

    final = sft(sft_config(base, [chats], tmp_path / "sft", schedule__max_steps=2))
    assert not list(final.parent.glob("step_*/README.md"))
    card = (final / MODEL_CARD).read_text()
    data = ModelCard.load(final / MODEL_CARD).data
    assert data.tags == ["lumi-lab", "llama", "sft", "lora", "conversational"]
    assert data.base_model == base.parent.name or data.base_model.endswith(base.parent.name)
    assert data.base_model_relation == "finetune"
    assert "lora, rank 4, alpha 8; merged" in card
    assert "lumi chat --model_path ." in card
    assert "model to begin with" in card
    monkeypatch.chdir(final)
    (snippet,) = snippets(card, "python")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(snippet, "README.md", "exec"), {})
    from lumi.posttraining import merge
    from lumi.posttraining.merge import MergeConfig

    (final / MODEL_CARD).write_text("kept by hand")
    merge(MergeConfig(checkpoint=final, output_dir=tmp_path / "merged"))
    assert "lora, rank 4" in (tmp_path / "merged" / MODEL_CARD).read_text()
    assert (final / MODEL_CARD).read_text() == "kept by hand"


@pytest.mark.parametrize("licences, name", [
    ([], None),
    ([""], None),
    (["CC BY-SA 4.0"], "cc-by-sa-4.0"),
    (["CC BY-NC 4.0 (research only)", "CC-BY-NC-4.0"], "cc-by-nc-4.0"),
    (["MIT", "Apache 2.0"], "other"),
    (["ODC-BY 1.0"], "odc-by"),
    (["CC BY-SA 3.0 and GFDL"], "other"),
    (["CC0 1.0 for the packaging; the texts belong to their authors"], "other"),
])  # fmt: skip
def test_licences_as_the_hub_names_them(licences, name):
    assert hub_licence(licences) == name


def test_hub_data_sets_and_languages_come_from_the_corpus(tmp_path):
    from lumi.artifacts import Input, Manifest, _sealed
    from lumi.training.training_data import data_sets

    def artifact(name, kind, inputs=(), **contents):
        made = Manifest(
            kind=kind, format_version=1, key="", inputs=tuple(inputs), outputs=(), versions={},
            **{"config": {}, "counts": {}} | contents,
        )  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_bytes(_sealed(made))

    artifact(
        "corpus", "corpus",
        config={"sources": [
            {"name": "w", "kind": "hub", "dataset": "wikimedia/wikipedia", "licence": "CC BY-SA 4.0"},
            {"name": "l", "kind": "hub", "dataset": str(tmp_path), "licence": "CC BY-SA 4.0"},
        ]},
        counts={
            "languages": {"en": 95, "de": 2, "": 3},
            "decontamination": {"checked": {"piqa": {"paragraphs_cut": 3}}, "not_checked": ["boolq"]},
        },
    )  # fmt: skip
    artifact("packed", "packed data", [Input(path="../corpus", sha256="0")], counts={"train": {"tokens": 7}})
    run = {"data": [{"name": "packed", "path": str(tmp_path / "packed"), "rows": 2, "manifest_sha256": "0"}]}
    (data,) = data_sets(run, [{"mix": {"packed": 3, "other": 1}}])
    assert [source.hub_name for source in data.sources] == ["wikimedia/wikipedia", None]
    assert data.languages == {"en"}
    assert (data.share, data.tokens, data.checked, data.not_checked) == (0.75, 7, {"piqa": 3}, ("boolq",))


def test_the_cost_of_a_run(trained):
    lines = [
        {"step": 1, "tokens": 100, "tokens_per_second": 50.0, "flops_per_second": 1e3, "memory_bytes": 5},
        {"step": 1, "val_loss": {"x": 1.0}},
        {"step": 3, "tokens": 300, "tokens_per_second": 100.0, "flops_per_second": 2e3, "memory_bytes": 9},
    ]
    cost = cost_of(trained, lines, tokens=400)  # a step was not logged
    assert cost.seconds == 100 / 50 + 300 / 100
    assert cost.flops == 1e3 * 2 + 2e3 * 3
    assert (cost.tokens_per_second, cost.memory_bytes, cost.device, cost.ranks) == (75.0, 9, "CPU", 1)
    assert cost.device_hours == pytest.approx(5 / 3600)
    nothing = cost_of(trained, [], tokens=400)
    assert (nothing.seconds, nothing.device_hours, nothing.flops) == (None, None, None)


@pytest.mark.parametrize("seconds, shown", [(0.4, "0.4 s"), (61, "1 min 1 s"), (7260.2, "2 h 1 min")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_commands_come_in_an_order_in_which_they_can_be_run(trained):
    """The tokenizer is made from the corpus that the data are packed from: what both need comes first."""
    for folder in {artifact.path for artifact in _chain(trained)}:
        info = folder / "run_info.json"
        assert info.is_file()
    made = [artifact for step in making_steps(trained) for artifact in step.made]
    assert made[-1] == "checkpoint final"
    places = {name: place for place, name in enumerate(made)}
    assert places["corpus corpus"] < places["tokenizer tokenizer"] < places["packed data packed"]
    assert places["corpus packed-corpus"] < places["packed data packed"]


def _chain(checkpoint):
    from lumi.training.lineage import trace

    return [ancestor for ancestor in trace(checkpoint) if ancestor.manifest]
