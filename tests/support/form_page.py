"""Helpers of the tests in tests/browser/form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page

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
