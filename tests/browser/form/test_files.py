"""Files."""

from __future__ import annotations

import base64
import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.support.form_page import (
    _UUID,
    FORM,
    REQUIRED,
    SHOWN,
    add_to,
    error_of,
    field,
    fill_what_is_required,
    messages,
    run_button,
    sent,
)
from tests.support.pdfs import make_pdf
from tests.support.server import Server

PDF = {"name": "report.pdf", "mimeType": "application/pdf", "buffer": make_pdf("Hello")}
PDF_URL = "data:application/pdf;base64," + base64.b64encode(PDF["buffer"]).decode()
TEXT = {"name": "notes.md", "mimeType": "", "buffer": "# Grüße\r\nhello".encode()}


def _drop(page: Page, path: str, *files: dict[str, Any]) -> None:
    """Drop files on a field, as a person would from a folder."""
    transfer = page.evaluate_handle(
        """(files) => {
          const transfer = new DataTransfer();
          for (const { name, mimeType, base64 } of files) {
            const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: mimeType }));
          }
          return transfer;
        }""",
        [
            {**one, "buffer": None, "base64": base64.b64encode(one["buffer"]).decode()}
            for one in files
        ],
    )
    for event in ("dragover", "drop"):
        field(page, path).dispatch_event(event, {"dataTransfer": transfer})


def test_a_pdf_reaches_the_agent_as_a_data_url(page: Page, server: Server) -> None:
    page.goto("/app/agents/summarise/")
    page.set_input_files("input[type=file]", files=[PDF])
    expect(page.locator(".file")).to_have_text(re.compile(r"report\.pdf · \d+ (bytes|kB)"))
    expect(field(page, "document")).to_be_hidden()
    assert sent(page, server) == {"document": PDF_URL, "words": 200}


def test_a_file_that_was_removed_is_not_sent(page: Page, server: Server) -> None:
    page.goto("/app/agents/summarise/")
    field(page, "document").fill("typed before")
    page.set_input_files("input[type=file]", files=[PDF])
    page.get_by_role("button", name="Remove report.pdf").click()
    expect(field(page, "document")).to_be_focused()
    assert sent(page, server)["document"] == "typed before"


def test_a_text_file_is_read_into_the_text_area(page: Page, server: Server) -> None:
    page.goto("/app/agents/summarise/")
    _drop(page, "document", TEXT)
    expect(field(page, "document")).to_have_value("# Grüße\nhello")
    assert sent(page, server)["document"] == "# Grüße\nhello"


def test_a_file_of_another_kind_is_refused_at_its_field(page: Page) -> None:
    page.goto("/app/agents/summarise/")
    _drop(page, "document", {"name": "cat.png", "mimeType": "image/png", "buffer": b"\x89PNG"})
    expect(field(page, "document")).to_have_attribute("aria-invalid", "true")
    expect(error_of(page, "document")).to_contain_text("cat.png is not of a kind that is read here")
    field(page, "document").fill("text")
    expect(field(page, "document")).not_to_have_attribute("aria-invalid", "true")


def test_a_file_that_is_too_large_is_refused_at_once(page: Page) -> None:
    page.goto("/app/agents/summarise/")
    page.set_input_files("input[type=file]", files=[{**PDF, "buffer": b"%PDF-" + b"x" * 7_000_000}])
    expect(field(page, "document")).to_have_attribute("aria-invalid", "true")
    expect(error_of(page, "document")).to_contain_text("report.pdf has 6.7 MB.")
    expect(page.locator(".file")).to_have_count(0)


def test_several_files_become_a_row_each(page: Page, server: Server) -> None:
    page.goto("/app/agents/compare/")
    page.locator("fieldset[data-path=documents] > .buttons input[type=file]").set_input_files(
        [PDF, TEXT, {**PDF, "name": "third.pdf"}]
    )
    expect(page.locator(".row")).to_have_count(3)
    expect(page.locator(".file")).to_have_count(2)
    assert sent(page, server)["documents"] == [PDF_URL, "# Grüße\nhello", PDF_URL]


