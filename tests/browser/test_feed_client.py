"""The page's side of a live feed: its module in an empty page, against a server that is made up.

Time is the browser's and stands still, so no pause is ever waited for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, WebSocketRoute

from tests.support.browser import Complaints
from tests.support.frames import event, run_frame
from tests.support.server import eventually

NOBODYS_RUN = "01a20000-0000-7000-8000-000000000000"

_FOLLOW = """
async (address) => {
  const { follow } = await import("/static/runs/js/feed.js");
  window.batches = [];
  window.states = [];
  window.feed = follow(address, {
    overHttp: `${address.replace("/ws", "").replace(/[?].*/, "")}?page_size=1`,
    onFrames: (frames) => window.batches.push(frames),
    onState: (state) => window.states.push(state),
  });
}
"""


class Feed:
    """A feed in a page, and the server's end of each connection that it makes."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.connections: list[WebSocketRoute] = []
        page.route_web_socket("**/ws/**", lambda connection: self.connections.append(connection))
        page.goto("/accounts/login/")
        page.clock.install()
        page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=1))

    def follow(self, address: str = "/ws/runs/root?view=page") -> None:
        self.page.evaluate(_FOLLOW, address)
        self.until_connected(1)

    def until_connected(self, count: int) -> None:
        self.until(lambda: self.states()[-1] == "open" and len(self.connections) == count)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait; to be told of the page's connections, ``is_so`` must ask it something."""
        eventually(is_so, "the feed gets there", within=15)

    def send(self, *frames: dict[str, Any], cursor: str = "x") -> None:
        batch = {"type": "frames", "cursor": cursor, "frames": list(frames)}
        self.say(batch)

    def say(self, message: dict[str, Any]) -> None:
        self.connections[-1].send(json.dumps(message))

    def query(self, connection: int = -1) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.connections[connection].url).query)

    def pass_time(self, seconds: float) -> None:
        self.page.clock.run_for(seconds * 1000)

    def states(self) -> list[str]:
        names: list[str] = self.page.evaluate("states.map((state) => state.name)")
        return names

    def given(self) -> list[str]:
        """Return what the page was given: a type, and the number of an event."""
        given: list[str] = self.page.evaluate(
            "batches.flat().map((f) => f.type + (f.event ? ` ${f.event.run} ${f.event.seq}` : ''))"
        )
        return given

    def until_given(self, count: int) -> list[str]:
        self.until(lambda: len(self.given()) >= count)
        return self.given()


@pytest.fixture
def feed(open_page: Callable[..., Page]) -> Feed:
    return Feed(open_page(None))  # nobody is signed in: a page that follows nothing by itself


def test_batches_come_as_they_were_sent(feed: Feed) -> None:
    feed.follow()
    feed.send(run_frame("root"), event("root", 1, "log"), event("root", 2, "log"))
    assert feed.until_given(3) == ["run", "trace root 1", "trace root 2"]
    assert feed.page.evaluate("batches.length") == 1
    assert feed.states() == ["connecting", "open"]


def test_the_feed_of_a_list_sends_frames_one_by_one(feed: Feed) -> None:
    feed.follow("/ws/runs?view=page")
    feed.say(run_frame("one"))
    feed.say({"type": "reset"})
    feed.say({"type": "heartbeat"})
    feed.say(run_frame("two"))
    assert feed.until_given(3) == ["run", "reset", "run"]


def test_a_lost_connection_is_resumed_behind_what_was_given(feed: Feed) -> None:
    feed.follow()
    assert "cursor" not in feed.query()
    feed.send(event("root", 1, "log"), event("kid", 1, "log"), cursor="c&1")
    feed.until_given(2)
    feed.connections[-1].close(code=1012)
    feed.until(lambda: feed.states()[-1] == "lost")
    assert 0 < feed.page.evaluate("states.at(-1).retryInSeconds") <= 1
    feed.pass_time(1)
    feed.until_connected(2)
    assert feed.query() == {"view": ["page"], "cursor": ["c&1"]}


def test_no_event_is_given_twice_even_if_it_is_sent_twice(feed: Feed) -> None:
    feed.follow()
    feed.send(event("root", 1, "log"), event("root", 2, "log"), event("kid", 1, "log"))
    feed.until_given(3)
    feed.connections[-1].close(code=1001)
    feed.until(lambda: feed.states()[-1] == "lost")
    feed.pass_time(1)
    feed.until_connected(2)
    feed.send(event("root", 2, "log"), event("root", 3, "log"), event("kid", 2, "log"))
    assert feed.until_given(5)[3:] == ["trace root 3", "trace kid 2"]


