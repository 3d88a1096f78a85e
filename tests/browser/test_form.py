"""The form on an agent's page: whatever is typed arrives as the JSON that the schema asks for."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Complaints
from tests.support.pdfs import make_pdf
from tests.support.server import Server

FORM = "/app/agents/site-form/"
REQUIRED = {
    "text": "hello",
    "person": {"name": "Ann", "email": "ann@example.org", "is_member": True},
    "colour": "green",
}
#: What a form that nobody touches sends of its own: the defaults that it shows.
SHOWN = {
    "long_text": "",
    "word": "abc",
    "whole": 200,
    "share": 0.5,
    "is_loud": False,
    "level": "middle",
    "colours": [],
    "words": [],
    "people": [],
    "either": 3,
    "weights": {},
    "pair": [1, "one"],
    "document": "",
}
_UUID = "0198c0de-0000-7000-8000-000000000001"
OpenPage = Callable[..., Page]


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """An empty page that leads to runs, but shows nothing of them: they are others' business."""
    page = open_page()
    page.route("**/app/runs/*/", lambda route: route.fulfill(content_type="text/html", body=""))
    return page


def field(page: Page, path: str) -> Locator:
    return page.locator(f'[data-path="{path}"]')


def error_of(page: Page, path: str) -> Locator:
    """The message beside a field, by what the field itself says describes it."""
    described = field(page, path).get_attribute("aria-describedby") or ""
    assert described, f"nothing describes {path}"
    return page.locator(f"#{described.split()[-1]}")


def choose(page: Page, path: str, words: str) -> None:
    field(page, path).get_by_role("radio", name=words, exact=True).check()


def tick(page: Page, label: str) -> None:
    page.get_by_role("checkbox", name=label, exact=True).check()


def add_to(page: Page, label: str) -> None:
    page.get_by_role("button", name=f"Add to {label}", exact=True).click()


def messages(page: Page) -> Locator:
    """What concerns more than one field."""
    return page.locator("#form-messages")


def run_button(page: Page) -> Locator:
    return page.locator("#run")


def fill_what_is_required(page: Page) -> None:
    field(page, "text").fill("hello")
    field(page, "person.name").fill("Ann")
    field(page, "person.email").fill("ann@example.org")
    choose(page, "colour", "green")


def sent(page: Page, server: Server) -> dict[str, Any]:
    """Press Run, and return the input that the server has got."""
    run_button(page).click()
    page.wait_for_url("**/app/runs/*/")
    return dict(server.run(page.url.split("/")[-2])["input"])


def runs_of(server: Server, agent: str) -> list[dict[str, Any]]:
    return list(server.client.get("/runs", params={"agent": agent}).json()["results"])


# Each kind of field becomes the right JSON.


def test_what_nobody_touched_goes_as_it_is_shown(page: Page, server: Server) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    assert sent(page, server) == REQUIRED | SHOWN


def _plain_fields(page: Page) -> dict[str, Any]:
    field(page, "long_text").fill("one\ntwo")
    field(page, "word").fill("")
    field(page, "word").fill("xyz")
    field(page, "whole").fill(" 17 ")
    field(page, "share").fill(".25")
    field(page, "maybe_number").fill("-4")
    tick(page, "Is Loud")
    field(page, "answer").select_option("No")
    choose(page, "level", "high")
    field(page, "country").select_option("ch")
    field(page, "anything").fill('{"a": [1, null]}')
    return {
        "long_text": "one\ntwo",
        "word": "xyz",
        "whole": 17,
        "share": 0.25,
        "maybe_number": -4,
        "is_loud": True,
        "answer": False,
        "level": "high",
        "country": "ch",
        "anything": {"a": [1, None]},
    }


def _formats(page: Page) -> dict[str, Any]:
    field(page, "day").fill("2024-05-06")
    field(page, "instant").fill("2024-05-06T14:03")
    field(page, "time").fill("14:03")
    field(page, "pause").fill("PT1H30M")
    field(page, "homepage").fill("https://example.org/a?b=c")
    field(page, "id").fill(_UUID)
    field(page, "secret").fill("open sesame")
    assert field(page, "secret").get_attribute("type") == "password"
    return {
        "day": "2024-05-06",
        "instant": "2024-05-06T14:03+05:30",
        "time": "14:03",
        "pause": "PT1H30M",
        "homepage": "https://example.org/a?b=c",
        "id": _UUID,
        "secret": "open sesame",
    }


