"""A table of results before it has a form: rich prints it, Markdown and HTML write it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A titled table; ``notes`` belong under it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)

    def is_words(self, column: int) -> bool:
        """Say whether a column is read as words (left) rather than compared as numbers (right)."""
        return any(row[column].strip("0123456789.,-+%\u00b1 ") for row in self.rows)


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables to standard output, each with its notes under it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False, markup=False)
    for one in tables:
        table = RichTable(title=one.title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
        for column, name in enumerate(one.header):
            table.add_column(name, justify="left" if one.is_words(column) else "right", overflow="fold")
        for row in one.rows:
            table.add_row(*row)
        console.print(table)
        for note in one.notes:
            console.print(note, style="dim")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, the first column left, numbers right."""
    table = Table("", header, rows)
    rule = ["---" if column == 0 or table.is_words(column) else "---:" for column in range(len(header))]
    return [_line(header), _line(rule), *(_line(row) for row in rows)]


def markdown_sections(tables: Iterable[Table]) -> list[str]:
    """Return the lines of tables below their titles, each with its notes."""
    lines: list[str] = []
    for table in tables:
        lines += ["", f"## {table.title}", "", *markdown_table(table.header, table.rows)]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
