"""The admin's list of runs in a real browser: it stays up to date while a person uses it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Complaints
from tests.support.databases import Database
from tests.support.llm_server import LLMServer
from tests.support.server import Installation, Server

OpenPage = Callable[..., Page]

LIST = "/admin/runs/runrecord/"
OWNER = "(SELECT id FROM auth_user WHERE username = 'demo')"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The admin's browser."""
    return open_page("admin")


def line(page: Page, id: str) -> Locator:
    return page.locator("#result_list tbody tr", has=page.locator(f"[data-run='{id}']"))


def status(page: Page, id: str) -> Locator:
    return page.locator(f"#result_list [data-run='{id}'] [data-status]")


def insert(
    installation: Installation, count: int, *, agent: str = "inserted", status: str = "success"
) -> list[str]:
    """Put runs of ``demo`` straight into the table, as if from long ago."""
    ids = [uuid.uuid4() for _ in range(count)]
    defaults = {
        "depth": 0, "result": "null", "partial_result": "null", "attempt": 1, "max_attempts": 1,
        "requeue_on_loss": False, "in_flight": "[]", "last_seq": 0, "llm_calls": 0,
        "input_tokens": 0, "output_tokens": 0, "usage_estimated": False,
        "idempotency_digest": "", "stop_mode": "", "stop_reason": "", "stop_via": "",
        "stop_finished_first": False, "stop_abandoned": False,
        "stop_calls_started_after_acknowledgement": 0, "priority": 0, "turn": 0, "holds_slot": True,
        "has_children": False,
    }  # fmt: skip
    at = str(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).replace(tzinfo=None))
    is_over = status == "success"
    values = {**defaults, "agent": agent, "status": status, "created_at": at, "started_at": at}
    if is_over:
        values["finished_at"] = at
    database = installation.database
    if not is_over:  # held by a worker elsewhere, or the reaper ends them
        values["worker_id"] = _insert_worker(database)
    columns = ", ".join(["id", "root_id", "owner_id", *values])
    places = ", ".join(["%s", "%s", OWNER, *["%s"] * len(values)])
    database.execute_many(
        f"INSERT INTO runs_runrecord ({columns}) VALUES ({places})",
        [(id, id, *values.values()) for id in ids],
    )
    database.execute_many(
        "INSERT INTO runs_runinput (run_id, value, size_bytes) VALUES (%s, '{}', 2)",
        [(id,) for id in ids],
    )
    return [str(id) for id in ids]


def _insert_worker(database: Database) -> uuid.UUID:
    id, now, later = uuid.uuid4(), "2026-01-02 03:04:05", "2100-01-01 00:00:00"
    database.execute(
        "INSERT INTO runs_workerrecord (id, name, host_identity, pid, pid_started, capacity,"
        " started_at, heartbeat_at, lease_until, limited_by)"
        " VALUES (%s, %s, %s, 1, 1, 1, %s, %s, %s, '')",
        *(id, "elsewhere", "another host", now, now, later),
    )
    return id


@pytest.fixture
def inserted(installation: Installation) -> Callable[..., list[str]]:
    return lambda count, **options: insert(installation, count, **options)


def test_a_line_changes_while_the_list_is_open(
    page: Page, model: LLMServer, server: Server
) -> None:
    model.hold()
    id = server.start("site-talk", document="x", parts=1)
    server.until(id, "running")
    page.goto(LIST)
    expect(status(page, id)).to_have_attribute("data-status", "running")
    ticking = line(page, id).locator(".field-duration")
    before = ticking.inner_text()
    expect(ticking).not_to_have_text(before)

    server.client.post(f"/runs/{id}/stop")
    expect(status(page, id)).to_have_attribute("data-status", "stopping")
    expect(line(page, id).locator(".field-waiting")).to_contain_text(
        "after current LLM call completes"
    )
    model.release()
    expect(status(page, id)).to_have_attribute("data-status", re.compile("stopped|success"))
    expect(line(page, id).locator(".run-stop")).to_have_count(0)
    expect(line(page, id).locator(".field-waiting")).to_have_text("")


def test_stop_on_a_line_stops_that_run(page: Page, server: Server) -> None:
    id, other = server.start("site-loop"), server.start("site-loop")
    server.until(id, "running")
    page.goto(LIST)
    line(page, id).get_by_role("button", name="Stop site-loop").click()
    expect(status(page, id)).to_have_attribute("data-status", "stopped")
    assert page.url.endswith(LIST), "the page was not left"
    assert server.run(id)["stop"]["via"] == "admin"
    assert server.run(id)["stop"]["requested_by"] == "admin"
    assert server.run(other)["status"] == "running"


def test_a_stop_that_fails_enables_its_button_again(
    page: Page, server: Server, complaints: Complaints
) -> None:
    complaints.expect("request failed: POST", "ERR_FAILED")
    id = server.start("site-loop")
    server.until(id, "running")
    page.goto(LIST)
    page.route("**/stop/", lambda route: route.abort())
    button = line(page, id).locator(".run-stop")
    button.click()
    expect(page.locator("#run-problem")).to_contain_text("Not stopped: The server can't be reached")
    expect(button).to_be_enabled()
    expect(button).to_contain_text("Stop")
    page.unroute("**/stop/")
    button.click()
    expect(status(page, id)).to_have_attribute("data-status", "stopped")
    expect(page.locator("#run-problem")).to_have_text("")