def _lists(page: Page) -> dict[str, Any]:
    for index, word in enumerate(("one", "two", "three")):
        add_to(page, "Words")
        field(page, f"words[{index}]").fill(word)
    expect(page.get_by_role("button", name="Add to Words")).to_be_disabled()
    page.get_by_role("button", name="Move Words 3 up").click()
    page.get_by_role("button", name="Remove Words 1").click()
    for colour in ("blue", "red"):
        field(page, "colours").get_by_role("checkbox", name=colour).check()
    add_to(page, "People")
    field(page, "people[0].name").fill("Bob")
    field(page, "people[0].email").fill("bob@example.org")
    return {
        "words": ["three", "two"],
        "colours": ["red", "blue"],
        "people": [{"name": "Bob", "email": "bob@example.org", "is_member": True}],
    }


def _groups(page: Page) -> dict[str, Any]:
    tick(page, "Helper")
    field(page, "helper.name").fill("Eve")
    field(page, "helper.email").fill("eve@example.org")
    field(page, "pet").select_option("Dog")
    add_to(page, "Tricks")
    field(page, "pet.tricks[0]").fill("sit")
    field(page, "pair[1]").fill("two")
    add_to(page, "Weights")
    page.get_by_label("Weights 1, name").fill("__proto__")
    field(page, "weights.__proto__").fill("1.5")
    return {
        "helper": {"name": "Eve", "email": "eve@example.org", "is_member": True},
        "pet": {"kind": "dog", "tricks": ["sit"]},
        "pair": [1, "two"],
        "weights": {"__proto__": 1.5},
    }


def _recursion(page: Page) -> dict[str, Any]:
    tick(page, "Tree")
    field(page, "tree.name").fill("root")
    field(page, "tree").get_by_role("button", name="Add to Children").click()
    field(page, "tree.children[0].name").fill("leaf")
    field(page, "tree").get_by_role("checkbox", name="Best").last.check()
    field(page, "tree.best.name").fill("best")
    leaf = {"name": "leaf", "children": []}
    return {"tree": {"name": "root", "children": [leaf], "best": {"name": "best", "children": []}}}


def _another_shape(page: Page) -> dict[str, Any]:
    shape = page.get_by_label("Either", exact=True)
    shape.select_option("Text")
    field(page, "either").fill("words")
    shape.select_option("List")
    add_to(page, "Either: List")
    field(page, "either[0]").fill("7")
    return {"either": [7]}


@pytest.mark.parametrize(
    "fill", [_plain_fields, _formats, _lists, _groups, _recursion, _another_shape]
)
def test_each_kind_of_field_arrives_as_its_json(
    page: Page, server: Server, fill: Callable[[Page], dict[str, Any]]
) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    expected = REQUIRED | SHOWN | fill(page)
    assert sent(page, server) == expected


