"""What a reader would see is kept, markup is not, and malformed markup costs no more time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.samples.html_text import html_to_text

PAGE = """<!DOCTYPE html>
<html><head><title>On stopping</title><style>p { color: red }</style>
<script>if (1 < 2) document.write("<p>not seen</p>");</script></head>
<body><!-- nor <p>this</p> -->
<h1>Why   agents
stop</h1><p>Fish &amp; chips cost &lt; 5&nbsp;&euro;.<br>Second line</p>
<ul><li>one</li><li>two <b>bo</b>ld</li></ul>
<table><tr><td>a</td><td>b</td></tr></table><SCRIPT>again()</SCRIPT>
<template><p>nor that</p></template></body></html>"""


def test_a_page_becomes_its_visible_text() -> None:
    assert html_to_text(PAGE) == (
        "On stopping\n\nWhy agents stop\n\nFish & chips cost < 5 €.\nSecond line\n\n"
        "one\n\ntwo bold\n\na b"
    )


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("before <p>after", "before\n\nafter"),
        ("before <!-- never closed <p>lost", "before"),
        ("before <script> never closed", "before"),
        ("before <p never closed", "before"),
        ("&#" + "9" * 5_000 + ";", "&#" + "9" * 5_000 + ";"),
        ("", ""),
    ],
    ids=["no tag", "open", "comment", "script", "tag", "giant reference", "nothing"],
)
def test_malformed_markup_gives_what_can_be_read(markup: str, text: str) -> None:
    assert html_to_text(markup) == text


@given(st.text(alphabet="<>/!-&#;ascriptple \n\"='"))
def test_any_text_is_taken(markup: str) -> None:
    html_to_text(markup)


@pytest.mark.parametrize(
    "unit", ["<!--", "<a ", "<a x='", "<script>", "</", "<!", "<svg>", "<", "&"]
)
def test_time_grows_with_the_length_and_not_with_its_square(unit: str) -> None:
    """html.parser needs minutes for a tenth of these."""
    started_at = time.process_time()

    html_to_text(unit * (1_000_000 // len(unit)))

    assert time.process_time() - started_at < 10
