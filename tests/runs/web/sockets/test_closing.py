"""How sockets end, and what the socket of the list tells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import User

from project.asgi import application
from runs import consumers
from runs.actions.stopping import request_stop
from runs.identity import tokens
from runs.models import RunRecord, StopVia
from runs.web.feed import close_hub, get_hub, limits
from tests.support.feeds import in_database
from tests.support.handshakes import WAIT_SECONDS, Socket, opened
from tests.support.rows import make_run


class TestClosing:
    async def test_after_the_end_with_1000(self, run: RunRecord, token: str) -> None:
        async with opened(f"/ws/runs/{run.pk}", token=token) as socket:
            await socket.next()
            await in_database(lambda: request_stop(run.pk, via=StopVia.API, check_permission=False))
            types = [(await socket.next()) for _ in range(5)]
            assert [m["type"] for m in types] == ["trace", "trace", "run", "end", "closed"]
            assert types[3]["run"]["status"] == "stopped"
            assert types[4]["code"] == 1000

    async def test_when_the_process_goes_away_with_1012(self, run: RunRecord, token: str) -> None:
        async with (
            opened(f"/ws/runs/{run.pk}", token=token) as one,
            opened("/ws/runs", token=token) as many,
        ):
            await one.next()
            await many.next()
            await close_hub()
            assert await one.code() == 1012
            assert await many.code() == 1012
        assert (await Socket(f"/ws/runs/{run.pk}", token=token).open())["status"] == 403

    async def test_with_too_many_feeds_says_so(
        self, run: RunRecord, token: str, settings: Any
    ) -> None:
        settings.RUNS = {**settings.RUNS, "MAX_FEEDS_PER_OWNER": 1}
        async with opened("/ws/runs", token=token) as first:
            await first.next()
            async with opened(f"/ws/runs/{run.pk}", token=token) as second:
                closed = await second.next()
                assert closed["code"] == 4429
                assert closed["reason"] == "You have 1 feeds open in this process; 1 may be."
        async with opened(f"/ws/runs/{run.pk}", token=token) as third:
            assert (await third.next())["type"] == "run"

    async def test_a_reader_that_leaves_no_room_is_closed_and_continues(
        self, large_runs: list[RunRecord], token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two runs with large inputs, the budget has room for one."""
        monkeypatch.setattr(limits, "MOST_UNSENT_BYTES_OF_USER", 300_000)
        told: list[list[Any]] = [[], []]
        closed = asyncio.Event()

        def sender(number: int) -> Any:
            async def send(message: dict[str, Any]) -> None:
                told[number].append(message)
                if message["type"] == "websocket.send":
                    await asyncio.Event().wait()  # it does not read
                if message["type"] == "websocket.close":
                    closed.set()

            return send

        serving = []
        async with asyncio.timeout(WAIT_SECONDS):
            for number, run in enumerate(large_runs):
                queue: asyncio.Queue[Any] = asyncio.Queue()
                queue.put_nowait({"type": "websocket.connect"})
                scope = Socket(f"/ws/runs/{run.pk}", token=token).scope
                serving.append(asyncio.create_task(application(scope, queue.get, sender(number))))
                while not any(message["type"] == "websocket.send" for message in told[number]):
                    await asyncio.sleep(0.005)
            await closed.wait()
        assert told[0][-1]["code"] == 4408
        assert told[0][-1]["reason"] == "You left too much unread; continue where you were."
        assert told[1][-1]["type"] == "websocket.send"
        async with opened(f"/ws/runs/{large_runs[0].pk}", token=token) as again:
            assert (await again.next())["run"]["input"] == {"text": "x" * 200_000}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def test_a_reader_that_is_stuck_is_let_go(
        self, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "STUCK_SECONDS", 0.05)
        told: list[Any] = []
        closed = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            told.append(message)
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()
            if message["type"] == "websocket.close":
                closed.set()

        queue: asyncio.Queue[Any] = asyncio.Queue()
        queue.put_nowait({"type": "websocket.connect"})
        scope = Socket(f"/ws/runs/{run.pk}", token=token).scope
        serving = asyncio.create_task(application(scope, queue.get, send))
        async with asyncio.timeout(WAIT_SECONDS):
            await closed.wait()
            assert not get_hub().readers
            queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            await serving
        assert [message["type"] for message in told][-1] == "websocket.close"
        assert told[-1]["code"] == 1011

    async def test_leaves_nothing_behind(self, run: RunRecord, token: str) -> None:
        async with opened("/ws/runs", token=token) as socket:
            await socket.next()
            before = asyncio.all_tasks()
            watchers = set(get_hub().readers)
            for moment in range(12):
                other = Socket(f"/ws/runs/{run.pk}?tree=1", token=token)
                await other.send_input({"type": "websocket.connect"})
                for _ in range(moment * 3):
                    await asyncio.sleep(0)
                await other.leave()
            async with asyncio.timeout(WAIT_SECONDS):
                while asyncio.all_tasks() - before:
                    await asyncio.sleep(0.01)
            assert get_hub().readers == watchers
            assert not get_hub().refresher.trees


class TestList:
    async def test_tells_of_my_runs_as_they_come_and_go(
        self, alice: User, bob: User, run: RunRecord, token: str
    ) -> None:
        await in_database(make_run, bob)
        async with opened("/ws/runs?view=page", token=token) as socket:
            first = await _listed(socket)
            assert (first["id"], first["status"]) == (str(run.pk), "queued")
            new = await in_database(make_run, alice)
            assert (await _listed(socket))["id"] == str(new.pk)
            await in_database(make_run, bob)
            await in_database(lambda: request_stop(new.pk, via=StopVia.API, check_permission=False))
            last = await _listed(socket)
            assert (last["id"], last["status"]) == (str(new.pk), "stopped")

    async def test_of_an_operator_tells_of_all(
        self, run: RunRecord, bob: User, operator: User
    ) -> None:
        other = await in_database(make_run, bob)
        key = await in_database(lambda: tokens.create(operator)[0])
        async with opened("/ws/runs", token=key) as socket:
            seen = {(await socket.next())["run"]["id"] for _ in range(2)}
            assert seen == {str(run.pk), str(other.pk)}

    async def test_beats_its_heart(
        self, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.web.feed.hub.HEARTBEAT_SECONDS", 0.02)
        async with opened("/ws/runs?view=page", token=token) as socket:
            for _ in range(2):
                await socket.until("heartbeat")

    async def test_knows_no_cursor(self, token: str) -> None:
        assert (await Socket("/ws/runs?after=1", token=token).open())["status"] == 400


async def _listed(socket: Socket) -> dict[str, Any]:
    """Return the run that the next batch tells of; it has words, and no input."""
    message = await socket.until("frames")
    (frame,) = message["frames"]
    assert frame["words"]["status"]["label"]
    assert "input" not in frame["run"]
    run: dict[str, Any] = frame["run"]
    return run
