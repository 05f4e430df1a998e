"""The few HTML forms that the report is built of; every text that goes in is escaped here."""

from collections.abc import Sequence
from html import escape


def section(title: str, *parts: str) -> str:
    """Return a titled section; empty parts are dropped. ``parts`` are HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def figure(svg: str) -> str:
    """Frame a picture of `lumi.pictures`."""
    return f"<figure>{svg}</figure>"


def figures(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return large figures: (what, value, remark)."""
    cells = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for what, value, remark in rows
    )
    return '<dl class="figures">' + "".join(cells) + "</dl>"


def bars(rows: Sequence[tuple[str, float, str]], *, ours: str = "") -> str:
    """Return horizontal bars: (name, length, printed value); the one named ``ours`` stands out."""
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    out = []
    for name, value, printed in rows:
        mark = " ours" if name == ours else ""
        width = 65 * value / longest
        out.append(
            f'<span class="name{mark}">{escape(name)}</span>'
            f'<span class="track{mark}"><i style="width:{width:.1f}%"></i>{escape(printed)}</span>'
        )
    return '<div class="bars">' + "".join(out) + "</div>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return small figures in two columns: (what, value)."""
    cells = (f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in rows)
    return '<dl class="facts">' + "".join(cells) + "</dl>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, words left and numbers right; it scrolls by itself on a narrow screen."""
    is_words = [any(row[column].strip("0123456789.,-+% ") for row in rows) for column in range(len(header))]

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="words"' if words else "" for words in is_words)
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(title: str, text: str) -> str:
    """Return a text that opens on a click, as it is written."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def short(number: float) -> str:
    """Write a large number with three digits: 23.1M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.4g}"
