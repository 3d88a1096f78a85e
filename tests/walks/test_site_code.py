"""The site's own code in a process without a server: a shell here, as a task's would be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest

from tests.support.server import Installation, Server

pytestmark = pytest.mark.slow

PREPARATION = """
import asyncio
import sys
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
import runs
from runs import signals

user = User.objects.get(username="demo")

def start(text="a b"):
    return runs.start("count_words", {"text": text}, owner=user)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def server(site: Installation) -> Iterator[Server]:
    with site.serving() as server:
        yield server


@pytest.mark.usefixtures("server")
def test_a_shell_starts_waits_for_and_follows_runs(site: Installation) -> None:
    assert _said(
        site,
        """
        print(runs.wait(start(), timeout=30).status)
        print([event["type"] for event in runs.stream(start())][-1])

        async def last(run):
            types = [event["type"] async for event in runs.stream(run)]
            return types[-1]

        for _ in range(3):  # each has a loop of its own
            print(asyncio.run(runs.until_over(start(), timeout=30)).status)
            print(async_to_sync(last)(start()))
        """,
    ) == ["success", "agent_end", *["success", "agent_end"] * 3]


def test_a_shell_calls_the_receivers_of_what_it_has_done_before_it_ends(
    site: Installation, server: Server
) -> None:
    id = server.start("site-loop")
    server.until_it_works(id)

    said = _said(
        site,
        f"""
        import time

        def heard(run, stop, **_):
            time.sleep(0.2)
            print(run.pk, stop.reason)

        signals.stop_requested.connect(heard)
        runs.stop("{id}", reason="from a shell")
        """,
    )

    assert said == [f"{id} from a shell"]
    assert server.until(id, "stopped")["stop"]["via"] == "api"


def _said(site: Installation, code: str) -> list[str]:
    code = PREPARATION + textwrap.dedent(code)
    return site.manage("shell", "--no-imports", "-v0", "-c", code).splitlines()
