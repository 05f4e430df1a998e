import pytest

from lumi.corpus.boilerplate import drop_gutenberg_licence, drop_navigation, drop_notices

BOOK = "CHAPTER I\n\nIt was a dark night; Project Gutenberg was not thought of."


@pytest.mark.parametrize(
    "header",
    [
        "The Project Gutenberg EBook of Nights\n\n*** START OF THIS PROJECT GUTENBERG EBOOK NIGHTS ***\n\n",
        "Title: Nights\n***START OF THE PROJECT GUTENBERG EBOOK NIGHTS***\n\n",
        "**Welcome**\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
        "",
    ],
)
@pytest.mark.parametrize(
    "footer",
    [
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK NIGHTS ***\n\n***** This file should be named 1.txt",
        "\n\nEnd of the Project Gutenberg EBook of Nights\n\nUpdated editions will replace",
        "",
    ],
)
def test_a_book_is_what_stands_between_header_and_licence(header, footer):
    assert drop_gutenberg_licence(header + BOOK + footer).strip() == BOOK


@pytest.mark.parametrize(
    "notice",
    [
        "This site uses cookies to improve your experience.",
        "By going on you agree to our Terms of Use and Privacy Policy",
        "Please enable JavaScript to view the comments.",
        "Copyright 2014 Example Ltd. All rights reserved.",
    ],
)
def test_notices_go_and_nothing_around_them(notice):
    assert drop_notices(f"  Before.\n{notice}\n\n\tAfter.") == "  Before.\n\n\tAfter."


@pytest.mark.parametrize(
    "text",
    [
        "A server uses cookies to know a client again, as HTTP itself has no memory. " * 4,
        "the blacks, whose\nterms of service were up, came\nashore",
        "Whoever signs a\nprivacy policy\nshould read it.",
        "JavaScript was written in ten days in May 1995.",
        "document.cookie = 'a=b';",
    ],
)
def test_prose_about_them_stays(text):
    assert drop_notices(text) == text


@pytest.mark.parametrize(
    "line",
    ["Skip to content", " > Read more \u00bb", "[Advertisement]", "Home | About us | News | Contact",
     "Home \u00bb Blog \u00bb Summer", "SHARE ON FACEBOOK"],
)  # fmt: skip
def test_navigation_goes(line):
    assert drop_navigation(f"Text.\n{line}\nMore text.") == "Text.\nMore text."


@pytest.mark.parametrize(
    "line",
    ["| Home | About | Contact |", "home / visitors / draw", "Name | Age | City", "To read more books is a good plan.",
     "if a | b | c:", "    next page = 4", "Home", "Contact | Email"],
)  # fmt: skip
def test_tables_code_and_prose_stay(line):
    assert drop_navigation(f"Text.\n{line}\nMore text.") == f"Text.\n{line}\nMore text."