def test_pauses_grow_until_something_is_heard_again(feed: Feed) -> None:
    feed.follow()
    pauses = []
    for count in range(1, 7):
        feed.connections[-1].close(code=1012)
        feed.until(lambda: feed.states()[-1] == "lost")
        pauses.append(feed.page.evaluate("states.at(-1).retryInSeconds"))
        feed.pass_time(pauses[-1] + 0.1)
        feed.until_connected(count + 1)
    for pause, about in zip(pauses, [0.5, 1, 2, 5, 5, 5], strict=True):
        assert about * 0.75 <= pause <= about * 1.25
    feed.say({"type": "heartbeat"})
    feed.send(run_frame("root"))
    feed.until_given(1)
    feed.connections[-1].close(code=1012)
    feed.until(lambda: feed.states()[-1] == "lost")
    assert feed.page.evaluate("states.at(-1).retryInSeconds") < 1


def test_a_connection_that_is_silent_is_replaced(feed: Feed) -> None:
    feed.follow()
    feed.pass_time(20)
    feed.say({"type": "heartbeat"})
    feed.send(run_frame("root"))
    feed.until_given(1)
    feed.pass_time(20)
    assert feed.states()[-1] == "open"
    feed.pass_time(5.3)  # 25 s after the heartbeat, and before the next try
    assert feed.states()[-1] == "lost"
    feed.pass_time(1)
    feed.until_connected(2)


def test_what_an_abandoned_connection_still_says_is_not_given(feed: Feed) -> None:
    feed.follow()
    feed.pass_time(27)
    feed.until_connected(2)
    feed.connections[0].send(json.dumps(run_frame("root")))
    feed.say({"type": "reset"})
    assert feed.until_given(1) == ["reset"]


@pytest.mark.parametrize(("code", "state"), [(4403, "refused"), (4404, "gone")])
def test_a_final_code_ends_the_feed(feed: Feed, code: int, state: str) -> None:
    feed.follow()
    feed.connections[-1].close(code=code)
    feed.until(lambda: feed.states()[-1] == state)
    feed.pass_time(60)
    feed.page.evaluate("window.dispatchEvent(new Event('online'))")
    feed.pass_time(60)
    assert feed.states()[-1] == state
    assert len(feed.connections) == 1


def test_the_end_of_the_run_ends_the_feed(feed: Feed) -> None:
    feed.follow()
    feed.send({**run_frame("root", status="success"), "type": "end"})
    feed.connections[-1].close(code=1000)
    assert feed.until_given(1) == ["end"]
    feed.until(lambda: feed.states()[-1] == "ended")
    feed.pass_time(60)
    assert feed.states() == ["connecting", "open", "ended"]
    assert len(feed.connections) == 1


def test_a_network_that_comes_back_is_used_at_once(feed: Feed) -> None:
    feed.follow()
    for _ in range(4):
        feed.connections[-1].close(code=1012)
        feed.until(lambda: feed.states()[-1] == "lost")
        count = len(feed.connections) + 1
        feed.page.evaluate("window.dispatchEvent(new Event('online'))")
        feed.until_connected(count)


def test_closing_is_final(feed: Feed) -> None:
    feed.follow()
    feed.page.evaluate("feed.close()")
    feed.connections[-1].send(json.dumps(run_frame("root")))
    feed.page.evaluate("window.dispatchEvent(new Event('online'))")
    feed.pass_time(120)
    assert feed.given() == []
    assert feed.states() == ["connecting", "open"]
    assert len(feed.connections) == 1


@pytest.mark.parametrize(("user", "state"), [("demo", "gone"), (None, "refused")])
def test_a_refused_handshake_is_looked_into(
    open_page: Callable[..., Page], complaints: Complaints, user: str | None, state: str
) -> None:
    # By the real server, which refuses who may not, and what is not there, alike.
    complaints.expect("WebSocket connection", "status 40[14]", "the server responded with")
    page = open_page(user)
    page.goto("/accounts/login/")
    page.evaluate(_FOLLOW, f"/ws/runs/{NOBODYS_RUN}?view=page")
    page.wait_for_function("(name) => states.at(-1).name === name", arg=state)
    assert "open" not in page.evaluate("states.map((one) => one.name)")
