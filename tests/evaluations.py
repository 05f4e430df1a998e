"""Results of an evaluation for tests of what is made of them, written without measuring."""

from lumi.artifacts import sha256_file
from lumi.evaluation.results import (
    Compression,
    Evaluation,
    Figure,
    GenerationResult,
    Measurement,
    Missing,
    Sample,
    StageAnswers,
    StagesResult,
    Subject,
    TaskResult,
)


def measured(name, bits):
    return Measurement(
        name=name, mode="rows", protocol="never <s> or padding", window=32, stride=32, nats=1.0, tokens=10, words=5,
        bytes=20, token_perplexity=3.0, word_perplexity=9.0, byte_perplexity=1.5, bits_per_byte=bits,
        standard_error=0.25,
    )  # fmt: skip


def accuracy(task, value, majority=0.3):
    return TaskResult(
        task=task, title=f"Task {task}", protocol="asked <b>plainly</b>", rows=100, rows_of_the_whole_set=1000,
        metric="acc", accuracies={"acc": Figure(value=value, standard_error=0.04)}, chance=0.25, majority=majority,
    )  # fmt: skip


def evaluation_of(checkpoint, shift=0.0):
    """Results as an evaluation writes them."""
    return Evaluation(
        model=Subject(
            name="run-final", path=str(checkpoint), kind="lumi", sha256=sha256_file(checkpoint / "manifest.json"),
            tokenizer_sha256="0" * 64, parameters=1, context=32,
        ),
        settings={},
        held_out=(measured("packed", 2.125 + shift),),
        text=(measured("wiki", 2.5 + shift),),
        compression=(
            Compression(data="packed", name="this model", bits_per_byte=2.125 + shift, about=""),
            Compression(data="packed", name="xz -9", bits_per_byte=3.0625, about="a compressor"),
        ),
        tasks=(accuracy("easy", 0.5 + shift), accuracy("hard", 0.25 + shift, majority=None)),
        generation=GenerationResult(form="continuation",
            protocol="temperature 0.7",
            figures={"tales": {"distinct": 0.5}, "all": {"distinct": 0.5}},
            samples=tuple(
                Sample(category="tales", prompt=f"Tale {n}", text=f" of {n}", tokens=4, ended=n == 0, language="en")
                for n in range(3)
            ),
        ),
        stages=StagesResult(
            protocol="greedy",
            stages=("pretrain", "sft", "dpo"),
            answers=(StageAnswers(prompt="Who?", answers=("the base's", "the tuned one's", "the preferred one's")),),
            figures=({"ended": 0.125}, {"ended": 0.5}, {"ended": 1.0}),
        ),
        missing=(Missing(name="piqa", why="its rows are not <here>"),),
    )  # fmt: skip
