"""Agents that call agents: all of them on one page, and each of them can be stopped by itself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.llm_server import LLMServer
from tests.support.run_screen import RunScreen
from tests.support.server import Server

ELDER, YOUNGER = "site-elder", "site-younger"


@pytest.fixture
def family(page: Page, model: LLMServer, server: Server) -> RunScreen:
    """A run with two others below it, each with a model call that is held."""
    model.hold()
    screen = RunScreen.of(page, server.start("site-family"))
    model.wait_for_requests(2)
    return screen


def test_called_agents_stand_inside_the_one_that_called_them(family: RunScreen) -> None:
    root = family.log.locator(f"section.group[data-run='{family.id}']")
    for name in (ELDER, YOUNGER):
        child = root.get_by_role("region", name=name, exact=True)
        expect(child).to_be_visible()
        expect(child.locator(".chip")).to_have_text("Running")
        expect(child.locator(".live")).to_contain_text("llama3")


def test_what_the_whole_tree_has_used_counts_along_and_is_there_after_a_reload(
    family: RunScreen, model: LLMServer, server: Server
) -> None:
    tree = family.page.locator("#usage-tree")
    expect(tree).to_be_hidden()
    model.release()
    expect(tree).to_have_text(re.compile(r"^with sub-agents: \d+ LLM calls · "))  # as they run
    family.stop.click()
    family.expect_status("stopped", "Stopped")
    total = server.client.get(f"/runs/{family.id}").json()["usage_tree"]
    assert total["llm_calls"] > 1
    words = re.compile(rf"^with sub-agents: {total['llm_calls']} LLM calls · ")
    expect(tree).to_have_text(words)
    live = tree.inner_text()
    family.page.reload()
    expect(tree).to_have_text(live)


def test_a_called_agent_can_be_stopped_alone(
    family: RunScreen, model: LLMServer, server: Server
) -> None:
    elder, younger = family.group(ELDER), family.group(YOUNGER)
    elder.get_by_role("button", name=f"Stop {ELDER}").click()
    expect(elder.locator(".chip")).to_have_text("Stopping...")
    expect(elder.get_by_role("button", name=f"Stopping {ELDER}")).to_be_disabled()
    expect(elder).to_contain_text("after current LLM call completes")
    expect(younger.locator(".chip")).to_have_text("Running")
    family.expect_stop_to_be_offered()

    model.release()
    expect(elder.locator(".chip")).to_have_text("Stopped")
    expect(family.line(f"going on without {ELDER}")).to_be_visible()
    expect(younger.locator(".chip")).to_have_text("Running")
    expect(younger.get_by_role("button", name=f"Stop {YOUNGER}")).to_be_enabled()
    family.expect_status("running", "Running")
    family.expect_stop_to_be_offered()

    family.stop.click()
    family.expect_status("stopped", "Stopped")
    expect(younger.locator(".chip")).to_have_text("Stopped")
    children = {
        run["agent"]: run
        for run in server.client.get("/runs", params={"parent": family.id}).json()["results"]
    }
    assert children[ELDER]["stop"]["via"] == "page"
    assert children[ELDER]["stop"]["root_request"] == children[ELDER]["id"]
    assert children[YOUNGER]["stop"]["root_request"] == family.id


def test_the_whole_tree_stops_with_its_root(family: RunScreen, model: LLMServer) -> None:
    family.stop.click()
    family.expect_stopping()
    expect(family.stop_line).to_contain_text("2 sub-agents stop")
    for name in (ELDER, YOUNGER):
        expect(family.group(name).locator(".chip")).to_have_text("Stopping...")
    model.release()
    family.expect_status("stopped", "Stopped")
    for name in (ELDER, YOUNGER):
        expect(family.group(name).locator(".chip")).to_have_text("Stopped")


def test_a_called_agent_has_a_page_of_its_own_with_its_own_stop(
    family: RunScreen, model: LLMServer, server: Server
) -> None:
    root = family.id
    family.group(ELDER).get_by_role("link", name="Open").click()
    elder = RunScreen(family.page)
    elder.page.wait_for_url(lambda address: root not in address)
    expect(elder.heading).to_have_text("The elder")
    expect(elder.main.locator(f"a[href*='{root}']").first).to_be_visible()
    elder.stop.click()
    elder.expect_stopping()
    model.release()
    elder.expect_status("stopped", "Stopped")
    assert server.run(root)["status"] == "running"
    assert server.run(root)["stop"] is None