def test_stop_works_without_any_script(open_page: OpenPage, server: Server) -> None:
    id = server.start("site-loop")
    server.until(id, "running")
    page = open_page("admin", java_script_enabled=False)
    page.goto(f"{LIST}?status=active")
    line(page, id).locator(".run-stop").click()
    expect(page.locator(".messagelist")).to_contain_text("is asked to stop")
    assert page.url.endswith("?status=active")
    server.until(id, "stopped")


def test_live_updates_leave_ticks_order_and_place_alone(
    page: Page, server: Server, inserted: Callable[..., list[str]]
) -> None:
    inserted(60)
    runs = [server.start("site-loop") for _ in range(2)]
    for id in runs:
        server.until(id, "running")
    page.goto(LIST)
    order = page.locator("#result_list [data-run]").evaluate_all(
        "marks => marks.map((mark) => mark.dataset.run)"
    )
    boxes = page.locator(".action-select")
    line(page, runs[0]).locator(".action-select").check()
    boxes.nth(40).check()
    boxes.nth(40).scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    assert place > 0

    server.client.post(f"/runs/{runs[0]}/stop")
    server.start("site-trivial")
    expect(status(page, runs[0])).to_have_attribute("data-status", "stopped")
    expect(page.locator("#run-updates")).to_contain_text("A new run started. Reload")
    assert page.evaluate("scrollY") == pytest.approx(place, abs=80)
    expect(line(page, runs[0]).locator(".action-select")).to_be_checked()
    expect(boxes.nth(40)).to_be_checked()
    expect(page.locator(".action-counter").first).to_contain_text("2 of")
    assert order == page.locator("#result_list [data-run]").evaluate_all(
        "marks => marks.map((mark) => mark.dataset.run)"
    )
    page.locator("#run-updates a").click()
    expect(page.locator("#run-updates a")).to_be_hidden()
    expect(page.locator("#result_list tbody tr").first).to_contain_text("site-trivial")


def test_selected_runs_are_stopped_with_a_reason(page: Page, server: Server) -> None:
    runs = [server.start("site-loop") for _ in range(3)]
    left = server.start("site-loop")
    for id in [*runs, left]:
        server.until(id, "running")
    page.goto(LIST)
    for id in runs:
        line(page, id).locator(".action-select").check()
    page.get_by_label("Action:").select_option(label="Stop selected runs")
    page.get_by_role("button", name="Go").click()
    expect(page.locator(".stop-sum")).to_contain_text("3 runs will be asked to stop")
    page.get_by_label("Reason").fill(HOSTILE)
    page.get_by_role("button", name="Stop 3 runs").click()
    expect(page.locator(".outcome-counts")).to_have_text(re.compile(r"^\s*3 accepted\s*$"))
    for id in runs:
        assert server.until(id, "stopped")["stop"]["reason"] == HOSTILE
    assert server.run(left)["status"] == "running"
    page.goto(f"{LIST}{runs[0]}/history/")
    expect(page.locator("#change-history")).to_contain_text(f"Reason: {HOSTILE}")


def test_all_across_the_pages_are_stopped(
    page: Page, inserted: Callable[..., list[str]], installation: Installation
) -> None:
    inserted(600, agent="across", status="running")
    page.goto(f"{LIST}?agent=across")
    page.locator("#action-toggle").check()
    page.get_by_text("Select all 600 runs").click()
    page.get_by_label("Action:").select_option(label="Stop selected runs")
    page.get_by_role("button", name="Go").click()
    expect(page.locator(".stop-sum")).to_contain_text("600 runs will be asked to stop")
    page.get_by_role("button", name="Stop 600 runs").click()
    expect(page.locator(".outcome-counts")).to_contain_text("600 accepted")
    expect(page.locator(".stop-runs-table tbody tr")).to_have_count(600)
    asked = "SELECT count(*) FROM runs_runrecord WHERE agent = 'across' AND stop_via = 'admin'"
    assert installation.database.execute(asked) == [(600,)]
    # No worker executes these runs, and the runs of the next test would wait after them.
    installation.database.execute(
        "UPDATE runs_runrecord SET status = 'stopped', finished_at = started_at"
        " WHERE agent = 'across'"
    )


def test_hostile_names_are_shown_as_text(page: Page, inserted: Callable[..., list[str]]) -> None:
    (id,) = inserted(1, agent=HOSTILE)
    page.goto(f"{LIST}?agent={HOSTILE}")
    expect(line(page, id).locator(".field-agent")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_a_lost_connection_is_made_good(page: Page, server: Server, complaints: Complaints) -> None:
    id = server.start("site-loop")
    server.until(id, "running")
    sockets: list[object] = []
    page.route_web_socket(
        "**/ws/runs*", lambda socket: (sockets.append(socket), socket.connect_to_server())[1]
    )
    page.goto(LIST)
    expect(status(page, id)).to_have_attribute("data-status", "running")
    sockets[0].close(code=1012)  # type: ignore[attr-defined]
    server.client.post(f"/runs/{id}/stop")
    expect(status(page, id)).to_have_attribute("data-status", "stopped")
    expect(page.locator("#run-connection")).to_have_text("")


def test_the_list_fits_a_phone(open_page: OpenPage, server: Server) -> None:
    id = server.start("site-loop")
    server.until(id, "running")
    page = open_page("admin", phone=True)
    page.goto(LIST)
    expect(line(page, id).locator(".run-stop")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
