"""The report: one file, nothing from outside, everything escaped, absent parts named."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from lumi.errors import DataError, IntegrityError
from lumi.evaluation import EvaluateConfig, ReportConfig, evaluate, write_report

EVIL = "<script>alert('x')</script> & $title \u2028 ]]>"


@pytest.fixture
def run(made, tmp_path):
    """A run folder of its own, every optional part in it."""
    folder = tmp_path / "run"
    shutil.copytree(made.final, folder / "final")
    shutil.copy(folder / "final" / "training_state" / "metrics.jsonl", folder)
    evaluate(EvaluateConfig(model_path=folder / "final", data_dirs=(made.packed,), output_dir=folder / "evaluation"))
    (folder / "samples.json").write_text(json.dumps([{"prompt": EVIL, "text": EVIL}]))
    return folder


def read_json(path):
    return json.loads(path.read_text())


def page_of(run, **options):
    return write_report(ReportConfig(run=run, **options)).read_text(encoding="utf8")


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
    results = json.loads((run / "evaluation/results.json").read_text())
    for row in results["compression"]:
        assert f"{row['bits_per_byte']:.3f}" in page
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
    for absent in ("no evaluation/results.json", "no samples.json", "no metrics.jsonl"):
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
    assert write_report(ReportConfig(run=run / "final")) == run / "report.html"


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
        write_report(ReportConfig(run=run))


def test_the_mix_is_shown_along_the_run_and_a_new_phase_counts_from_zero():
    from lumi.evaluation.report import shares_along

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
