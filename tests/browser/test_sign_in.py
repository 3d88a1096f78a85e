"""Who comes in, who does not, and what there is when there is nothing."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Installation, Server

OpenPage = Callable[..., Page]


def test_the_first_page_greets_whoever_is_signed_in(page: Page) -> None:
    page.goto("/app/")
    expect(page.locator("#main")).to_be_visible()
    expect(page.locator("#user-menu summary")).to_contain_text("demo")


def test_a_wrong_password_is_said_beside_the_form(open_page: OpenPage) -> None:
    page = open_page(None)
    page.goto("/accounts/login/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text(re.compile("password", re.I)).first).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text(re.compile("match|correct|wrong", re.I))
    expect(page.get_by_label("Username")).to_have_value("demo")


def test_signing_in_leads_to_the_page_that_was_asked_for(
    open_page: OpenPage, server: Server
) -> None:
    id = server.start("site-trivial")
    page = open_page(None)
    page.goto(f"/app/runs/{id}/")
    page.get_by_label("Username").fill("demo")
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"**/app/runs/{id}/")


def test_nothing_has_run_yet_says_what_to_do(
    open_page: OpenPage, installation: Installation
) -> None:
    made = "User.objects.create_user('newcomer', password='newcomer')"
    installation.manage("shell", "-c", f"from django.contrib.auth.models import User; {made}")
    page = open_page("newcomer")
    page.goto("/app/runs/")
    expect(page.locator("#runs [data-run]")).to_have_count(0)
    expect(page.locator("main")).to_contain_text(re.compile("agent|filter", re.I))


@pytest.mark.parametrize("address", [f"/app/runs/{uuid.UUID(int=7)}/", "/app/agents/nobody/"])
def test_what_is_not_there_is_said_with_a_way_back(
    page: Page, complaints: Complaints, address: str
) -> None:
    complaints.expect(rf"status 404: GET .*{address}", rf"status of 404.*{address}")
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.locator("main").get_by_role("link").first.click()
    expect(page.locator("main#main")).to_be_visible()
    assert page.url.endswith(("/app/", "/app/runs/"))


def test_a_run_of_somebody_else_does_not_exist(
    page: Page, server: Server, complaints: Complaints, installation: Installation
) -> None:
    id = server.start("site-trivial")
    server.until(id, "success")
    screen = RunScreen.of(page, id)
    expect(screen.lines.first).to_be_visible()  # they come by its feed, which is let in by then

    installation.database.execute(
        "UPDATE runs_runrecord SET owner_id = (SELECT id FROM auth_user WHERE username = 'admin')"
        " WHERE id = %s",
        uuid.UUID(id),
    )
    complaints.expect(rf"status 404: GET .*{id}", rf"status of 404.*{id}")
    page.goto(f"/app/runs/{id}/")
    expect(page.locator(f"main[data-run='{id}']")).to_have_count(0)
    expect(page.locator("main")).not_to_contain_text("site-trivial")


def test_the_list_shows_runs_as_they_come_and_go(
    page: Page, model: LLMServer, server: Server
) -> None:
    page.goto("/app/runs/")
    model.hold()
    id = server.start("site-talk", document="x", parts=1)
    row = page.locator(f"#runs [data-run='{id}']")
    expect(row).to_have_attribute("data-status", "running")
    server.client.post(f"/runs/{id}/stop")
    expect(row).to_have_attribute("data-status", "stopping")
    model.release()
    expect(row).to_have_attribute("data-status", re.compile("stopped|success"))