def test_a_file_that_misses_its_field_does_not_replace_the_page(page: Page) -> None:
    page.goto("/app/agents/summarise/")
    stays = page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File(["x"], "x.txt"));
          const options = { dataTransfer: transfer, cancelable: true, bubbles: true };
          const event = new DragEvent("drop", options);
          return !document.querySelector("h1").dispatchEvent(event);
        }"""
    )
    assert stays


# Begun from something.


def test_a_form_filled_from_a_run_sends_the_same_again(page: Page, server: Server) -> None:
    whole = {
        **REQUIRED,
        **SHOWN,
        "text": "</script><b>bold</b>\nsecond line",
        "maybe_number": 0,
        "answer": False,
        "country": "at",
        "colours": ["red", "blue"],
        "words": ["a", "b"],
        "people": [REQUIRED["person"]],
        "helper": REQUIRED["person"],
        "pet": {"kind": "cat", "lives": 3},
        "either": "text",
        "tree": {"name": "root", "children": [{"name": "leaf", "children": []}]},
        "weights": {"a.b": 1.5},
        "pair": [2, "two"],
        "day": "2024-05-06",
        "instant": "2024-05-06T14:03:22.123456Z",
        "time": "14:03:22",
        "pause": "P1D",
        "homepage": "https://example.org/",
        "id": _UUID,
        "secret": "s",
        "anything": {"b": 1},
        "document": PDF_URL,
    }
    id = server.start("site-form", **whole)
    page.goto(f"{FORM}?from={id}")
    expect(page.locator("#form-notice")).to_contain_text("Filled in as for")
    expect(page.locator(".file")).to_contain_text("PDF file ·")
    assert sent(page, server) == whole


def test_a_run_that_is_not_there_leaves_the_form_as_it_is(page: Page) -> None:
    page.goto(f"/app/agents/site-trivial/?from={_UUID}")
    expect(page.locator("#form-notice")).to_contain_text("The form starts with its defaults.")
    expect(field(page, "number")).to_have_value("0")


def test_what_was_typed_outlives_a_reload(page: Page, server: Server) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    add_to(page, "Words")
    field(page, "words[0]").fill("one")
    field(page, "secret").fill("open sesame")
    page.set_input_files("input[type=file]", files=[PDF])
    expect(page.locator(".file")).to_be_visible()
    page.reload()
    expect(page.locator(".form-notices")).to_contain_text("What you had typed is still here.")
    expect(page.locator(".form-notices")).to_contain_text("Files have to be chosen again.")
    expect(field(page, "words[0]")).to_have_value("one")
    expect(field(page, "secret")).to_have_value("")
    assert "sesame" not in page.evaluate("JSON.stringify(sessionStorage)")
    assert sent(page, server) == {**REQUIRED, **SHOWN, "words": ["one"]}
    page.goto(FORM)
    expect(page.locator(".form-notices")).to_be_empty()
    expect(field(page, "text")).to_have_value("")


# By keyboard, by ear, on a phone.


def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    for _ in range(20):
        page.keyboard.press(key)
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"{wanted} is not reached with {key}")


def test_a_run_is_started_by_keyboard_alone(page: Page, server: Server) -> None:
    page.goto("/app/agents/compare/")
    run_button(page).focus()
    tab_to(page, field(page, "documents[0]"))
    page.keyboard.type("first")
    tab_to(page, page.get_by_role("button", name="Move Documents 1 down"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Move Documents 2 up")).to_be_focused()
    tab_to(page, field(page, "documents[0]"), "Shift+Tab")
    page.keyboard.type("second")
    tab_to(page, field(page, "words"))
    page.keyboard.press("Control+a")
    page.keyboard.type("50")
    page.keyboard.press("Enter")
    page.wait_for_url("**/app/runs/*/")
    run = server.run(page.url.split("/")[-2])
    assert run["input"] == {"documents": ["second", "first"], "words": 50}


def test_control_and_enter_run_from_a_text_area(page: Page, server: Server) -> None:
    page.goto("/app/agents/count_words/")
    field(page, "text").focus()
    page.keyboard.type("one two")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/app/runs/*/")
    assert server.run(page.url.split("/")[-2])["input"] == {"text": "one two", "top": 20}


def test_fields_are_named_and_described_for_those_who_listen(page: Page) -> None:
    page.goto(FORM)
    expect(field(page, "whole")).to_have_accessible_name("Whole")
    expect(field(page, "text")).to_have_accessible_description("One line of text.")
    expect(field(page, "text")).to_have_attribute("aria-required", "true")
    expect(page.get_by_role("group", name="Person")).to_be_visible()
    expect(page.get_by_role("radiogroup", name="Colour")).to_be_visible()
    add_to(page, "Words")
    expect(field(page, "words[0]")).to_have_accessible_name("Words 1")
    expect(field(page, "words[0]")).to_be_focused()
    page.get_by_role("button", name="Remove Words 1").click()
    expect(page.get_by_role("button", name="Add to Words")).to_be_focused()


def test_on_a_phone_run_and_stop_stay_at_the_bottom_edge(phone: Page) -> None:
    phone.goto(FORM)
    for position in (0, 600, 10_000):
        phone.evaluate("(y) => scrollTo(0, y)", position)
        for name in ("Run", "Stop"):
            expect(phone.get_by_role("button", name=name, exact=True)).to_be_in_viewport(ratio=1)
    width = phone.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "nothing makes the page scroll sideways"


def test_run_and_stop_stay_within_reach_on_a_desktop(page: Page) -> None:
    page.goto(FORM)
    page.evaluate("scrollTo(0, 1500)")
    expect(run_button(page)).to_be_in_viewport(ratio=1)


def test_what_is_too_large_is_not_even_sent(page: Page, server: Server) -> None:
    page.goto("/app/agents/compare/")
    large = {**PDF, "buffer": b"%PDF-" + b"x" * 4_000_000}
    page.set_input_files("fieldset > .buttons input[type=file]", files=[large, large])
    expect(page.locator(".file")).to_have_count(2)
    run_button(page).click()
    expect(messages(page)).to_contain_text("a run's input may have 8 MB")
    assert page.url.endswith("/app/agents/compare/")
