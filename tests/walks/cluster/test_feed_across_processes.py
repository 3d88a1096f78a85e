"""The live feed of runs in other processes: web processes, workers, Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.cluster import Cluster, MakeCluster, Web
from tests.support.llm_server import Answer, LLMServer
from tests.support.server import eventually

pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.slow]

PATIENCE_SECONDS = 60


class Watcher:
    """Follows a tree over one wire, at any of the web processes, by its cursor."""

    def __init__(self, webs: list[Web], run: str, wire: str, first: int = 0) -> None:
        self.webs = webs  # changes while it watches
        self.run = run
        self.wire = wire
        self.cursor = ""
        self.seqs: dict[str, list[int]] = {}
        self.texts: dict[str, str] = {}
        self.runs: dict[str, Any] = {}
        self.end: dict[str, Any] | None = None
        self.connections = 0
        self._next = first

    async def follow(self, *, is_impatient: bool = False) -> None:
        """Follow to the end; an impatient reader reconnects elsewhere after a few frames."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.end is None:
                web = self.webs[self._next % len(self.webs)]
                self._next += 1
                self.connections += 1
                self.texts.clear()
                frames = self._sse(web) if self.wire == "sse" else self._socket(web)
                count = 0
                async with aclosing(frames):
                    with suppress(OSError, httpx.HTTPError, InvalidHandshake, ConnectionClosed):
                        async for frame in frames:
                            self._take(frame)
                            count += 1
                            if self.end is not None or (is_impatient and count > 60):
                                break
                await asyncio.sleep(0.05)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "trace":
                event = frame["event"]
                self.seqs.setdefault(event["run"], []).append(event["seq"])
                self.cursor = frame["cursor"]
            case "run":
                self.runs[frame["run"]["id"]] = frame["run"]
            case "activity":
                self.runs[frame["run"]]["in_flight"] = frame["in_flight"]
            case "text":
                self.texts[frame["call"]] = self.texts.get(frame["call"], "") + frame["text"]
            case "end":
                self.end = frame["run"]

    async def _socket(self, web: Web) -> AsyncGenerator[dict[str, Any], None]:
        headers = {"Authorization": web.client.headers["Authorization"]}
        address = f"ws{web.url[4:]}/ws/runs/{self.run}?tree=1&cursor={self.cursor}"
        # A reader that leaves in the middle of a burst does not wait for the closing handshake.
        async with connect(
            address, additional_headers=headers, max_size=None, close_timeout=0.1
        ) as socket:
            async for message in socket:
                yield json.loads(message)

    async def _sse(self, web: Web) -> AsyncGenerator[dict[str, Any], None]:
        headers = {
            "Authorization": web.client.headers["Authorization"],
            "Accept": "text/event-stream",
            "Last-Event-ID": self.cursor,
        }
        url = f"{web.url}/runs/{self.run}/events?tree=1"
        named = {"trace": "event", "run": "run", "end": "run"}
        async with (
            httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            type = id = ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    type, id = value, ""
                elif name == "id":
                    id = value
                elif name == "data":
                    data = json.loads(value)
                    field = named.get(type)
                    yield {"type": type, "cursor": id, **({field: data} if field else data)}

    def assert_gapless(self, cluster: Cluster) -> None:
        rows = cluster.execute(
            "SELECT id, last_seq FROM runs_runrecord WHERE root_id = %s", self.run
        )
        for id, last_seq in rows:
            assert self.seqs.get(str(id), []) == list(range(1, last_seq + 1)), (self.wire, id)


async def _until(condition: Any, what: str, within: float = 20.0) -> None:
    try:
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(what) from None


def test_text_and_calls_in_flight_reach_readers_of_every_process(
    make_cluster: MakeCluster, llm_server: LLMServer
) -> None:
    pieces = ["Once upon ", "a time ", "there was ", "a run."]
    llm_server.answer = Answer(pieces=pieces)
    llm_server.hold("middle")
    cluster = make_cluster(LLM_BASE_URL=llm_server.base_url, LLM_API_KEY="x", LLM_MODEL="m")
    webs, _ = cluster.launch(webs=2, workers=2)
    run = webs[0].start("witness-model", questions=2)
    early = Watcher(webs[:1], run, "socket")
    late = Watcher(webs[1:], run, "sse")

    async def story() -> None:
        async with asyncio.TaskGroup() as watching:
            watching.create_task(early.follow())
            await _until(lambda: list(early.texts.values()), "text arrives")
            text_so_far = next(iter(early.texts.values()))
            assert 0 < len(text_so_far) < len("".join(pieces))
            (call,) = early.runs[run]["in_flight"]
            assert call["tool"] == "call_llm"
            assert list(early.texts) == [call["call"]]
            watching.create_task(late.follow())  # in the middle of the answer
            await _until(lambda: late.texts == early.texts, "the text so far, once")
            answer = await asyncio.to_thread(webs[1].client.post, f"/runs/{run}/stop")
            assert answer.status_code == 202
            for watcher in (early, late):
                shown = watcher.runs
                await _until(lambda s=shown: s[run]["status"] == "stopping", "the run is stopping")
                await _until(
                    lambda s=shown: s[run]["stop"]["acknowledged_at"], "the stop is acknowledged"
                )
                assert shown[run]["in_flight"] == [call], "the call in flight"
            await asyncio.to_thread(llm_server.release)

    asyncio.run(story())
    for watcher in (early, late):
        assert watcher.end is not None
        assert watcher.end["status"] == "stopped"
        assert watcher.connections == 1
        assert all("".join(pieces).startswith(text) for text in watcher.texts.values())
        watcher.assert_gapless(cluster)


@pytest.mark.thorough
def test_each_event_arrives_once_whatever_is_restarted(make_cluster: MakeCluster) -> None:
    """Readers switch web processes while those, the workers and Redis are restarted."""
    cluster = make_cluster(RUNS_DRAIN_SECONDS="1")
    webs, workers = cluster.launch(webs=2, workers=2)
    run = webs[0].start("site-relay", seconds=6.0)
    watchers = [Watcher(webs, run, wire, first) for wire in ("socket", "sse") for first in range(3)]

    def restart_all() -> None:
        web = webs[0]
        eventually(lambda: web.run(run)["last_seq"] > 5, "the run has started")
        (owner,) = cluster.execute("SELECT worker_id FROM runs_runrecord WHERE id = %s", run)[0]
        next(worker for worker in workers if worker.id == owner).kill()
        cluster.redis.restart()
        webs.append(cluster.web())
        webs.remove(web)
        web.terminate()
        other = webs[0]
        webs.append(cluster.web())
        webs.remove(other)
        other.kill()

    async def story() -> None:
        following = [w.follow(is_impatient=number % 2 == 1) for number, w in enumerate(watchers)]
        await asyncio.gather(asyncio.to_thread(restart_all), *following)

    asyncio.run(story())
    final = webs[0].run(run)
    assert final["status"] == "success"
    assert final["attempt"] == 2, "its first worker was killed"
    for watcher in watchers:
        assert watcher.end == final
        watcher.assert_gapless(cluster)
        assert len(watcher.seqs) > 1, "it has children"
    assert any(watcher.connections > 2 for watcher in watchers)


def test_the_death_of_a_web_process_does_not_disturb_readers_of_another(
    make_cluster: MakeCluster, llm_server: LLMServer
) -> None:
    """Another reader continues undisturbed."""
    llm_server.answer = Answer(pieces=[f"{n} " for n in range(150)], pause=0.05)
    cluster = make_cluster(LLM_BASE_URL=llm_server.base_url, LLM_API_KEY="x", LLM_MODEL="m")
    webs, _ = cluster.launch(webs=2, workers=1)
    run = webs[0].start("witness-model", questions=1)
    watchers = [Watcher([web], run, "socket") for web in webs]

    async def story() -> None:
        tasks = [asyncio.create_task(watcher.follow()) for watcher in watchers]
        await _until(lambda: all(w.texts for w in watchers), "both readers see it")
        webs[0].kill()
        tasks[0].cancel()
        at = time.monotonic()
        await tasks[1]
        assert time.monotonic() - at < PATIENCE_SECONDS

    asyncio.run(story())
    left = watchers[1]
    assert left.end is not None
    assert left.end["status"] == "success"
    (text,) = left.texts.values()
    assert "".join(f"{n} " for n in range(150)).startswith(text)
    assert len(text) > 100
    left.assert_gapless(cluster)
