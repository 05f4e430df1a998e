"""What a model card gets of an evaluation."""

import shutil

from huggingface_hub import ModelCard
from tests.evaluations import evaluation_of

from lumi.evaluation.card_results import card_results
from lumi.evaluation.results import tables_of
from lumi.training.model_card import write_model_card


def test_a_card_has_all_tables_and_the_figures_for_the_hub(made, tmp_path):
    shutil.copytree(made.final, tmp_path / "final")
    evaluation = evaluation_of(made.final)
    results = card_results(evaluation)
    assert [table.title for table in results.tables] == [table.title for table in tables_of(evaluation)]
    card = write_model_card(tmp_path / "final", results)
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in ModelCard.load(card).data.eval_results}
    assert found == {
        ("easy", "accuracy"): 0.5, ("hard", "accuracy"): 0.25, ("packed", "bits_per_byte"): 2.125,
        ("packed", "perplexity"): 9.0, ("wiki", "bits_per_byte"): 2.5, ("wiki", "perplexity"): 9.0,
    }  # fmt: skip
    text = card.read_text()
    assert "Task easy, 100 of 1,000 rows" in text
    assert "| Task easy | 100 of 1,000 | 0.500 \u00b1 0.040 |" in text
    assert "CC0 of the tests" in text
