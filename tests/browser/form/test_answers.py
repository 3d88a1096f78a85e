"""Answers of the server."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.form_page import (
    FORM,
    add_to,
    error_of,
    field,
    fill_what_is_required,
    messages,
    run_button,
    runs_of,
    sent,
)
from tests.support.server import Server


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


def test_one_may_start_afresh_after_a_reload(page: Page) -> None:
    _fill_trivial(page)
    page.reload()
    page.get_by_role("button", name="Start afresh").click()
    expect(field(page, "number")).to_have_value("0")
    page.reload()
    expect(page.locator(".form-notices")).to_be_empty()
