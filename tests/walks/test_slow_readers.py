"""Slow readers, and readers that lose their permission, on a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.support.server import Installation, Server
from tests.support.sockets import messages_of, open_and_do_not_read, open_socket, read_all

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120
LINES = 500
LINE_CHARACTERS = 20_000


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("feed"), RUNS_DRAIN_SECONDS="0")


@pytest.fixture(scope="module")
def served(installation: Installation) -> Iterator[Server]:
    with installation.serving() as server:
        yield server


@pytest.mark.thorough
async def test_a_reader_that_does_not_read_slows_no_other_down_and_costs_little(
    served: Server,
) -> None:
    flood = {"lines": LINES, "pause": 0.005, "size": LINE_CHARACTERS}
    run = await asyncio.to_thread(served.start, "site-flood", **flood)
    before = _memory_bytes(served)
    stuck = await asyncio.to_thread(open_and_do_not_read, served, run)
    async with asyncio.timeout(PATIENCE_SECONDS):
        seen = await _read_on(served, run)
        final = await asyncio.to_thread(served.run, run)
        every = list(range(1, final["last_seq"] + 1))
        assert len(every) >= LINES + 2
        assert seen == every
        # 10 MB were sent. The server keeps bounded parts of them: pages of the log.
        assert _memory_bytes(served) - before < 75 * 1024 * 1024
        assert await asyncio.to_thread(read_all, stuck) == every


async def _read_on(server: Server, run: str) -> list[int]:
    ws = await open_socket(server, f"/ws/runs/{run}?view=page")
    seqs: list[int] = []
    async for message in messages_of(ws):
        frames = message.get("frames", [])
        seqs += [frame["event"]["seq"] for frame in frames if frame["type"] == "trace"]
    assert ws.close_code == 1000
    return seqs


def _memory_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


async def test_a_person_watches_with_a_session_and_is_signed_out(
    installation: Installation, served: Server
) -> None:
    session = await asyncio.to_thread(_sign_in, served, "demo")
    run = await asyncio.to_thread(served.start, "site-loop")
    cookie = {"Cookie": f"sessionid={session.cookies['sessionid']}"}
    path = f"ws{served.url[4:]}/ws/runs/{run}?view=page&tree=1&tz=Europe/Berlin"
    ws = await connect(path, origin=served.url, additional_headers=cookie)
    async with asyncio.timeout(PATIENCE_SECONDS):
        message = json.loads(await ws.recv())
        assert message["type"] == "frames"
        assert "input" not in message["frames"][0]["run"]
        assert message["frames"][0]["words"]["status"]
        await asyncio.to_thread(_sign_out, session, served)
        async for _ in messages_of(ws):
            pass
    assert ws.close_code == 4403
    await asyncio.to_thread(session.close)


def _sign_in(server: Server, name: str) -> httpx.Client:
    session = httpx.Client(base_url=server.url, timeout=30, follow_redirects=False)
    session.get("/accounts/login/")
    form = {"username": name, "password": name, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
    assert session.post("/accounts/login/", data=form).status_code == 302
    return session


def _sign_out(session: httpx.Client, server: Server) -> None:
    form = {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
    answer = session.post("/accounts/logout/", data=form, headers={"Origin": server.url})
    assert answer.status_code < 400, answer.text
