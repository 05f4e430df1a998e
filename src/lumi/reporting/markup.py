"""The few HTML forms that the report is built of; every text that goes in is escaped here."""

from collections.abc import Mapping, Sequence
from html import escape

from lumi.evaluation.tables import Table


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
    form = Table("", header, rows)
    is_words = [form.is_words(column) for column in range(len(header))]

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="words"' if words else "" for words in is_words)
        whole = (escape(cell.replace(" \u00b1 ", "\u00a0\u00b1\u00a0")) for cell in cells)  # stays on one line
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, whole, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line("th", header)}</tr></thead><tbody>{body}</tbody></table></div>'


def titled_table(content: Table, title: str | None = None) -> str:
    """Return a table below its title (or another; none for an empty one), its notes folded where they are many."""
    head = content.title if title is None else title
    notes = [note(text) for text in content.notes]
    below = folded_parts("How this was measured", *notes) if len(notes) > 2 else "".join(notes)
    return (f"<h3>{escape(head)}</h3>" if head else "") + table(content.header, content.rows) + below


def quote(prompt: str, text: str, remark: str = "") -> str:
    """Return what a model wrote behind a prompt."""
    small = f"<small>{escape(remark)}</small>" if remark else ""
    return f"<blockquote><b>{escape(prompt)}</b>{escape(text)}{small}</blockquote>"


def sides(texts: Mapping[str, str]) -> str:
    """Return texts side by side under their names; below one another on a narrow screen."""
    cells = "".join(f"<div><small>{escape(name)}</small>{escape(text.strip())}</div>" for name, text in texts.items())
    return f'<div class="sides">{cells}</div>'


def folded_parts(title: str, *parts: str) -> str:
    """Return HTML that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def folded(title: str, text: str) -> str:
    """Return a text that opens on a click, as it is written."""
    return folded_parts(title, f"<pre>{escape(text)}</pre>")


def short(number: float) -> str:
    """Write a large number with three digits: 23.1M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:,.4g}"
