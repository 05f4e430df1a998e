"""Pictures are deterministic, well-formed SVG for any names and values, and carry no fixed ink."""

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.pictures import Interval, IntervalRow, bar_chart, histogram, interval_chart, line_chart

POINTS = ([1.0, 2.0, 3.0], [4.0, 2.0, 1.0])
PICTURES = {
    "lines": lambda: line_chart("Loss", {"a": POINTS, "b": POINTS}, x_label="step", y_label="nats", log_y=True),
    "bars": lambda: bar_chart("Kept", {"kept": 10, "dropped": 2}, x_label="documents"),
    "intervals": lambda: interval_chart(
        "Accuracy",
        [
            IntervalRow("easy", {"a": Interval(0.5, 0.1), "b": Interval(0.6, 0.1)}, {"chance": 0.25, "often": 0.3}),
            IntervalRow("hard", {"b": Interval(0.25, 0.1)}, {"chance": 0.25}),
        ],
        x_label="share",
    ),
    "histogram": lambda: histogram("Length", [1, 10, 100, 1000], x_label="bytes", log_x=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_same_data_same_bytes(name):
    picture = PICTURES[name]()
    assert picture == PICTURES[name]()
    assert "<metadata" not in picture  # no date, no program
    assert "currentColor" in picture
    assert "prefers-color-scheme" in picture
    assert 'width="' not in picture.split(">", 1)[0]  # as wide as its place
    assert ElementTree.fromstring(picture).tag.endswith("svg")


@settings(deadline=None, max_examples=15)
@given(st.dictionaries(st.text(max_size=12), st.floats(0, 1e12), max_size=4), st.text(max_size=20))
def test_any_names_and_values(values, title):
    ElementTree.fromstring(bar_chart(title, values, x_label=title))
    ElementTree.fromstring(histogram(title, list(values.values()), x_label=title, log_x=len(title) % 2 == 0))
    lines = {name: (list(range(3)), [value, 0.0, 1.0]) for name, value in values.items()}
    ElementTree.fromstring(line_chart(title, lines, x_label=title, y_label=title, log_y=len(title) % 2 == 0))
    rows = [IntervalRow(name, {title: Interval(value, 1.0)}, {name: value}) for name, value in values.items()]
    ElementTree.fromstring(interval_chart(title, rows, x_label=title))


def test_markup_in_names_stays_text():
    picture = bar_chart("<b>", {"<script>": 1.0, "$x^2$": 2.0}, x_label="&")
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture
    assert ">$x^2$</text>" in picture  # dollars are text, not formulas


def shapes(picture):
    """The outlines of the markers in a picture, whatever their colour."""
    paths = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}path")
    return {path.get("d") for path in paths if (path.get("id") or "").startswith("m")}


def test_intervals_are_told_apart_without_colour():
    """Every series and every mark has its name and a shape of its own; a single series has its values in print."""
    picture = PICTURES["intervals"]()
    for name in ("a", "b", "chance", "often", "easy", "hard"):
        assert f">{name}</text>" in picture
    row = {"a": Interval(0.5, 0.1), "b": Interval(0.6, 0.1)}
    without_marks = interval_chart("x", [IntervalRow("easy", row)], x_label="")
    alone = interval_chart("x", [IntervalRow("easy", {"a": Interval(0.5, 0.1)})], x_label="")
    assert len(shapes(picture)) == len(shapes(without_marks)) + 2 == len(shapes(alone)) + 3
    assert ">0.500</text>" in alone
    assert ">a</text>" not in alone
    assert ">0.500</text>" not in without_marks


def test_lines_are_told_apart_without_colour(monkeypatch):
    """Dashes come again after six lines, then with other markers."""
    from matplotlib.axes import Axes

    looks, plot = [], Axes.plot

    def watched(self, *args, **options):
        looks.append((options["linestyle"], options["marker"]))
        return plot(self, *args, **options)

    monkeypatch.setattr(Axes, "plot", watched)
    line_chart("x", {str(number): POINTS for number in range(20)}, x_label="", y_label="")
    assert len(set(looks)) == 20


def test_no_name_is_kept_to_itself():
    """Matplotlib leaves out names that begin with an underscore."""
    names = {"_a": POINTS, "": POINTS, "b": POINTS}
    assert line_chart("x", names, x_label="", y_label="").count("</text>") == 3 + line_chart(
        "x", {"b": POINTS}, x_label="", y_label=""
    ).count("</text>")
