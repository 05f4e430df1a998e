"""The report of a run, or of several side by side.

RUN ... --> records --+--> report.html   one file that needs nothing else, not even a network
                      +--> report.json   the same facts as data
                      +--> report.md     the same as text
"""

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Self

from pydantic import Field, model_validator

from lumi.artifacts import write_atomically
from lumi.config import Config, Positional
from lumi.progress import say
from lumi.reporting.data import report_data
from lumi.reporting.markdown import report_text
from lumi.reporting.page import run_page
from lumi.reporting.run_comparison import comparison_page, named
from lumi.reporting.run_comparison import title as comparison_title
from lumi.reporting.run_record import RunRecord, read_run_record

_LONGEST_NAME = 100  # of a folder


class ReportConfig(Config):
    """Write one self-contained HTML page about a run, or about several side by side; the same as JSON and Markdown."""

    run: Annotated[tuple[Path, ...], Positional] = Field(min_length=1)
    """Run folders such as checkpoints/pretrain/tiny, or checkpoints in them."""
    output: Path | None = None
    """The page; .json and .md go beside it. Default: report.html in the run folder, for several runs in a folder
    of results_dir."""
    results_dir: Path = Path("evaluation_results")
    """Where results are looked for that do not lie in the run folder."""

    @model_validator(mode="after")
    def _page_has_a_name_of_its_own(self) -> Self:
        if self.output is not None and self.output.suffix in (".json", ".md"):
            raise ValueError(f"output {self.output} is the page's name; end it with .html")
        return self


def write_report(config: ReportConfig) -> Path:
    """Write the page and what goes beside it; return the page's path.

    Raises:
        DataError: there is no complete checkpoint, or a file of the run cannot be read.
        IntegrityError: a manifest on the way back to the raw files is damaged.
    """
    records = [read_run_record(path, config.results_dir) for path in config.run]
    output = config.output or _default_output(records, config.results_dir)
    output.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(report_data(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for path, text in (
        (output, render(records)),
        (output.with_suffix(".json"), data),
        (output.with_suffix(".md"), report_text(records)),
    ):
        write_atomically(path, text.encode("utf8", errors="replace"))
    say(f"report: {output}")
    return output


def _default_output(records: Sequence[RunRecord], results_dir: Path) -> Path:
    if len(records) == 1:
        return records[0].folder / "report.html"
    names = "-".join(record.label.replace("/", "-") for record in records)
    return results_dir / f"comparison-{names}"[:_LONGEST_NAME] / "report.html"


def render(records: Sequence[RunRecord]) -> str:
    """Return the whole page."""
    by_name = named(records)
    if len(records) == 1:
        name, body = records[0].name, run_page(records[0])
    else:
        name, body = comparison_title(by_name), comparison_page(by_name)
    template = Template(resources.files("lumi.reporting").joinpath("report.html").read_text(encoding="utf8"))
    return template.substitute(title=escape(f"{name} - Lumi-Lab report"), body=body)
