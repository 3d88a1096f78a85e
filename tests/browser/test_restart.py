"""The server dies in the middle of runs, comes back, and the pages with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Complaints
from tests.support.run_screen import RunScreen
from tests.support.server import Installation, Server

pytestmark = pytest.mark.slow

LOST = re.compile("connection.*lost", re.I)
#: What the console says of a server that is not there.
CUT_OFF = (
    r"ERR_CONNECTION_REFUSED",
    r"ERR_CONNECTION_RESET",
    r"ERR_EMPTY_RESPONSE",
    r"WebSocket connection to .* failed",
)


class Mortal:
    """An installation whose server is killed and started again, at the same address."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._installation = Installation(folder)
        self.server = stack.enter_context(self._installation.serving())

    def start_again(self) -> Server:
        port = self.server.port
        self.server = self._stack.enter_context(self._installation.serving(port))
        return self.server


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    with ExitStack() as stack:
        yield Mortal(tmp_path, stack)


@pytest.fixture
def server(mortal: Mortal) -> Server:
    """Not the one of all tests: this one will be killed."""
    return mortal.server


def test_pages_come_back_after_a_restart_and_tell_the_truth(
    page: Page, mortal: Mortal, complaints: Complaints
) -> None:
    complaints.expect(*CUT_OFF)
    lost_id = mortal.server.start("site-loop")
    again_id = mortal.server.start("site-again", key="restart")
    lost = RunScreen.of(page, lost_id)
    again = RunScreen.of(page.context.new_page(), again_id)
    for screen in (lost, again):
        screen.expect_status("running", "Running")
        expect(screen.line("Started")).to_be_visible()
    mortal.server.until_it_has_called(again_id, "data_store.set")

    mortal.server.kill()
    for screen in (lost, again):
        expect(screen.connection).to_contain_text(LOST)
        screen.expect_status("running")  # the last that it knows

    server = mortal.start_again()
    for screen in (lost, again):
        expect(screen.connection).not_to_contain_text(LOST, timeout=30_000)
    lost.expect_status("error", "Error")
    expect(lost.panel("Result")).to_contain_text(re.compile("worker", re.I))
    again.expect_status("success", "Done")
    expect(again.line("Started again (attempt 2)")).to_be_visible()

    for screen, id in ((lost, lost_id), (again, again_id)):
        run = server.run(id)
        assert screen.seqs(id) == list(range(1, run["last_seq"] + 1))
    assert server.run(lost_id)["error"]["code"] == "worker_lost"
    assert server.run(lost_id)["stop"] is None
