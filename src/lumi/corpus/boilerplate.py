"""Boilerplate: what a publisher puts around every text. Whole lines go; all others stay byte for byte.

C4 (Raffel et al. 2019, arXiv:1910.10683, section 2.2) drops every line with the word Javascript and every page or line
with a policy's name. We drop such a line only where it reads as a notice (it is short, and for scripts it asks for
them), because texts about programs and about law are worth having.
"""

import re

_START = re.compile(r"\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*", re.IGNORECASE)
_END = re.compile(r"^(?:\*{3} ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg)[^\n]*",
                  re.IGNORECASE | re.MULTILINE)  # fmt: skip
_SMALL_PRINT = re.compile(r"\*END\* ?THE SMALL PRINT![^\n]*", re.IGNORECASE)

_NOTICES = (
    "terms of use", "terms of service", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies", "enable javascript", "javascript is disabled", "javascript is not enabled", "javascript is required",
    "javascript enabled", "requires javascript", "turn on javascript", "all rights reserved",
)  # fmt: skip
_NOTICE_SIGNS = ("cookie", "terms of", "policy", "javascript", "rights reserved")  # one of them in each
_LONGEST_NOTICE = 200  # characters; longer lines are paragraphs

_NAVIGATION = frozenset({
    "skip to content", "skip to main content", "skip to navigation", "jump to navigation", "back to top",
    "share on facebook", "share on twitter", "share this", "share this article", "share this page", "share this post",
    "read more", "continue reading", "click here to read more", "next page", "previous page", "next post",
    "previous post", "older posts", "newer posts", "leave a comment", "leave a reply", "post a comment",
    "add a comment", "print this page", "email this article", "subscribe to our newsletter",
    "sign up for our newsletter", "toggle navigation", "advertisement", "related articles", "related posts",
})  # fmt: skip
_SHORTEST_CONTROL = min(map(len, _NAVIGATION))
_LONGEST_CONTROL = max(map(len, _NAVIGATION)) + 10  # with signs around it
_AROUND = " \t.:;*-_|<>[](){}\u2026\u00bb\u00ab\u203a\u2039\u2192\u2190\u2191\u2193"
_BARS = (" | ", " \u00b7 ", " \u2022 ", " \u00bb ", " / ")
_BAR = re.compile("|".join(map(re.escape, _BARS)))
_BAR_WORDS = frozenset({
    "home", "about", "about us", "contact", "contact us", "login", "log in", "sign in", "register", "sitemap",
    "site map", "privacy", "terms", "help", "faq", "search", "news", "blog", "shop", "careers", "advertise",
})  # fmt: skip


def drop_gutenberg_licence(text: str) -> str:
    """Keep of a Project Gutenberg file what stands between its header and its licence."""
    if "gutenberg" not in text and "Gutenberg" not in text and "GUTENBERG" not in text and "SMALL PRINT" not in text:
        return text
    for header in (_START, _SMALL_PRINT):
        if found := header.search(text):
            text = text[found.end() :]
    if found := _END.search(text):
        text = text[: found.start()]
    return text


def drop_notices(text: str) -> str:
    """Remove short lines that speak of cookies, policies or missing scripts.

    A line that a sentence runs through, as in a text with a fixed width, stays.
    """
    lower = text.lower()
    if not any(sign in lower for sign in _NOTICE_SIGNS) or not any(notice in lower for notice in _NOTICES):
        return text
    lines = text.split("\n")
    return "\n".join(
        [
            line
            for line, lowered, following in zip(lines, lower.split("\n"), [*lines[1:], ""], strict=True)
            if len(line) > _LONGEST_NOTICE
            or not any(notice in lowered for notice in _NOTICES)
            or line[:1].islower()
            or following[:1].islower()
        ]
    )


def drop_navigation(text: str) -> str:
    """Remove lines that are a web page's controls and nothing else: `Read more`, `Home | About | Contact`."""
    bars = any(bar in text for bar in _BARS)
    lines = text.split("\n")
    kept = [
        line
        for line in lines
        if not (
            (_SHORTEST_CONTROL <= len(line) <= _LONGEST_CONTROL and line.strip(_AROUND).lower() in _NAVIGATION)
            or (bars and len(line) <= _LONGEST_NOTICE and _is_link_bar(line))
        )
    ]
    return text if len(kept) == len(lines) else "\n".join(kept)


def _is_link_bar(line: str) -> bool:
    parts = _BAR.split(line.strip())
    if len(parts) < 3 or line.lstrip().startswith("|"):  # a table's row
        return False
    return sum(part.strip().lower() in _BAR_WORDS for part in parts) >= 2 and all(len(part) <= 30 for part in parts)
