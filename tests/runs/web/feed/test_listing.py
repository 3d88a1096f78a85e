"""A reader of the list: nothing old comes after something newer, and no change is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.contrib.auth.models import User

from runs.models import RunRecord
from runs.web.feed import Hub, ListFollower, View, Viewer, listing, reading
from tests.support.feeds import Writer, not_in_a_loop, settle, turns


class Reader:
    def __init__(self, hub: Hub, owner: User, *, sees_all: bool = False) -> None:
        viewer = Viewer(owner.pk, token="x", sees_all=sees_all)
        self.follower = ListFollower(hub, viewer, view=View())
        self.received: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for batch in self.follower.batches():
            for frame in batch:
                self.received.append("reset" if frame.type == "reset" else json.loads(frame.data))
            await self.gate.wait()

    def statuses(self, run: RunRecord) -> list[str]:
        return [t["status"] for t in self.received if t != "reset" and t["id"] == str(run.pk)]


@pytest.fixture
async def reader_of(hub: Hub) -> AsyncIterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def make(owner: User, **options: Any) -> Reader:
        readers.append(Reader(hub, owner, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.task.cancel()
        await asyncio.gather(reader.task, return_exceptions=True)
    assert not hub.refresher.lists
    assert not hub.readers


async def test_each_change_comes_once(
    writer: Writer, hub: Hub, alice: User, bob: User, reader_of: Callable[..., Reader]
) -> None:
    mine, others = reader_of(alice), reader_of(bob)
    all_of_them = reader_of(bob, sees_all=True)
    await settle(hub)
    run = writer.queue()
    await settle(hub)
    writer.begin()
    await settle(hub)
    writer.request_stop(run.pk)
    await settle(hub)
    writer.flush()
    await settle(hub)
    writer.end(run.pk, "stopped")
    await settle(hub)
    expected = ["queued", "running", "stopping", "stopping", "stopped"]
    assert mine.statuses(run) == all_of_them.statuses(run) == expected
    assert others.received == []
    assert not {"input", "result", "partial_result"} & {key for run in mine.received for key in run}


async def test_a_change_without_a_message_is_found(
    writer: Writer, hub: Hub, alice: User, reader_of: Callable[..., Reader]
) -> None:
    run = writer.queue()
    reader = reader_of(alice)
    await settle(hub)
    writer.begin(is_elsewhere=True)
    await settle(hub)
    writer.end(run.pk)
    await settle(hub)
    assert reader.statuses(run) == ["queued", "running", "success"]


async def test_the_first_read_does_not_overtake_newer_ones(
    writer: Writer,
    hub: Hub,
    alice: User,
    reader_of: Callable[..., Reader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = writer.queue()
    go_on = asyncio.Event()

    async def read(work: Any, *args: Any) -> Any:
        with not_in_a_loop():
            found = work(*args)
        if work is reading.read_active:
            await go_on.wait()
        return found

    monkeypatch.setattr(hub, "read", read)
    reader = reader_of(alice)
    await turns(20)
    writer.begin()
    writer.end(run.pk)
    await settle(hub)
    go_on.set()
    await settle(hub)
    assert reader.statuses(run)[-1] == "success"


async def test_a_slow_reader_has_to_read_the_list_again(
    writer: Writer,
    hub: Hub,
    alice: User,
    reader_of: Callable[..., Reader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "MOST_PENDING", 5)
    writer.queue()
    reader = reader_of(alice)
    await settle(hub)
    reader.gate.clear()
    for _ in range(3):
        for _ in range(4):
            writer.queue()
        await settle(hub)
    assert len(reader.follower._pending) <= 5
    last = writer.queue()
    reader.gate.set()
    await settle(hub)
    assert reader.received.count("reset") == 1
    assert len(reader.received) < 13
    assert reader.statuses(last)
