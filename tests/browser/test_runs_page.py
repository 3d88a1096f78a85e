"""The list of runs, as it is watched and used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import APIResponse, Locator, Page, Route, WebSocketRoute, expect

from tests.support.browser import Complaints
from tests.support.llm_server import LLMServer
from tests.support.server import Server, eventually

OpenPage = Callable[..., Page]


def row(page: Page, id: str) -> Locator:
    return page.locator(f'#runs tr[data-run="{id}"]')


def test_a_run_appears_on_top_is_stopped_and_stays_where_it_is(page: Page, server: Server) -> None:
    before = server.start("site-trivial")
    server.until(before, "success")
    page.goto("/app/runs/")
    link = row(page, before).get_by_role("link").first
    link.focus()

    id = server.start("site-loop")
    expect(page.locator("#runs tbody tr").first).to_have_attribute("data-run", id)
    expect(row(page, id)).to_have_attribute("data-status", "running")
    expect(link).to_be_focused()
    expect(row(page, id).locator(".runs-duration")).to_have_text(re.compile(r"^[2-9] s$"))

    row(page, id).get_by_role("button", name="Stop").click()
    expect(row(page, id)).to_have_attribute("data-status", "stopped")
    expect(row(page, id).locator(".chip")).to_have_text("Stopped")
    expect(row(page, id).get_by_role("button")).to_have_count(0)
    expect(page.locator("#runs tbody tr").first).to_have_attribute("data-run", id)
    assert server.run(id)["stop"]["via"] == "page"


def test_stop_says_that_it_waits_until_the_run_has_halted(
    page: Page, server: Server, model: LLMServer
) -> None:
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    model.wait_for_requests(1)
    page.goto("/app/runs/")
    stop = row(page, id).get_by_role("button")
    stop.click()
    expect(stop).to_have_text(re.compile(r"Stopping\.\.\."))
    expect(stop).to_be_disabled()
    page.reload()
    expect(row(page, id).locator(".chip")).to_have_text("Stopping...")
    model.release()
    expect(row(page, id)).to_have_attribute("data-status", "stopped")


def test_a_stop_that_failed_can_be_tried_again(
    page: Page, server: Server, complaints: Complaints
) -> None:
    complaints.expect("status 503", "status of 503")
    id = server.start("site-loop")
    page.goto("/app/runs/")
    body = {"code": "unavailable", "detail": "The database does not answer."}

    def refuse(route: Route) -> None:
        route.fulfill(status=503, content_type="application/json", body=json.dumps(body))

    page.route("**/stop", refuse)
    stop = row(page, id).get_by_role("button")
    stop.click()
    expect(page.locator("#toasts")).to_contain_text("The database does not answer.")
    expect(stop).to_be_enabled()
    expect(stop).to_have_text(re.compile("^Stop"))
    page.unroute("**/stop")
    stop.click()
    expect(row(page, id)).to_have_attribute("data-status", "stopped")


def test_a_run_that_was_faster_is_shown_as_it_ended(
    page: Page, server: Server, complaints: Complaints
) -> None:
    complaints.expect("status 409", "status of 409")
    # Without its feed the page can't know.
    page.route_web_socket(re.compile("/ws/runs"), lambda socket: None)
    id = server.start("site-loop")
    server.until(id, "running")
    page.goto("/app/runs/")
    server.client.post(f"/runs/{id}/stop")
    server.until(id, "stopped")
    row(page, id).get_by_role("button", name="Stop").click()
    expect(page.locator("#toasts")).to_contain_text("the run had finished first")
    expect(row(page, id)).to_have_attribute("data-status", "stopped")


def test_only_what_fits_the_filters_appears(page: Page, server: Server) -> None:
    page.goto("/app/runs/?agent=site-partial")
    expect(page.locator("#no-runs")).to_be_visible()
    other = server.start("site-loop")
    fitting = server.start("site-partial")
    expect(row(page, fitting)).to_be_visible()
    expect(page.locator("#no-runs")).to_be_hidden()
    expect(row(page, other)).to_have_count(0)


def test_filters_are_filled_in_and_taken_away(page: Page, server: Server) -> None:
    error = server.start("site-fail")
    fine = server.start("site-trivial")
    server.until(error, "error")
    server.until(fine, "success")
    page.goto("/app/runs/")
    page.get_by_role("checkbox", name="Error").check(force=True)
    page.get_by_text("More filters").click()
    page.get_by_label("From").fill("2026-01-01")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(row(page, error)).to_be_visible()
    expect(row(page, fine)).to_have_count(0)
    assert "agent=" not in page.url  # what was left empty is not asked for
    assert "zone=" in page.url
    page.get_by_role("link", name="Remove the filter: Error").click()
    expect(row(page, fine)).to_be_visible()
    assert "status=" not in page.url


@pytest.mark.parametrize("late_script", [None, "runs_page", "sidebar"])
def test_a_list_that_has_missed_too_much_says_so(page: Page, late_script: str | None) -> None:
    """Whichever script comes first: sidebar and list share one connection."""
    told: list[WebSocketRoute] = []

    def tell_once(socket: WebSocketRoute) -> None:
        if not told:
            socket.send('{"type":"frames","cursor":"","frames":[{"type":"reset"}]}')
        told.append(socket)

    def late(route: Route) -> None:
        page.wait_for_timeout(1_000)
        route.continue_()

    page.route(re.compile(rf"/{late_script}\.js"), late, times=1)
    page.route_web_socket(re.compile("/ws/runs"), tell_once)
    page.goto("/app/runs/")
    notice = page.locator("#list-changed")
    expect(notice).to_be_visible()
    notice.get_by_role("link", name="Reload").click()
    expect(notice).to_be_hidden()


def test_others_runs_do_not_appear(open_page: OpenPage, page: Page, server: Server) -> None:
    page.goto("/app/runs/")
    id = server.start("site-loop")
    expect(row(page, id)).to_be_visible()
    admin = open_page("admin")
    admin.goto("/app/runs/")
    expect(row(admin, id)).to_be_visible()  # who sees all
    expect(row(admin, id).locator(".runs-owner")).to_have_text("demo")
    expect(admin.locator("#active-count")).to_be_hidden()  # but these are not the admin's own
    expect(admin.locator(f'#past-runs [data-run="{id}"]')).to_have_count(0)


def test_a_phone_shows_each_run_as_a_card(phone: Page, server: Server) -> None:
    id = server.start("site-loop")
    phone.goto("/app/runs/")
    stop = row(phone, id).get_by_role("button", name="Stop")
    box = stop.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 390
    assert box["height"] >= 36
    stop.click()
    expect(row(phone, id)).to_have_attribute("data-status", "stopped")


def test_an_answer_that_is_older_than_a_frame_undoes_nothing(page: Page, server: Server) -> None:
    """The list is fetched for a new run; the run ends while the answer is on its way."""
    page.goto("/app/runs/")
    page.wait_for_timeout(1_500)  # until the list has settled: that would mend it, once
    held: list[tuple[Route, APIResponse]] = []
    page.route(re.compile("/app/runs/"), lambda route: held.append((route, route.fetch())), times=1)
    id = server.start("site-loop")
    eventually(lambda: page.wait_for_timeout(20) or held, "the list is fetched")
    server.client.post(f"/runs/{id}/stop", params={"wait": 30})
    page.wait_for_timeout(300)  # the frames come, and the page has no row to show them in
    [(route, answer)] = held
    route.fulfill(response=answer)
    row = page.locator(f"#runs [data-run='{id}']")
    expect(row).to_have_attribute("data-status", "stopped")