def test_an_agent_without_parameters_has_only_run(page: Page, server: Server) -> None:
    page.goto("/app/agents/site-loop/")
    expect(page.locator("#agent-form")).to_contain_text("There is nothing to fill in.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    assert sent(page, server) == {}


# What is wrong is said beside its field.


#: path, what is typed, what is said about it
WRONG = [
    ("text", "", "Please fill this in."),
    ("person.name", "A", "At least 2 characters, please."),
    ("person.email", "ann", "An e-mail address is expected"),
    ("word", "lovely", "At most 5 characters, please; these are 6."),
    ("word", "A1", "This must match ^[a-z]+$"),
    ("whole", "0", "Between 1 and 5000, please."),
    ("whole", "1.5", "A whole number is expected."),
    ("whole", "many", "A whole number is expected."),
    ("share", "1", "Less than 1, please."),
    ("share", "0.33", "A multiple of 0.05, please."),
    ("share", "0,5", "A number is expected, such as 1.5."),
    ("maybe_number", "9007199254740993", "too large to be sent exactly"),
    ("pause", "soon", "A duration is expected"),
    ("homepage", "example", "An address is expected"),
    ("id", "1234", "A UUID is expected."),
    ("anything", "{", "This is not JSON."),
]


def test_the_browser_finds_what_the_server_would_refuse(page: Page, server: Server) -> None:
    page.goto(FORM)
    fill_what_is_required(page)
    for path, value, message in WRONG:
        before = field(page, path).input_value()
        field(page, path).fill(value)
        run_button(page).click()
        expect(field(page, path)).to_have_attribute("aria-invalid", "true")
        expect(error_of(page, path)).to_contain_text(message)
        expect(field(page, path)).to_be_focused()
        expect(run_button(page)).to_be_enabled()
        field(page, path).fill(before)
        expect(field(page, path)).not_to_have_attribute("aria-invalid", "true")
    assert sent(page, server) == REQUIRED | SHOWN  # not before


def test_several_errors_are_listed_and_vanish_as_they_are_mended(page: Page) -> None:
    page.goto(FORM)
    run_button(page).click()
    summary = page.locator(".form-summary")
    expect(summary).to_contain_text("4 fields need another look")
    expect(field(page, "text")).to_be_focused()
    summary.get_by_role("button", name="Person: Email").click()
    expect(field(page, "person.email")).to_be_focused()
    field(page, "person.email").fill("ann@example")
    expect(error_of(page, "person.email")).to_contain_text("An e-mail address is expected")
    field(page, "person.email").fill("ann@example.org")
    expect(field(page, "person.email")).not_to_have_attribute("aria-invalid", "true")
    expect(summary).to_contain_text("3 fields need another look")
    field(page, "text").fill("hello")
    field(page, "person.name").fill("Ann")
    expect(summary).to_be_hidden()  # one is left, and is told where it is
    expect(field(page, "colour")).to_have_attribute("aria-invalid", "true")


def test_nothing_is_said_before_the_first_attempt(page: Page) -> None:
    page.goto(FORM)
    field(page, "whole").fill("0")
    field(page, "text").focus()
    expect(page.locator(".field-error:visible")).to_have_count(0)


def _answer_once(page: Page, status: int, body: dict[str, Any]) -> None:
    page.route("**/runs", lambda route: route.fulfill(status=status, json=body), times=1)


def test_what_only_the_server_finds_is_shown_at_its_field(
    page: Page, complaints: Complaints, server: Server
) -> None:
    complaints.expect("status 400", "status of 400")
    page.goto(FORM)
    fill_what_is_required(page)
    add_to(page, "Words")
    field(page, "words[0]").fill("one")
    fields = {
        "input.words.0": ["Not this word."],
        "input.person.name": ["Nobody of that name."],
        "input": ["And the whole is too sad."],
    }
    _answer_once(page, 400, {"code": "invalid_input", "detail": "No.", "fields": fields})
    run_button(page).click()
    expect(field(page, "words[0]")).to_have_attribute("aria-invalid", "true")
    expect(error_of(page, "words[0]")).to_have_text("Not this word.")
    expect(error_of(page, "person.name")).to_have_text("Nobody of that name.")
    expect(field(page, "person.name")).to_be_focused()
    expect(messages(page)).to_contain_text("And the whole is too sad.")
    expect(messages(page)).to_contain_text("2 fields need another look")
    field(page, "person.name").fill("Anna")
    expect(field(page, "person.name")).not_to_have_attribute("aria-invalid", "true")
    expect(error_of(page, "words[0]")).to_have_text("Not this word.")
    field(page, "words[0]").fill("two")
    assert sent(page, server)["words"] == ["two"]


def test_the_servers_own_check_reaches_the_field(
    page: Page, complaints: Complaints, server: Server
) -> None:
    complaints.expect("status 400", "status of 400")
    page.goto(FORM)
    fill_what_is_required(page)
    # Valid by the form's own rules, not by pydantic's.
    field(page, "person.email").fill("ann@example.org")
    field(page, "homepage").fill("mailto:ann@example.org")
    run_button(page).click()
    expect(field(page, "homepage")).to_have_attribute("aria-invalid", "true")
    expect(error_of(page, "homepage")).to_contain_text("URL scheme should be")


# When it can't be started.


def _fill_trivial(page: Page) -> None:
    page.goto("/app/agents/site-trivial/")
    field(page, "number").fill("5")


def test_without_a_connection_nothing_is_lost(
    page: Page, complaints: Complaints, server: Server
) -> None:
    complaints.expect("ERR_INTERNET_DISCONNECTED", "WebSocket")
    _fill_trivial(page)
    page.context.set_offline(True)
    run_button(page).click()
    expect(messages(page)).to_contain_text("The server can't be reached.")
    expect(run_button(page)).to_be_enabled()
    page.context.set_offline(False)
    assert sent(page, server) == {"number": 5}


def test_a_lost_answer_leads_to_the_run_that_was_started(
    page: Page, complaints: Complaints, server: Server
) -> None:
    complaints.expect("ERR_FAILED")
    _fill_trivial(page)
    before = len(runs_of(server, "site-trivial"))

    def lose_the_answer(route: Any) -> None:
        route.fetch()
        route.abort()

    page.route("**/runs", lose_the_answer, times=1)
    run_button(page).click()
    expect(messages(page)).to_contain_text("it is not started twice")
    assert sent(page, server) == {"number": 5}
    assert len(runs_of(server, "site-trivial")) == before + 1


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "not_authenticated", "You are signed out, so nothing was started."),
        (403, "permission_denied", "You may not do this. Nothing was started."),
        (403, "csrf_failed", "Reload it, then press Run again."),
        (413, "input_too_large", "This is too much: a run's input may have 8 MB."),
        (429, "throttled", "You may not do this. Nothing was started."),
        (500, "server_error", "Perhaps the run was started all the same."),
        (503, "unavailable", "You may not do this. Nothing was started."),
    ],
)
def test_a_refusal_says_what_happened_and_keeps_what_was_typed(
    page: Page, complaints: Complaints, status: int, code: str, words: str
) -> None:
    complaints.expect(f"status {status}", f"status of {status}")
    _fill_trivial(page)
    _answer_once(page, status, {"code": code, "detail": "You may not do this."})
    run_button(page).click()
    expect(messages(page)).to_contain_text(words)
    expect(page.locator("#form-messages .notice")).to_be_focused()
    expect(run_button(page)).to_be_enabled()
    expect(run_button(page)).to_have_text("Run")
    expect(field(page, "number")).to_have_value("5")


