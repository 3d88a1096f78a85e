"""Hundreds of requests and streams that wait: they take no threads, and few queries."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.server import PATIENCE_SECONDS, Installation, Server, eventually

WAITERS = STREAMS = 100


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("waiters"), RUNS_DRAIN_SECONDS="0")


@pytest.fixture(scope="module")
def served(installation: Installation) -> Iterator[Server]:
    with installation.serving() as server:
        yield server


@pytest.mark.thorough
async def test_two_hundred_wait_without_threads_and_all_are_answered(
    served: Server, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = await asyncio.to_thread(served.start, "site-held", path=str(go))
    await asyncio.to_thread(served.until_it_works, run)
    threads = _threads(served)
    async with _client(served) as client, asyncio.timeout(PATIENCE_SECONDS):
        waiting = [asyncio.create_task(_stopped(client, run)) for _ in range(WAITERS)]
        ends = [asyncio.create_task(_until_end(client, run)) for _ in range(STREAMS)]
        await _until(lambda: _gauge(served, "halting_requests_waiting") == WAITERS)
        await _until(lambda: _gauge(served, "halting_feeds_open") == STREAMS)
        await _until(lambda: _threads(served) - threads < 20)
        assert (await client.get(f"/runs/{run}")).json()["status"] == "stopping"
        go.touch()
        answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["status"] for answer in answers} == {"success"}
        assert set(await asyncio.gather(*ends)) == {200}
    await _until(lambda: _gauge(served, "halting_requests_waiting") == 0)
    await _until(lambda: _gauge(served, "halting_feeds_open") == 0)


async def test_a_waiter_that_leaves_leaves_nothing(served: Server, tmp_path: Path) -> None:
    run = await asyncio.to_thread(served.start, "site-held", path=str(tmp_path / "go"))
    async with _client(served) as client, asyncio.timeout(PATIENCE_SECONDS):
        waiting = [asyncio.create_task(client.post(f"/runs/{run}/stop?wait=60")) for _ in range(20)]
        await _until(lambda: _gauge(served, "halting_requests_waiting") == 20)
        left_at = time.monotonic()
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await _until(lambda: _gauge(served, "halting_requests_waiting") == 0)
        assert time.monotonic() - left_at < 10
    assert (await asyncio.to_thread(served.run, run))["stop"] is not None
    (tmp_path / "go").touch()


async def test_a_process_that_ends_answers_its_waiters(
    installation: Installation, tmp_path: Path
) -> None:
    with installation.serving() as server:
        run = await asyncio.to_thread(server.start, "site-held", path=str(tmp_path / "go"))
        await asyncio.to_thread(server.until_it_works, run)
        async with _client(server) as client, asyncio.timeout(PATIENCE_SECONDS):
            waiting = [
                asyncio.create_task(client.post(f"/runs/{run}/stop?wait=60")) for _ in range(20)
            ]
            await _until(lambda: _gauge(server, "halting_requests_waiting") == 20)
            server.terminate()
            answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} <= {200, 202}
        assert {answer.json()["id"] for answer in answers} == {run}
        (tmp_path / "go").touch()
        assert server.process.wait(PATIENCE_SECONDS) == 0


async def _stopped(client: httpx.AsyncClient, run: str) -> httpx.Response:
    """Stop a run and wait for its end; ask again while too much waits for the database."""
    while (answer := await client.post(f"/runs/{run}/stop?wait=60")).status_code == 503:
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    return answer


async def _until_end(client: httpx.AsyncClient, run: str) -> int:
    headers = {"Accept": "text/event-stream"}
    while True:
        async with client.stream("GET", f"/runs/{run}/events", headers=headers) as answer:
            lines = [line async for line in answer.aiter_lines()]
        if answer.status_code != 503:
            break
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    assert "event: end" in lines
    return answer.status_code


@asynccontextmanager
async def _client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": str(server.client.headers["Authorization"])}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=PATIENCE_SECONDS, limits=limits
    ) as client:
        yield client


async def _until(condition: object) -> None:
    await asyncio.to_thread(eventually, condition)


def _gauge(server: Server, name: str) -> float:
    text = server.client.get("/metrics").text
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


def _threads(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"Threads:\s+(\d+)", status)[0])
