"""Values as something to read, and Markdown that can do no harm."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from django.template.loader import render_to_string

from runs.web.pages.values import rendering
from runs.web.pages.values.data_urls import files_in, read_data_url
from runs.web.pages.values.markdown import MAX_CHARACTERS, MarkdownText
from runs.web.pages.values.rendering import as_text, show

BOUND_SECONDS = 10.0  # of computing; several times what it takes, and less than without a bound


def html(text: str) -> str:
    return MarkdownText(text).as_html()


def drawn(value: Any) -> str:
    """Return the whole piece of page that a value becomes."""
    return render_to_string("runs/fragments/value.html", {"shown": show(value), "download": "/d"})


def names_of_attributes(markup: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(name for name, _ in attrs)

    Reader().feed(markup)
    return found


class TestMarkdown:
    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "a <b onmouseover=alert(1)>b</b>",
            "<iframe src='https://example.org'></iframe>",
            "<svg><script>alert(1)</script></svg>",
            "<!-- <img src=x> -->",
            "```<script>\n</script>\n```",
            "# <script>alert(1)</script>",
            "|<img src=x>|\n|-|\n|<script>|",
            "<style>* { display: none }</style>",
        ],
    )
    def test_markup_of_the_texts_own_is_shown_as_text(self, text: str) -> None:
        names = re.findall(r"<\s*/?\s*([a-zA-Z]+)", html(text))
        assert not {name.lower() for name in names} & {
            "script",
            "img",
            "iframe",
            "svg",
            "style",
            "b",
        }
        assert "&lt;" in html(text)

    @pytest.mark.parametrize(
        "address",
        [
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "java&#115;cript:alert(1)",
            "java\tscript:alert(1)",
            "&#x6A;avascript:alert(1)",
            "vbscript:x",
            "data:text/html,<script>alert(1)</script>",
            "data:image/png;base64,AAAA",
            "file:///etc/passwd",
            "/accounts/logout/",
            "//example.org/",
            "?next=x",
            "#tab-input",
            "\x01javascript:alert(1)",
        ],
    )
    def test_only_whole_web_and_mail_addresses_are_links(self, address: str) -> None:
        for text in (f"[x]({address})", f"[x](<{address}>)", f"![x]({address})", f"<{address}>"):
            assert "<a" not in html(text)
            assert "<img" not in html(text)

    @pytest.mark.parametrize("address", ["https://example.org/a?b=c", "mailto:a@example.org"])
    def test_links_open_elsewhere_and_tell_nothing(self, address: str) -> None:
        for text in (f"[x]({address})", f"<{address}>"):
            (link,) = re.findall(r"<a [^>]*>", html(text))
            assert f'href="{address}"' in link
            assert 'target="_blank"' in link
            assert 'rel="noopener noreferrer nofollow"' in link

    def test_an_image_becomes_a_link(self) -> None:
        shown = html("![a cat](https://example.org/cat.png)")
        assert "<img" not in shown
        assert re.search(r'<a href="https://example.org/cat.png"[^>]*>a cat</a>', shown)

    def test_an_address_cannot_leave_its_attribute(self) -> None:
        for text in ('[x](https://e.org/"onclick=alert(1))', '[x](https://e.org "t\\" onclick=a")'):
            assert names_of_attributes(html(text)) == ["href", "target", "rel"]

    def test_a_link_that_is_none_can_be_read(self) -> None:
        assert "[x](javascript:alert(1))" in html("[x](javascript:alert(1))")

    def test_a_list_of_references_is_not_swallowed(self) -> None:
        assert "https://example.org" in html("See [1].\n\n[1]: https://example.org")

    def test_headings_stand_below_those_of_the_page(self) -> None:
        shown = html("# One\n\nTwo\n===\n\n## Three\n\n###### Four")
        assert re.findall(r"<(h\d)>", shown) == ["h3", "h3", "h4", "h6"]

    def test_nothing_brings_a_style(self) -> None:
        shown = html("|a|b|\n|-:|:-:|\n|1|2|")
        assert "style" not in shown
        assert 'align="right"' in shown

    def test_lines_stay_lines(self) -> None:
        assert "<br>" in html("one\ntwo")
        assert "<pre>" not in html("    indented, and no code")

    def test_plain_paragraphs_have_no_markup(self) -> None:
        assert not MarkdownText("One.\nTwo: 3 * 4 < 5 & 6.\n\nThree.").has_markup
        assert MarkdownText("- one").has_markup
        assert MarkdownText("a **b**").has_markup

    @pytest.mark.parametrize(
        "text",
        [
            "[" * MAX_CHARACTERS,
            "![" * (MAX_CHARACTERS // 2),
            "[a](" * (MAX_CHARACTERS // 4),
            "*a **a " * (MAX_CHARACTERS // 7),
            "_" * MAX_CHARACTERS,
            "`" * MAX_CHARACTERS,
            ">" * MAX_CHARACTERS,
            "- " * (MAX_CHARACTERS // 2),
            "".join(f"{' ' * depth}- a\n" for depth in range(280)),
            "<" * MAX_CHARACTERS,
            "[a]" * 330 + "[" * 100 + "]" * 100 + "[" * (MAX_CHARACTERS - 5_000),
            "|a" * 500 + "\n" + "|-" * 500 + "\n" + "|\n" * (MAX_CHARACTERS // 4),
            "\n" * MAX_CHARACTERS,
        ],
        ids=lambda text: repr(text[:8]),
    )
    def test_hostile_texts_take_bounded_time(self, text: str) -> None:
        began = time.thread_time()
        shown = html(text[:MAX_CHARACTERS])
        assert time.thread_time() - began < BOUND_SECONDS
        assert len(shown) < 100 * MAX_CHARACTERS


class TestShow:
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ("plain", "text"),
            ("# Heading", "prose"),
            ("", "text"),
            ("  \n ", "text"),
            (3, "plain"),
            (0.5, "plain"),
            (True, "plain"),
            (None, "plain"),
            ([], "plain"),
            ({}, "plain"),
            ([1, 2], "json"),
            ([{"a": 1}, {"a": 2, "b": None}], "table"),
            ([{"a": [1]}], "json"),
            ([{}], "json"),
            ({"a": 1, "b": "x"}, "facts"),
            ({"a": {"b": 1}}, "json"),
            ({"a": list(range(100))}, "tree"),
        ],
    )
    def test_each_kind_of_value_has_its_form(self, value: Any, kind: str) -> None:
        assert show(value).kind == kind

    def test_a_table_has_a_column_for_every_name_in_any_row(self) -> None:
        table = show([{"a": 1}, {"b": None, "a": "x"}]).table
        assert table is not None
        assert table.columns == ["a", "b"]
        assert table.rows == [["1", ""], ["x", "null"]]

    def test_a_long_table_is_cut_and_says_so(self) -> None:
        shown = show([{"n": n} for n in range(rendering.MAX_ROWS + 3)])
        assert shown.table is not None
        assert len(shown.table.rows) == rendering.MAX_ROWS
        assert shown.table.more == "3 more rows"

    def test_a_long_text_is_cut_between_paragraphs(self) -> None:
        text = "**para** graph\n\n" * 5_000
        shown = show(text)
        assert (shown.kind, shown.is_cut) == ("prose", True)
        assert str(shown.html).endswith("graph</p>\n")

    def test_a_long_text_without_markup_is_shown_as_it_is(self) -> None:
        shown = show("word " * 100_000)
        assert (shown.kind, shown.is_cut) == ("text", True)
        assert len(shown.raw) == rendering.MAX_RAW
        assert "only the beginning" in drawn("word " * 100_000)

    def test_megabytes_take_bounded_time_and_space(self) -> None:
        values = [
            "x" * 8_000_000,
            " " * 8_000_000,
            ["item"] * 500_000,
            {f"key {n}": {"n": n} for n in range(100_000)},
            [{"n": n, "text": "y" * 20} for n in range(100_000)],
            {"k" * 1_000_000: "v" * 1_000_000},
        ]
        began = time.thread_time()
        for value in values:
            assert len(drawn(value)) < 1_500_000
        assert time.thread_time() - began < BOUND_SECONDS

    def test_deep_nesting_is_drawn(self) -> None:
        value: Any = "at the bottom"
        for _ in range(100):
            value = {"below": value, "beside": list(range(3))}
        assert "below" in drawn(value)

    def test_a_tree_that_is_too_large_says_what_is_left_out(self) -> None:
        shown = show({"many": list(range(5_000))})
        assert shown.tree[0].below[-1].name == "…"
        assert shown.tree[0].below[-1].value == "4001 more"

    def test_texts_and_numbers_can_be_told_apart_in_a_tree(self) -> None:
        shown = show({"a": ["1", 1, None] * 30})
        assert [branch.value for branch in shown.tree[0].below[:3]] == ['"1"', "1", "null"]

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda text: text,
            lambda text: [text],
            lambda text: {text: text},
            lambda text: [{text: text}],
            lambda text: {text: [{text: [text]}] * 30},
        ],
    )
    def test_hostile_text_is_text_wherever_it_stands(self, wrap: Any) -> None:
        page = drawn(wrap("</pre><script>alert(1)</script><img src=x onerror=alert(1)>"))
        assert "<script" not in page
        assert "<img" not in page
        assert "&lt;script" in page

    def test_raw_is_the_text_itself_or_pretty_json(self) -> None:
        assert show("a *b*").raw == "a *b*"
        assert json.loads(show({"a": [1, "ä"]}).raw) == {"a": [1, "ä"]}
        assert as_text(["ä"]) == '[\n  "ä"\n]'


class TestDataUrls:
    def test_a_pdf_is_known_by_its_kind_size_and_name(self) -> None:
        file = read_data_url("data:application/pdf;name=My%20file.pdf;base64,JVBERg==")
        assert file is not None
        assert (file.kind, file.size_bytes, file.name) == ("PDF", 4, "My file.pdf")
        assert file.content() == b"%PDF"
        assert file.safe_type == "application/pdf"

    def test_what_is_not_base64_is_unquoted(self) -> None:
        file = read_data_url("data:,a%20b")
        assert file is not None
        assert (file.kind, file.size_bytes, file.content()) == ("Text", 3, b"a b")

    @pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/xhtml+xml"])
    def test_what_could_be_a_page_is_not_sent_as_one(self, kind: str) -> None:
        file = read_data_url(f"data:{kind},<script>")
        assert file is not None
        assert file.safe_type == "application/octet-stream"
        assert file.extension == "bin"

    @pytest.mark.parametrize("text", ["", "data", "data:no comma", "see data:,x", "https://e.org"])
    def test_other_texts_are_no_files(self, text: str) -> None:
        assert read_data_url(text) is None

    def test_files_are_found_with_their_paths(self) -> None:
        found = files_in({"documents": ["x", "data:,a"], "one": {"two": "data:,b"}})
        assert [(path, file.content()) for path, file in found] == [
            ("input.documents.1", b"a"),
            ("input.one.two", b"b"),
        ]

    def test_a_hostile_head_takes_no_time(self) -> None:
        began = time.thread_time()
        assert read_data_url("data:" + ";a=b" * 2_000_000) is None
        assert read_data_url("data:a/" + "a" * 8_000_000) is None
        assert time.thread_time() - began < 2
