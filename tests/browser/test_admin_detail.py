"""One run in the admin, in a real browser: the parts of its page in the admin's frame."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.llm_server import Answer, LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server
from tests.support.site.watch import HOSTILE

from .test_hostile import assert_harmless

OpenPage = Callable[..., Page]


class AdminScreen(RunScreen):
    """A run in the admin."""

    PATH = "/admin/runs/runrecord/{id}/change/"
    MAIN = "#run-detail"


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The admin's browser."""
    return open_page("admin")


def test_a_stop_with_its_reason_from_the_click_to_the_receipt(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    screen = AdminScreen.of(page, id)
    screen.expect_status("running", "Running")
    expect(screen.line("14 characters")).to_be_visible()
    model.wait_for_requests(1)
    model.let_go()
    model.wait_for_requests(2)
    expect(screen.line("noted part 1")).to_be_visible()  # the log grows

    page.get_by_label("Reason for stopping").fill("wrong letter")
    screen.stop.click()
    screen.expect_stopping()
    expect(screen.stop_line).to_contain_text("after current LLM call completes")
    expect(screen.stop_line).to_contain_text(re.compile(r"llama3, \d+(\.\d)? (ms|s)"))
    expect(page.get_by_label("Reason for stopping")).to_be_hidden()
    page.reload()
    screen.expect_stopping()

    model.release()
    screen.expect_status("stopped", "Stopped")
    expect(page.locator("#receipt-line")).to_contain_text("by admin in the admin")
    expect(page.locator("#panel-receipt")).to_contain_text("(reason: wrong letter)")
    expect(page.locator("#panel-result")).to_contain_text("What it had so far")
    expect(page.locator("#panel-tree")).to_contain_text("Stopped")
    expect(page.locator("#panel-facts")).to_contain_text("Finished")
    expect(screen.stop).not_to_be_enabled()
    stop = server.run(id)["stop"]
    assert (stop["via"], stop["requested_by"], stop["reason"]) == ("admin", "admin", "wrong letter")


def test_the_tree_is_shown_while_it_grows_and_each_run_leads_to_its_own_page(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    id = server.start("site-family")
    screen = AdminScreen.of(page, id)
    model.wait_for_requests(2)
    tree = page.locator("#panel-tree li")
    expect(tree).to_have_count(3)
    expect(tree.filter(has_text="site-elder")).to_contain_text("Running")

    elder = screen.group("site-elder")
    elder.get_by_role("button", name="Stop site-elder").click()
    expect(elder.locator(".chip")).to_have_text("Stopping...")
    expect(tree.filter(has_text="site-elder")).to_contain_text("Stopping...")
    model.release()
    expect(tree.filter(has_text="site-elder")).to_contain_text("Stopped")
    children = server.client.get("/runs", params={"parent": id}).json()["results"]
    (child,) = [run for run in children if run["agent"] == "site-elder"]
    assert child["stop"]["via"] == "admin"

    # By the keyboard: the family goes on, and lines that come move the link away from the mouse.
    expect(elder.locator(".chip")).to_have_text("Stopped")
    elder.get_by_role("link", name="Open").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("The elder")
    assert page.url.endswith(AdminScreen.PATH.format(id=child["id"]))
    expect(tree.filter(has_text="this run")).to_contain_text("site-elder")
    page.get_by_role("link", name="site-family").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Ask the family")


def test_run_again_leads_to_the_new_run_in_the_admin(
    page: Page, model: LLMServer, server: Server
) -> None:
    id = server.start("site-trivial", number=41)
    server.until(id, "success")
    screen = AdminScreen.of(page, id)
    screen.expect_status("success", "Done")
    expect(page.locator("#panel-result")).to_contain_text("41")
    page.wait_for_function(
        "() => performance.now() > 1000"
    )  # sooner, a click is a slip of the hand
    screen.again.click()
    page.wait_for_url(lambda address: "/admin/runs/runrecord/" in address and id not in address)
    screen.expect_status("success", "Done")
    expect(page.locator("#panel-facts")).to_contain_text("Owner\tadmin", use_inner_text=True)
    expect(page.locator("#panel-result")).to_contain_text("41")


def test_a_stop_works_without_any_script(
    open_page: OpenPage, model: LLMServer, server: Server
) -> None:
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    model.wait_for_requests(1)
    page = open_page("admin", java_script_enabled=False)
    page.goto(AdminScreen.PATH.format(id=id))
    page.get_by_label("Reason for stopping").fill("no scripts here")
    page.locator("#stop").click()
    expect(page.locator("#stop")).to_contain_text("Stopping...")
    expect(page.locator(".messagelist")).to_contain_text("is asked to stop")
    assert server.run(id)["stop"]["reason"] == "no scripts here"


@pytest.mark.parametrize("is_phone", [False, True])
def test_a_hostile_run_is_only_text_and_stays_in_its_place(
    open_page: OpenPage, model: LLMServer, server: Server, is_phone: bool
) -> None:
    model.answer = Answer(pieces=[HOSTILE[:20], HOSTILE[20:], "<b>bold</b>"])
    id = server.start("site-hostile", shape="markdown", text=HOSTILE)
    page = open_page("admin", phone=is_phone, dark=is_phone)
    screen = AdminScreen.of(page, id)
    screen.expect_status("success")
    expect(screen.line("<script>document.title='owned'</script>").first).to_be_visible()
    page.locator("#events summary").first.click()
    expect(page.locator("#panel-events tbody tr").first).to_be_visible()
    assert_harmless(page)


def test_a_stop_after_signing_out_is_refused_and_says_so(
    open_page: OpenPage, model: LLMServer, server: Server, complaints: Complaints
) -> None:
    complaints.expect("40[13]|WebSocket")
    model.hold()
    id = server.start("site-talk", document="A long letter.")
    page = open_page("admin")
    screen = AdminScreen.of(page, id)
    screen.expect_stop_to_be_offered()
    page.context.clear_cookies()
    screen.stop.click()
    expect(screen.stop_line).to_contain_text("was not accepted")
    screen.expect_stop_to_be_offered()
    assert server.run(id)["stop"] is None


def test_a_hostile_entry_of_the_data_store_is_only_text(
    page: Page, model: LLMServer, server: Server
) -> None:
    server.until(server.start("site-hostile", shape="json", text=HOSTILE), "success")
    page.goto("/admin/runs/datastoreentry/?q=document.title")
    entry = page.locator("#result_list th.field-key a", has_text="document.title").first
    expect(entry).to_be_visible()
    assert_harmless(page)
    entry.click()
    expect(page.locator(".field-value .readonly")).to_contain_text("<script>document.title")
    expect(page.locator(".field-key .readonly")).to_contain_text("<script>document.title")
    # The admin has scripts of its own in there; theirs would stand in the page.
    inside = page.locator("main :is(script:not([src]), svg[onload], img, iframe, style)")
    expect(inside).to_have_count(0)


def test_a_worker_is_drained_and_takes_runs_again(
    page: Page, model: LLMServer, server: Server
) -> None:
    page.goto("/admin/runs/workerrecord/")
    alive = page.locator("#result_list tbody tr", has_text="Alive")
    try:
        alive.get_by_role("button", name=re.compile("^Drain ")).first.click()
        expect(page.locator(".messagelist")).to_contain_text("those in flight continue")
        draining = page.locator("#result_list tbody tr", has_text="Draining")
        expect(draining).to_be_visible()
        waiting = server.start("site-trivial", number=1)
        assert server.run(waiting)["status"] == "queued"
    finally:
        page.get_by_role("button", name=re.compile("^Take runs again ")).first.click()
    expect(alive).to_be_visible()
    server.until(waiting, "success")
