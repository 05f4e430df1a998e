"""The results of an evaluation: figures with the protocol that gives them a meaning, as JSON, Markdown and a table."""

from pathlib import Path
from typing import Any, Self

from lumi.artifacts import Input, write_atomically
from lumi.config import Config
from lumi.evaluation.perplexity import Score

RESULTS = "results.json"
FORMAT_VERSION = 1


class Measurement(Config):
    """How well a model predicts one text."""

    name: str
    protocol: str
    """How the text was cut, and what was scored."""
    window: int
    stride: int | None
    nats: float
    tokens: int
    words: int
    bytes: int
    token_perplexity: float | None
    word_perplexity: float | None
    byte_perplexity: float | None
    bits_per_byte: float

    @classmethod
    def of(cls, name: str, score: Score, *, protocol: str, window: int, stride: int | None) -> Self:
        return cls(
            name=name,
            protocol=protocol,
            window=window,
            stride=stride,
            nats=score.nats,
            tokens=score.tokens,
            words=score.words,
            bytes=score.bytes,
            token_perplexity=score.perplexity(score.tokens),
            word_perplexity=score.perplexity(score.words),
            byte_perplexity=score.perplexity(score.bytes),
            bits_per_byte=score.bits_per_byte,
        )


class Compression(Config):
    """Bits per byte of one predictor on one held-out text."""

    data: str
    name: str
    bits_per_byte: float
    about: str


class Evaluation(Config):
    """Everything measured in one call; the same inputs give the same bytes."""

    format_version: int = FORMAT_VERSION
    key: str
    """Hash of config and inputs, by which finished results are found."""
    config: dict[str, Any]
    model: Input
    tokenizer_sha256: str
    parameters: int
    inputs: tuple[Input, ...]
    held_out: tuple[Measurement, ...]
    text: tuple[Measurement, ...]
    compression: tuple[Compression, ...]


def write_results(folder: Path, evaluation: Evaluation) -> None:
    """Write results.json and results.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "results.md", _markdown(evaluation).encode())
    write_atomically(folder / RESULTS, evaluation.model_dump_json(indent=1).encode() + b"\n")


def print_results(evaluation: Evaluation) -> None:
    """Print the figures to standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for title, header, rows in _tables(evaluation):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for column, name in enumerate(header):
            table.add_column(name, justify="left" if column == 0 or name == "what it is" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for measurement in (*evaluation.held_out, *evaluation.text):
        console.print(f"{measurement.name}: {measurement.protocol}", style="dim", markup=False)


def _tables(evaluation: Evaluation) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    header: tuple[str, ...] = ("text", "bits per byte", "token ppl", "word ppl", "byte ppl", "tokens", "words", "bytes")
    measured: list[tuple[str, ...]] = [
        (
            m.name,
            f"{m.bits_per_byte:.4f}",
            shown_perplexity(m.token_perplexity),
            shown_perplexity(m.word_perplexity),
            shown_perplexity(m.byte_perplexity),
            f"{m.tokens:,}",
            f"{m.words:,}",
            f"{m.bytes:,}",
        )
        for m in (*evaluation.held_out, *evaluation.text)
    ]
    tables = [("Perplexity", header, measured)]
    if evaluation.compression:
        compared: list[tuple[str, ...]] = [
            (f"{c.data}: {c.name}", f"{c.bits_per_byte:.4f}", c.about) for c in evaluation.compression
        ]
        tables.append(
            ("Bits per byte of the same held-out text", ("predictor", "bits per byte", "what it is"), compared)
        )
    return tables


def _markdown(evaluation: Evaluation) -> str:
    lines = ["# Evaluation", "", f"Model: `{evaluation.model.path}` (manifest sha256 `{evaluation.model.sha256}`),"
             f" {evaluation.parameters:,} parameters, tokenizer sha256 `{evaluation.tokenizer_sha256}`."]  # fmt: skip
    for title, header, rows in _tables(evaluation):
        lines += ["", f"## {title}", "", _row(header), _row(["---"] + ["---:"] * (len(header) - 1))]
        lines += [_row(row) for row in rows]
    lines += ["", "## Protocol", ""]
    lines += [f"- {m.name}: {m.protocol}" for m in (*evaluation.held_out, *evaluation.text)]
    return "\n".join(lines) + "\n"


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shown_perplexity(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1e6:
        return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"
