"""The ASGI application: sockets and the lifespan."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.layers import InMemoryChannelLayer
from django.core.exceptions import ImproperlyConfigured

from project.asgi import application
from runs.asgi.lifespan import Lifespan
from runs.delivery.notify import WORKERS_GROUP
from runs.web.feed import get_hub


async def test_an_unknown_socket_is_told_so_where_the_server_can() -> None:
    scope = {
        "type": "websocket",
        "path": "/ws/nowhere",
        "headers": [],
        "extensions": {"websocket.http.response": {}},
    }
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(1))["status"] == 403
    assert json.loads((await socket.receive_output(1))["body"])["code"] == "permission_denied"
    await socket.wait()


@pytest.mark.parametrize("origin", [b"http://testserver", b"http://elsewhere.example.org", None])
async def test_an_unknown_socket_is_refused(origin: bytes | None) -> None:
    headers = [(b"host", b"testserver"), *([(b"origin", origin)] if origin else [])]
    scope = {"type": "websocket", "path": "/ws/nowhere", "headers": headers}
    socket = ApplicationCommunicator(application, scope)
    await socket.send_input({"type": "websocket.connect"})
    # Closing before accepting: the server turns it into a 403.
    assert (await socket.receive_output(1))["type"] == "websocket.close"
    await socket.wait()


class FakeWorker:
    """Records the calls of its methods."""

    def __init__(self) -> None:
        self.id = uuid.uuid4()
        self.calls: list[str] = []

    def wake(self) -> None:
        """The listener calls this."""

    look = wake

    async def start(self) -> None:
        self.calls.append("start")

    async def drain(self) -> None:
        self.calls.append("drain")

    async def stop(self) -> None:
        self.calls.append("stop")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    worker = FakeWorker()
    monkeypatch.setattr("runs.worker.worker.Worker", lambda: worker)
    return worker


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


@asynccontextmanager
async def _running(lifespan: Lifespan, state: dict[str, Any]) -> AsyncIterator[None]:
    server = ApplicationCommunicator(lifespan, {"type": "lifespan", "state": state})
    await server.send_input({"type": "lifespan.startup"})
    started = await server.receive_output(1)
    assert started == {"type": "lifespan.startup.complete"}
    yield
    await server.send_input({"type": "lifespan.shutdown"})
    assert await server.receive_output(1) == {"type": "lifespan.shutdown.complete"}
    await server.wait()


async def test_the_worker_lives_as_long_as_the_server(worker: FakeWorker) -> None:
    state: dict[str, Any] = {}
    lifespan = Lifespan(_nothing)
    async with _running(lifespan, state):
        assert worker.calls == ["start"]
        assert state["lifespan"] is lifespan
        assert lifespan.is_draining is False
    assert worker.calls == ["start", "drain", "stop"]
    assert lifespan.is_draining is True


async def test_a_server_that_drained_before_does_not_drain_again(worker: FakeWorker) -> None:
    lifespan = Lifespan(_nothing)
    async with _running(lifespan, {}):
        await lifespan.drain()
    assert worker.calls == ["start", "drain", "stop"]


async def test_no_worker_where_it_is_switched_off(settings: Any, worker: FakeWorker) -> None:
    settings.RUNS = {"EMBEDDED_WORKER": False}
    lifespan = Lifespan(_nothing)
    async with _running(lifespan, {}):
        assert lifespan.worker is None
    assert worker.calls == []


async def test_nothing_is_served_with_the_published_key(settings: Any, worker: FakeWorker) -> None:
    settings.SECRET_KEY = "django-insecure-not-secret: known"
    with pytest.raises(ImproperlyConfigured, match="DJANGO_SECRET_KEY"):
        await Lifespan(_nothing).start()
    assert worker.calls == []


async def test_nothing_is_served_with_naive_instants(settings: Any, worker: FakeWorker) -> None:
    settings.USE_TZ = False
    with pytest.raises(ImproperlyConfigured, match="USE_TZ"):
        await Lifespan(_nothing).start()
    assert worker.calls == []


async def test_a_worker_that_does_not_start_fails_the_start_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeWorker):
        async def start(self) -> None:
            raise OSError("no threads left")

    monkeypatch.setattr("runs.worker.worker.Worker", Broken)
    server = ApplicationCommunicator(Lifespan(_nothing), {"type": "lifespan"})
    await server.send_input({"type": "lifespan.startup"})
    answer = await server.receive_output(1)
    assert answer == {"type": "lifespan.startup.failed", "message": "no threads left"}
    assert "start-up failed" in caplog.text


class SwallowingLayer(InMemoryChannelLayer):
    """Loses the first cancellation of a call, as Redis' layer may: see runs/process/tasks.py."""

    async def receive(self, channel: str) -> Any:
        await _once_cancelled()
        return await super().receive(channel)

    async def group_add(self, group: str, channel: str) -> None:
        if group != WORKERS_GROUP:
            await _once_cancelled()
        await super().group_add(group, channel)


async def _once_cancelled() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_no_listener_is_left_though_a_cancellation_was_lost(
    worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = SwallowingLayer()
    monkeypatch.setattr("runs.consumers.get_channel_layer", lambda: layer)
    others = asyncio.all_tasks()
    lifespan = Lifespan(_nothing)
    await lifespan.start()
    while len(asyncio.all_tasks() - others) < 2:  # one listens, one joins the worker's group
        await asyncio.sleep(0)
    await lifespan.stop()
    assert not asyncio.all_tasks() - others


async def test_the_drain_sends_watchers_away_at_its_end(worker: FakeWorker) -> None:
    """Until then pages can watch their runs end; afterwards the server waits for no feed."""
    lifespan = Lifespan(_nothing)
    async with _running(lifespan, {}):
        hub = get_hub()
        open_at_drain: list[bool] = []

        async def drain() -> None:
            open_at_drain.append(not hub.is_closed)

        worker.drain = drain  # type: ignore[method-assign]
        await lifespan.drain()
        assert open_at_drain == [True]
        assert hub.is_closed


async def test_where_no_worker_is_watchers_are_sent_away_too(settings: Any) -> None:
    settings.RUNS = {"EMBEDDED_WORKER": False}
    async with _running(Lifespan(_nothing), {}):
        hub = get_hub()
    assert hub.is_closed
