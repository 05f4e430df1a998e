"""Pictures are deterministic, well-formed SVG for any names and values, and carry no fixed ink."""

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumi.pictures import bar_chart, histogram, line_chart

POINTS = ([1.0, 2.0, 3.0], [4.0, 2.0, 1.0])
PICTURES = {
    "lines": lambda: line_chart("Loss", {"a": POINTS, "b": POINTS}, x_label="step", y_label="nats", log_y=True),
    "bars": lambda: bar_chart("Kept", {"kept": 10, "dropped": 2}, x_label="documents"),
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


def test_markup_in_names_stays_text():
    picture = bar_chart("<b>", {"<script>": 1.0, "$x^2$": 2.0}, x_label="&")
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture
    assert ">$x^2$</text>" in picture  # dollars are text, not formulas
