import pytest

from lumi.corpus.unicode_repair import (
    compose,
    drop_terminal_escapes,
    plain_characters,
    repair_mojibake,
    unescape_entities,
)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman"])
def test_utf8_read_as_something_else_is_undone_line_by_line(encoding):
    right = "Der schöne Käse, süß"
    wrong = right.encode().decode(encoding)
    text = f"naïve façade, 5 °C\n{wrong}\n日本語 😀"
    assert repair_mojibake(text) == f"naïve façade, 5 °C\n{right}\n日本語 😀"


@pytest.mark.parametrize(
    "text",
    ["Ångström's naïve façade", "Ç'est déjà vu à 20 °C", "« Où ? »", "Łódź, Ærø, İstanbul",
     "×•×•• R1", "日本語、한국어", "Привет, мир", "שלום", "x² + √2 ≈ 3 ± ½", "😀👩‍👩‍👧", "“quotes” – and … dashes"],
)  # fmt: skip
def test_right_text_is_not_touched(text):
    assert repair_mojibake(text) == text


def test_entities_become_characters_where_there_is_no_html():
    text = "AT&amp;T &quot;so&quot; 5&nbsp;&#8364; &#x2014;\n<p>Fish &amp; chips</p>\nR&D; x &unknown; a&copy=1 &amp"
    assert unescape_entities(text) == (
        'AT&T "so" 5\u00a0\u20ac \u2014\n<p>Fish &amp; chips</p>\nR&D; x &unknown; a&copy=1 &amp'
    )
    assert unescape_entities("&#xd800; &#0; &#1114112;") == "&#xd800; &#0; &#1114112;"


def test_terminal_colours_go():
    assert drop_terminal_escapes("\x1b[1;31mred\x1b[0m \x1b[Kend") == "red end"


def test_typographic_characters_become_plain_ones():
    assert plain_characters("e\ufb03cient\u00a0o\ufb00er\u202f!") == "efficient offer !"
    assert plain_characters("co\u00adop\u200ber\u2060ate\u200e") == "cooperate"
    assert plain_characters("\u05e9\u05dc\u05d5\u05dd\u200f!") == "\u05e9\u05dc\u05d5\u05dd\u200f!"
    assert plain_characters("\U0001f469\u200d\U0001f467") == "\U0001f469\u200d\U0001f467"


def test_letters_and_their_marks_become_one():
    assert compose("cafe\u0301") == "caf\u00e9"
