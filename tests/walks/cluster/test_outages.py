"""Redis or PostgreSQL is away for a while: what can continue continues, and no record is false."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import redis

from tests.support.audit import assert_books_balance
from tests.support.cluster import Cluster, MakeCluster, Web
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

SOON_SECONDS = 15.0  # generous: the machine is shared, and polls are half a second apart


def test_everything_works_without_redis_and_is_faster_once_it_is_back(
    make_cluster: MakeCluster,
) -> None:
    cluster = make_cluster(API_THROTTLE_RATE="100000/min", RUNS_LEASE_SECONDS="6")
    (web,), (worker,) = cluster.launch(webs=1, workers=1)
    channel = f"halting-*__group__runs.worker.{worker.id.hex}"
    eventually(lambda: _has_subscriber(cluster, channel), "the worker listens")
    long = web.start("witness-talker", pause=0.05)
    started = [long]
    with _following(web, long) as seen:
        web.until_it_works(long)
        with cluster.redis.paused():  # it accepts messages, and never answers
            started.append(_stopped_within(web, SOON_SECONDS))
            _assert_continues(seen)
        with cluster.redis.away():
            started.append(_stopped_within(web, SOON_SECONDS))
            assert web.client.get("/health/ready").json()["degraded"] is True
            _assert_continues(seen)
        eventually(lambda: _has_subscriber(cluster, channel), "the worker listens again")
        cluster.redis.restart()
        eventually(lambda: _has_subscriber(cluster, channel), "both listen again")
        started.append(_stopped_within(web, SOON_SECONDS))
        assert web.client.post(f"/runs/{long}/stop").status_code == 202
        final = web.until(long, "stopped")
        eventually(lambda: len(seen) >= final["last_seq"], "the feed is complete")
    assert seen == list(range(1, final["last_seq"] + 1))
    assert_books_balance(cluster, started=started, asked=started)


def test_postgresql_is_restarted_within_the_lease(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="15")
    (web,), _ = cluster.launch(webs=1, workers=1)
    started = [web.start("witness-talker", seconds=6, pause=0.05) for _ in range(3)]
    stopped = web.start("site-loop")
    for run in (*started, stopped):
        web.until_it_works(run)
    with _following(web, started[0]) as seen:
        cluster.postgres.restart()
        _accepted(web.client, f"/runs/{stopped}/stop")
        cluster.postgres.break_connections()
        final = web.until(started[0], "success", "error", within=30)
        eventually(lambda: len(seen) >= final["last_seq"], "the feed is complete")
    web.until(stopped, "stopped", within=SOON_SECONDS)
    cluster.until_quiet()
    assert seen == list(range(1, final["last_seq"] + 1))
    assert [web.run(run)["status"] for run in started] == ["success"] * 3
    assert_books_balance(cluster, started=[*started, stopped], asked=[stopped])


def test_postgresql_is_away_longer_than_the_lease(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(RUNS_LEASE_SECONDS="2")
    (web,), (worker,) = cluster.launch(webs=1, workers=1)
    waiting = [web.start("witness-again", seconds=1.0) for _ in range(2)]
    once = [web.start("witness-once", seconds=3600.0) for _ in range(2)]
    loops = [web.start("site-loop") for _ in range(2)]
    for run in (*once, *loops):
        web.until_it_works(run)
    gone_at = time.monotonic()
    with cluster.postgres.away():
        signed_in = {"Cookie": f"sessionid={32 * 'a'}"}
        with ThreadPoolExecutor(3) as pool:  # each waits some seconds for a connection
            asked = [
                pool.submit(httpx.get, f"{web.url}/app/", headers=signed_in, timeout=30),
                pool.submit(web.client.post, f"/runs/{loops[0]}/stop"),
                pool.submit(web.client.get, "/health/ready"),
            ]
            page, answer, ready = [one.result() for one in asked]
        assert (page.status_code, page.headers["Retry-After"]) == (503, "1")
        assert "The database does not answer" in page.text
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["code"] == "unavailable"
        assert answer.json()["detail"].startswith("The database does not answer.")
        assert web.client.get("/health/live").status_code == 200
        assert ready.status_code == 503
        assert worker.is_alive
        assert time.monotonic() - gone_at > 2, "the lease had not ended"
    _accepted(web.client, f"/runs/{loops[0]}/stop")
    cluster.until_quiet()
    codes = {run: web.run(run) for run in (*once, loops[1])}
    assert {run["status"] for run in codes.values()} == {"error"}
    assert {run["error"]["code"] for run in codes.values()} == {"worker_lost"}
    # It ended by itself before the stop, or was stopped: the worker gave up its claim.
    assert web.run(loops[0])["status"] in ("stopped", "error")
    assert {web.run(run)["status"] for run in waiting} == {"success"}
    fresh = web.start("witness-once")
    web.until(fresh, "success", within=SOON_SECONDS)
    started = [*waiting, *once, *loops, fresh]
    assert_books_balance(cluster, started=started, asked=[loops[0]])


def _stopped_within(web: Web, seconds: float) -> str:
    """Start a run, stop it when it works, and return it."""
    started_at = time.monotonic()
    run = web.start("site-loop")
    web.until_it_works(run)
    assert web.client.post(f"/runs/{run}/stop").status_code == 202
    web.until(run, "stopped")
    assert time.monotonic() - started_at < seconds
    return run


def _accepted(client: httpx.Client, path: str) -> None:
    """Repeat a request, as Retry-After says, until it is accepted."""
    eventually(lambda: client.post(path).status_code in (202, 409), path, SOON_SECONDS)


def _assert_continues(seen: list[int]) -> None:
    before = len(seen)
    eventually(lambda: len(seen) > before + 3, "the feed continues")


def _has_subscriber(cluster: Cluster, channel: str) -> bool:
    """Tell whether a process is subscribed to a channel of Redis, which may have wildcards."""
    with redis.Redis.from_url(cluster.redis.url) as client:
        return bool(client.pubsub_channels(channel))


@contextmanager
def _following(web: Web, run: str) -> Iterator[list[int]]:
    """Read a run's events in a thread; after each break, reconnect with the last cursor."""
    seen: list[int] = []
    closing = threading.Event()
    headers = dict(web.client.headers) | {"Accept": "text/event-stream"}

    def read() -> None:
        with httpx.Client(base_url=web.url, headers=headers, timeout=20) as client:
            while not closing.is_set():
                try:
                    if _read_once(client, run, seen, closing):
                        return
                except httpx.HTTPError:
                    pass
                closing.wait(0.1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        closing.set()
        reader.join(30)


def _read_once(client: httpx.Client, run: str, seen: list[int], closing: threading.Event) -> bool:
    """Read until the connection breaks; return whether the run has ended."""
    after = {"Last-Event-ID": str(seen[-1])} if seen else {}
    with client.stream("GET", f"/runs/{run}/events", headers=after) as answer:
        if answer.status_code != 200:
            return False
        kind = ""
        for line in answer.iter_lines():
            if closing.is_set():
                return True
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind == "trace":
                seen.append(json.loads(value)["seq"])
            elif name == "data" and kind == "end":
                return True
    return False
