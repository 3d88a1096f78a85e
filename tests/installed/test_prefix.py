"""A site that has Halting under a prefix of its own, clicked in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.support.new_site import NewSite

from .conftest import MakeSite, OpenPage

pytestmark = pytest.mark.browser

PREFIX = "tools/halting/"


def test_run_stop_and_reload(make_site: MakeSite, open_page: OpenPage) -> None:
    site = make_site(prefix=PREFIX)
    with site.served(prefix=f"/{PREFIX}") as client:
        site.sign_in(client, "ann")
        with open_page(client) as page:
            _click(site, page)


def _click(site: NewSite, page: Page) -> None:
    page.goto("app/")
    page.get_by_role("main").get_by_role("link", name="A patient one").click()
    page.get_by_role("button", name="Run").click()
    page.wait_for_url(re.compile(f"/{PREFIX}app/runs/[-0-9a-f]+/$"))
    chip, stop = page.locator("#run-chip"), page.locator("#stop")
    expect(page.locator("#log")).to_contain_text("It has begun.")  # by the socket
    expect(chip).to_contain_text("Running")
    expect(page.locator("#past-runs [data-status=running]")).to_have_count(1)

    stop.click()
    expect(stop).to_contain_text("Stopping...")
    expect(chip).to_contain_text("Stopping...")  # says the server
    page.reload()
    expect(stop).to_contain_text("Stopping...")
    expect(stop).to_be_disabled()

    site.write("go", "")
    expect(chip).to_contain_text("Stopped")
    for tab in ("Input", "Receipt", "Events"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tabpanel", name=tab)).not_to_be_empty()
    # The cookie with the time zone is for our pages alone.
    zones = [one["path"] for one in page.context.cookies() if one["name"] == "timezone"]
    assert zones == [f"/{PREFIX}app"]

    page.goto("app/runs/")
    page.locator("#runs").get_by_role("link", name="A patient one").click()
    page.get_by_role("button", name="Run again").click()
    expect(chip).to_contain_text("Done")


@pytest.mark.thorough
def test_the_admin_follows_its_runs_by_the_same_sockets(
    make_site: MakeSite, open_page: OpenPage
) -> None:
    site = make_site(prefix=PREFIX)
    with site.served(prefix=f"/{PREFIX}") as client:
        site.sign_in(client, "ann")
        headers = {"X-CSRFToken": client.cookies["csrftoken"]}
        run = client.post("runs", json={"agent": "patient"}, headers=headers).json()["id"]
        with open_page(client) as page:
            page.goto(f"/admin/runs/runrecord/{run}/change/")
            expect(page.locator("#log")).to_contain_text("It has begun.")
            page.locator("#stop").click()
            expect(page.locator("#run-chip")).to_contain_text("Stopping...")
            page.goto("/admin/runs/runrecord/")
            status = page.locator(".field-status")
            expect(status).to_contain_text("Stopping...")
            site.write("go", "")
            expect(status).to_contain_text("Stopped")


@pytest.mark.thorough
def test_addresses_have_the_script_name_as_well(make_site: MakeSite) -> None:
    site = make_site(prefix=PREFIX, settings='FORCE_SCRIPT_NAME = "/portal"\n')
    with site.served(prefix=f"/portal/{PREFIX}") as client:
        site.sign_in(client, "ann", at="/portal/admin/login/")
        page = client.get("app/agents/patient/").text
        assert f'data-feed="/portal/{PREFIX}ws/runs"' in page
        assert f'"start": "/portal/{PREFIX}runs"' in page
        assert '"sign_in": "/portal/admin/login/"' in page


def test_what_programs_get_is_below_the_prefix(make_site: MakeSite) -> None:
    site = make_site(prefix=PREFIX)
    with site.served(prefix=f"/{PREFIX}") as client:
        document = client.get("api/schema").json()
        assert f"/{PREFIX}runs/{{id}}/stop" in document["paths"]
        assert all(path.startswith(f"/{PREFIX}") for path in document["paths"])
        client.headers["Authorization"] = f"Token {site.token('ann')}"
        started = client.post("runs", json={"agent": "patient"})
        assert f"/{PREFIX}runs/" in started.headers["Location"]
        assert client.get(started.headers["Location"]).status_code == 200
        unknown = client.get("runs/not/an/address")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
        assert client.get("api/docs").status_code == 404  # without Swagger UI's static files
        assert client.get("health/live").json() == {"status": "alive"}
        site.write("go", "")
        site.finished(client, started.json()["id"])