def test_signed_out_meanwhile_one_signs_in_elsewhere_and_goes_on(
    page: Page, complaints: Complaints, server: Server
) -> None:
    complaints.expect("status 40[13]", "status of 40[13]", "WebSocket")
    # A session of its own: the shared one must stay signed in.
    page.context.clear_cookies()
    _sign_in(page)
    _fill_trivial(page)
    page.context.clear_cookies(name="sessionid")
    run_button(page).click()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Sign in in another tab").click()
    _sign_in(opened.value)
    assert sent(page, server) == {"number": 5}


def _sign_in(page: Page) -> None:
    page.goto("/accounts/login/")
    page.locator("[name=username]").fill("demo")
    page.locator("[name=password]").fill("demo")
    page.locator("[name=password]").press("Enter")
    page.wait_for_url("**/app/**")


def test_what_is_too_large_is_not_even_sent(page: Page, server: Server) -> None:
    page.goto("/app/agents/compare/")
    large = {**PDF, "buffer": b"%PDF-" + b"x" * 4_000_000}
    page.set_input_files("fieldset > .buttons input[type=file]", files=[large, large])
    expect(page.locator(".file")).to_have_count(2)
    run_button(page).click()
    expect(messages(page)).to_contain_text("a run's input may have 8 MB")
    assert page.url.endswith("/app/agents/compare/")


# Once is once.


def test_a_double_click_starts_one_run(page: Page, server: Server) -> None:
    before = len(runs_of(server, "site-trivial"))
    _fill_trivial(page)
    run_button(page).dblclick()
    page.wait_for_url("**/app/runs/*/")
    assert len(runs_of(server, "site-trivial")) == before + 1


def test_while_it_starts_the_button_says_so(page: Page, server: Server) -> None:
    _fill_trivial(page)
    waiting: list[Any] = []
    page.route("**/runs", lambda route: waiting.append(route), times=1)
    run_button(page).click()
    expect(run_button(page)).to_have_text("Starting...")
    expect(run_button(page)).to_be_disabled()
    waiting[0].continue_()
    page.wait_for_url("**/app/runs/*/")


def test_back_on_the_form_the_same_input_starts_another_run(page: Page, server: Server) -> None:
    before = len(runs_of(server, "site-trivial"))
    _fill_trivial(page)
    sent(page, server)
    page.go_back()
    field(page, "number").fill("5")
    sent(page, server)
    assert len(runs_of(server, "site-trivial")) == before + 2


# Files.

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


def test_a_form_begun_from_a_run_sends_the_same_again(page: Page, server: Server) -> None:
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
    expect(page.locator("#form-notice")).to_contain_text("The form begins afresh.")
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


def test_one_may_start_afresh_after_a_reload(page: Page) -> None:
    _fill_trivial(page)
    page.reload()
    page.get_by_role("button", name="Start afresh").click()
    expect(field(page, "number")).to_have_value("0")
    page.reload()
    expect(page.locator(".form-notices")).to_be_empty()


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
