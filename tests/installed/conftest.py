"""A package as the wheel has it, and sites that it is installed into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.browser import DESKTOP, TIMEOUT_MILLISECONDS, Complaints, launch
from tests.support.new_site import PASSWORD, NewSite, write_package

MakeSite = Callable[..., NewSite]
OpenPage = Callable[..., AbstractContextManager[Page]]

INCLUDE = 'path("", include("halting.runs.urls"))'

# An agent that a test holds: a stop is observed when there is a file "go".
AGENTS = """
import asyncio
import pathlib

from halting.agents import Tools, agent


@agent("patient", title="A patient one")
async def patient(tools: Tools, word: str = "done") -> str:
    tools.log("It has begun.")
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)
    await tools.data_store.set("word", word)
    return word
"""


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the wheel has it, for PYTHONPATH."""
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def make_site(tmp_path: Path, package: Path) -> MakeSite:
    """Make a site with the agent "patient" and the superuser "ann", at ``prefix``.

    ``files`` are written, by their names; other arguments are those of ``NewSite``.
    """

    def make(*, prefix: str = "", files: dict[str, str] | None = None, **options: Any) -> NewSite:
        site = NewSite(tmp_path / "site", package, **options)
        site.replace("mysite/urls.py", INCLUDE, INCLUDE.replace('""', f'"{prefix}"'))
        for name, text in (files or {}).items():
            site.append(name, text) if name.endswith("urls.py") else site.write(name, text)
        site.add_agents(AGENTS)
        site.shell(
            "from django.contrib.auth.models import User\n"
            "from django.core.management import call_command\n"
            "call_command('migrate', verbosity=0)\n"
            f"User.objects.create_superuser('ann', password={PASSWORD!r})"
        )
        return site

    return make


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=TIMEOUT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """Open a page in a window of its own, with the cookies of a client, who may be signed in.

    What goes wrong in the browser fails the test, unless it ``expects`` that.
    """

    @contextmanager
    def open_(client: httpx.Client, *expects: str) -> Iterator[Page]:
        complaints = Complaints()
        complaints.expect(*expects)
        root = f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"
        with browser.new_context(viewport=DESKTOP, base_url=str(client.base_url)) as context:  # type: ignore[arg-type]
            for name, value in client.cookies.items():
                context.add_cookies([{"name": name, "value": value, "url": root}])
            complaints.listen(context)
            yield context.new_page()
        complaints.assert_none()

    return open_
