"""What an evaluation gives a model card: its tables, and the figures for the hub's index of results."""

from collections.abc import Iterator

from lumi.evaluation.results import Evaluation, Measurement, TaskResult, tables_of
from lumi.training.model_card import CardFigure, CardResults, CardTable


def card_results(evaluation: Evaluation) -> CardResults:
    """Return what `lumi.training.model_card.write_model_card` takes."""
    tables = tuple(
        CardTable(table.title, tuple(table.header), tuple(tuple(row) for row in table.rows), tuple(table.notes))
        for table in tables_of(evaluation)
    )
    return CardResults(tables, tuple(_figures(evaluation)))


def _figures(evaluation: Evaluation) -> Iterator[CardFigure]:
    for task in evaluation.tasks:
        yield from _of_task(task)
    for measured in (*evaluation.held_out, *evaluation.text):
        yield from _of_text(measured)


def _of_task(task: TaskResult) -> Iterator[CardFigure]:
    part = "" if task.rows == task.rows_of_the_whole_set else f", {task.rows:,} of {task.rows_of_the_whole_set:,} rows"
    words = {"acc": "accuracy", "acc_norm": "accuracy, by probability per character"}
    for name, figure in task.accuracies.items():
        yield CardFigure(task.task, task.title + part, "accuracy", words.get(name, name), round(figure.value, 4))
    if task.perplexity is not None:
        yield CardFigure(task.task, task.title + part, "perplexity", "perplexity of the answers", task.perplexity)


def _of_text(measured: Measurement) -> Iterator[CardFigure]:
    bits = round(measured.bits_per_byte, 4)
    yield CardFigure(measured.name, measured.name, "bits_per_byte", "bits per byte", bits)
    if measured.word_perplexity is not None:
        value = round(measured.word_perplexity, 2)
        yield CardFigure(measured.name, measured.name, "perplexity", "perplexity per word", value)
