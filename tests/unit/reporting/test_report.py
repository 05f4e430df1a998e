"""The report of a run or of several: one page, nothing from outside, everything escaped, absent parts named."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from tests.evaluations import evaluation_of

from lumi.artifacts import canonical_json, sha256_bytes, sha256_file
from lumi.errors import ConfigError, DataError, IntegrityError
from lumi.evaluation.results import Evaluation, write_results
from lumi.reporting.report import ReportConfig, write_report

EVIL = "<script>alert('x')</script> & $title \u2028 ]]>"


@pytest.fixture
def run(made, tmp_path):
    """A run folder of its own, every optional part in it."""
    folder = tmp_path / "run"
    shutil.copytree(made.final, folder / "final")
    shutil.copy(folder / "final" / "training_state" / "metrics.jsonl", folder)
    write_results(folder / "evaluation", evaluation_of(folder / "final"))
    (folder / "samples.json").write_text(json.dumps([{"prompt": EVIL, "text": EVIL}]))
    return folder


def read_json(path):
    return json.loads(path.read_text())


def page_of(*runs, **options):
    options.setdefault("results_dir", runs[0].parent / "results")
    return write_report(ReportConfig(run=runs, **options)).read_text(encoding="utf8")


class Balance(HTMLParser):
    """Notes tags that are opened and not closed, or the other way round."""

    VOID = {"meta", "br", "path", "use", "rect", "line"}

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser.tags


def test_one_file_that_asks_for_nothing(run):
    tags = parsed(page_of(run))
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    references = [v for _, attrs in tags for k, v in attrs.items() if k in ("src", "href", "xlink:href", "srcset")]
    assert all(reference.startswith("#") for reference in references)
    page = page_of(run)
    assert "@import" not in page
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", page))


def test_text_is_escaped(run):
    page = page_of(run)
    assert page.count(html.escape(EVIL)) == 2
    assert "tiny &lt;test&gt;" in page
    assert "<script" not in page


def test_what_it_shows(run, made):
    page = page_of(run)
    for figure in ("2.125", "3.062", "0.500\u00a0\u00b1\u00a00.040"):
        assert figure in page
    for title in ("Loss", "Learning rate", "Gradient norm, before clipping", "Throughput"):
        assert f'aria-label="{title}"' in page
    assert "not recorded on this machine" in page  # utilisation on a CPU
    for artifact in (made.packed, made.root / "corpus", made.tokenizer):
        assert f'<span class="path">{artifact.name}</span>' in page
    assert "raw.jsonl" in page
    assert "every link below was checked" in page
    assert "CC0 of the tests" in page
    for rule in ("Too short", "Exact duplicate"):
        assert f'<td class="words">{rule}</td>' in page
    assert 'aria-label="Length of a document"' in page
    assert "min_characters" in page  # the config that made the corpus
    assert "Bytes per token prose" in page


def test_pictures_are_wellformed(run):
    pictures = re.findall(r"<svg.*?</svg>", page_of(run), re.DOTALL)
    assert len(pictures) >= 5
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_absent_parts_are_named(run):
    shutil.rmtree(run / "evaluation")
    (run / "samples.json").unlink()
    (run / "metrics.jsonl").unlink()
    (run / "final" / "training_state" / "metrics.jsonl").unlink()
    page = page_of(run)
    for absent in ("no results.json of this checkpoint", "no samples.json", "no metrics.jsonl", "no throughput"):
        assert absent in page
    parsed(page)


def test_data_that_moved_away_is_said(run):
    path = run / "final" / "run.json"
    described = json.loads(path.read_text())
    described["data"][0]["path"] = "moved/away"
    path.write_text(json.dumps(described))
    page = page_of(run)
    assert "not there" in page
    assert "could not be confirmed" in page


def test_a_link_that_changed_is_said(run):
    path = run / "final" / "run.json"
    described = json.loads(path.read_text())
    described["data"][0]["manifest_sha256"] = "0" * 64
    path.write_text(json.dumps(described))
    assert '<span class="wrong">changed</span>' in page_of(run)


def test_a_checkpoint_folder_is_as_good_as_its_run(run):
    assert write_report(ReportConfig(run=(run / "final",), results_dir=run)) == run / "report.html"


def test_a_checkpoint_knows_nothing_of_what_came_after_it(run):
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 30, "val_loss": {"packed": 1.5}}\n')
    page_of(run / "final", results_dir=run)
    assert read_json(run / "report.json")["runs"][0]["held_out"]["val_loss"]["packed"]["values"] == [4.2]
    page_of(run)
    assert read_json(run / "report.json")["runs"][0]["held_out"]["val_loss"]["packed"]["values"] == [4.2, 1.5]


def test_same_run_same_bytes(run, tmp_path):
    assert page_of(run) == page_of(run, output=tmp_path / "elsewhere" / "page.html")


@pytest.mark.parametrize("break_it, error, message", [
    (lambda run: shutil.rmtree(run), DataError, "no run at"),
    (lambda run: (run / "final/manifest.json").unlink(), DataError, "no complete checkpoint"),
    (lambda run: (run / "samples.json").write_text("{"), DataError, "not a list"),
    (lambda run: (run / "evaluation/results.json").write_text("{}"), DataError, "run the evaluation again"),
    (lambda run: (run / "final/manifest.json").write_text('{"kind": "checkpoint"}'), IntegrityError, "damaged"),
])  # fmt: skip
def test_a_broken_run_is_named(run, break_it, error, message):
    break_it(run)
    with pytest.raises(error, match=message):
        page_of(run)


@pytest.fixture
def other(run, tmp_path):
    """A second run: another name, one setting, results in the common folder."""
    folder = tmp_path / "other"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "evaluation")
    described = read_json(folder / "final" / "run.json")
    described["config"] |= {"name": "larger", "optimizer": {"learning_rate": 0.25}}
    (folder / "final" / "run.json").write_text(json.dumps(described))
    manifest = folder / "final" / "manifest.json"
    seal_again(manifest, config={"another": "run"})
    write_results(tmp_path / "results" / "other", evaluation_of(folder / "final", shift=0.25))
    (folder / "samples.json").write_text(json.dumps([{"prompt": EVIL, "text": "something else"}]))
    return folder


def seal_again(path, **changes):
    """Change a manifest as a stage would write it."""
    contents = read_json(path) | changes
    contents.pop("seal")
    sealed = {**contents, "seal": sha256_bytes(canonical_json(contents))}
    path.write_bytes(json.dumps(sealed, indent=1, ensure_ascii=False).encode() + b"\n")


def test_what_an_evaluation_found(run):
    page = page_of(run)
    assert 'aria-label="Accuracy, \u00b1 2 standard errors"' in page
    for mark in (">chance</text>", ">most frequent answer</text>", ">Task easy</text>", ">0.500</text>"):
        assert mark in page  # in the picture: words and shapes, not colours
    assert "better than the most frequent answer" in page
    assert "asked &lt;b&gt;plainly&lt;/b&gt;" in page
    assert "2.1250\u00a0\u00b1\u00a00.2500" in page
    assert "its rows are not &lt;here&gt;" in page
    for n in range(3):
        assert f"<b>Tale {n}</b> of {n}<small>" in page
    assert "ended by itself, language en" in page
    for stage, answer in (("pretrain", "the base&#x27;s"), ("sft", "the tuned one&#x27;s")):
        assert f"<div><small>{stage}</small>{answer}</div>" in page


def test_results_are_found_by_the_hash_of_the_model(run, tmp_path):
    there = tmp_path / "results" / "anything"
    (run / "evaluation").rename(there.parent)
    (there.parent / "results.json").rename(there.parent / "kept.json")
    there.mkdir()
    (there.parent / "kept.json").rename(there / "results.json")
    assert "better than the most frequent answer" in page_of(run)
    (run / "evaluation").mkdir()
    there.rename(run / "evaluation" / "final")
    assert "better than the most frequent answer" in page_of(run)
    results = run / "evaluation" / "final" / "results.json"
    found = evaluation_of(run / "final")
    write_results(results.parent, found.model_copy(update={"model": found.model.model_copy(update={"sha256": "1"})}))
    assert "no results.json of this checkpoint" in page_of(run)


def test_results_that_cannot_be_read_are_passed_over(run, tmp_path):
    (run / "evaluation" / "older").mkdir()
    (run / "evaluation" / "results.json").rename(run / "evaluation" / "older" / "results.json")
    (run / "evaluation" / "results.json").write_text('{"format_version": 1}')
    assert "better than the most frequent answer" in page_of(run)


def test_the_cost_is_worked_out_from_the_log(run):
    (run / "status.json").write_text(json.dumps({"device": "NVIDIA H100", "world_size": 4}))
    state = run / "final" / "training_state" / "state.json"
    state.write_text(json.dumps(read_json(state) | {"world_size": 4}))
    page = page_of(run)
    # 1000 tokens at 100 a second, on 4 ranks
    for name, value in (("Training time", "10 s"), ("GPU hours", "0.0111"), ("Tokens per second, median", "100")):
        assert f'>{name}</td><td class="words">{value}</td>' in page
    assert "4 x NVIDIA H100" in page
    (run / "status.json").write_text(json.dumps({"device": "CPU", "world_size": 4}))
    page = page_of(run)
    assert "CPU hours" in page
    assert "GPU hours" not in page


def test_the_commands_of_the_chain_stand_in_their_order(run, made):
    page = page_of(run)
    steps = read_json(run / "report.json")["runs"][0]["commands"]
    assert [artifact.split()[0] for step in steps for artifact in step["made"]] == [
        "corpus", "tokenizer", "packed", "checkpoint",
    ]  # fmt: skip
    assert "Makes corpus corpus" in page
    for folder in (made.packed, run / "final"):
        assert (folder / "run_info.json").is_file()
    (run / "final" / "run_info.json").write_text(
        json.dumps({"command": ["/a/scripts/04_pretrain.py", "--name", "a b"]})
    )
    assert "python scripts/04_pretrain.py --name &#x27;a b&#x27;" in page_of(run)
    (run / "final" / "run_info.json").unlink()
    assert "not recorded (no run_info.json) of checkpoint final" in page_of(run)


def test_data_and_text_beside_the_page(run):
    page_of(run)
    data = read_json(run / "report.json")
    assert (data["format_version"], data["kind"]) == (1, "run")
    (one,) = data["runs"]
    assert one["sha256"] == sha256_file(run / "final" / "manifest.json")
    assert one["curves"]["loss"]["values"][-1] == 4.0
    assert one["held_out"]["val_loss"] == {"packed": {"steps": [20], "values": [4.2]}}
    assert Evaluation.from_values(one["evaluation"], "report.json") == evaluation_of(run / "final")
    assert all(link["matches"] for link in one["lineage"])
    text = (run / "report.md").read_text()
    assert "# tiny &lt;test&gt;" in text
    assert "| Task easy | 100 of 1,000 | 0.500 \u00b1 0.040 | - | 0.250 | 0.300 | better than" in text
    assert "never &lt;s&gt; or padding" in text  # not struck through
    assert one["sha256"] in text
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside


def test_a_number_that_is_not_finite_is_null(run):
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 20, "val_loss": {"packed": NaN}}\n')
    page_of(run)
    assert read_json(run / "report.json")["runs"][0]["held_out"]["val_loss"]["packed"]["values"] == [4.2, None]


def test_several_runs_side_by_side(run, other, tmp_path):
    page = page_of(run, other)
    path = next((tmp_path / "results").glob("comparison-*/report.html"))
    assert path.read_text(encoding="utf8") == page
    tags = parsed(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert "tiny &lt;test&gt; and larger" in page
    for name in ("tiny &lt;test&gt;", "larger"):
        assert f"<th>{name}</th>" in page
        assert f">{name}</text>" in page  # a line of the chart, told apart by its dashes
    assert "0.500\u00a0\u00b1\u00a00.040</td><td>0.750\u00a0\u00b1\u00a00.040" in page
    assert '<td class="words">optimizer.learning_rate</td><td>-</td><td>0.25</td>' in page
    assert "model.n_layer" not in page  # the same in both
    assert f"<small>larger</small>{html.escape('something else')}" in page
    assert page.count(html.escape(EVIL)) >= 2
    assert "Differences to A" in page  # here without pieces to pair, which the notes say
    assert "not tested" in page
    assert "<script" not in page
    data = read_json(path.with_suffix(".json"))
    assert data["kind"] == "comparison"
    assert data["names"] == ["tiny <test>", "larger"]
    assert data["config_differences"]["optimizer.learning_rate"] == [None, 0.25]
    assert "| optimizer.learning_rate | - | 0.25 |" in path.with_suffix(".md").read_text()


def test_runs_of_one_name_are_told_apart(run, other, tmp_path):
    described = read_json(other / "final" / "run.json")
    described["config"]["name"] = "tiny <test>"
    (other / "final" / "run.json").write_text(json.dumps(described))
    assert f"{tmp_path.name}/run and {tmp_path.name}/other" in page_of(run, other)
    assert "(1) and" in page_of(run, run)


def test_other_tokenizers_are_said(run, other):
    assert "The tokenizers differ" not in page_of(run, other)
    described = read_json(other / "final" / "run.json")
    described["tokenizer_sha256"] = "0" * 64
    (other / "final" / "run.json").write_text(json.dumps(described))
    assert "The tokenizers differ" in page_of(run, other)


def test_the_page_does_not_take_the_place_of_what_goes_beside_it(run):
    with pytest.raises(ConfigError, match=r"end it with \.html"):
        ReportConfig.from_values({"run": [str(run)], "output": "page.json"}, "test")


def test_runs_need_no_option(run, capsys):
    from lumi.config import parse_config

    parsed_config = parse_config(ReportConfig, [str(run), str(run / "final")], prog="lumi report")
    assert parsed_config.run == (run, run / "final")


def test_the_mix_is_shown_along_the_run_and_a_new_phase_counts_from_zero():
    from lumi.reporting.curves import shares_along

    lines = [{"step": n, "mix": {"a": 3 * n, "b": n}} for n in range(1, 11)]
    lines += [{"step": 10, "val_loss": {"a": 1.0}}]
    lines += [{"step": 10 + n, "mix": {"c": 4 * n}} for n in range(1, 6)]
    assert shares_along(lines) == {
        "a": (list(range(1, 11)), [0.75] * 10),
        "b": (list(range(1, 11)), [0.25] * 10),
        "c": (list(range(11, 16)), [1.0] * 5),
    }
    few = shares_along(lines, windows=3)
    assert few["a"] == ([5, 10], [0.75, 0.75])
    assert few["c"] == ([15], [1.0])


def test_a_run_of_preferences_shows_what_it_prefers_and_the_models_behind_it(run, made):
    weights = next(o["sha256"] for o in read_json(made.final / "manifest.json")["outputs"] if "model." in o["file"])
    described = read_json(run / "final" / "run.json")
    described["base"] = {"path": str(made.final), "weights_sha256": weights}
    (run / "final" / "run.json").write_text(json.dumps(described))
    (run / "samples.json").unlink()
    shutil.rmtree(run / "evaluation")
    lines = [
        {"step": step, "val_loss": {"hh": 0.7 - step / 10}, "val_preference_accuracy": {"hh": 0.5 + step / 10},
         "val_reward_margin": {"hh": 0.0}, "val_kl": {"hh": 0.0}} for step in (0, 2)
    ]  # fmt: skip
    lines += [{"step": step, "samples": [{"prompt": EVIL, "text": f"answer {step}"}]} for step in (0, 1, 2)]
    lines.append({"step": 1, "loss": 0.6, "reward_chosen": 0.1, "reward_rejected": 0.0, "reward_margin": 0.1,
                  "preference_accuracy": 0.75, "log_prob_chosen": -3.0, "log_prob_rejected": -4.0})  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(run)
    parsed(page)
    assert "70.0%<small>of held-out preferences, hh" in page
    assert "nats per pair, hh" in page
    for title in ("Reward", "Pairs whose chosen answer has the higher reward", "Distance from the model before"):
        assert f'aria-label="{title}"' in page
    assert "answer 0" in page
    assert "answer 1" not in page
    assert "answer 2" in page
    assert page.count(html.escape(EVIL)) == 1
    assert f'model to begin with</span> <span class="path">{made.final.name}</span>' in page
    assert "every link below was checked" in page
    described["base"]["weights_sha256"] = "0" * 64
    (run / "final" / "run.json").write_text(json.dumps(described))
    assert '<span class="wrong">changed</span>' in page_of(run)
    described["base"]["path"] = "moved/away"
    (run / "final" / "run.json").write_text(json.dumps(described))
    assert "not there" in page_of(run)


def test_a_pretraining_run_has_no_section_of_preferences(run):
    assert "What it prefers" not in page_of(run)
