"""Readers that are slow, silent or leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runs.web.feed import Hub, RightLost, follower, reading
from tests.support.feeds import Writer, finished, settle, turns, watch


class TestHeartbeats:
    async def test_come_when_there_is_nothing_to_send(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.web.feed.hub.HEARTBEAT_SECONDS", 0.01)
        reader = watch(hub, writer.queue())
        async with asyncio.timeout(10):
            while reader.heartbeats < 3:
                await asyncio.sleep(0.005)

    async def test_come_also_when_updates_change_nothing(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a deleted child, say, each poll finds again that it is gone."""
        monkeypatch.setattr("runs.web.feed.hub.HEARTBEAT_SECONDS", 0.05)
        reader = watch(hub, writer.queue())
        async with asyncio.timeout(10):
            while reader.heartbeats < 3:
                reader.follower.wake()
                await asyncio.sleep(0.005)


class TestSlowReaders:
    @pytest.mark.thorough
    async def test_make_no_process_hold_anything(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = writer.queue()
        writer.begin()
        writer.flush()
        viewer = watch(hub, run)
        slow = watch(hub, run)
        await settle(hub, viewer, slow)
        gate = asyncio.Event()
        held: list[int] = []
        read_on = slow._encode

        def encode(batch: Any) -> Any:
            held.append(sum(len(frame.data) for frame in batch))
            return read_on(batch)

        monkeypatch.setattr(slow, "_encode", encode)
        sleep = asyncio.sleep

        async def stuck(seconds: float) -> None:
            if asyncio.current_task() is slow.task:
                await gate.wait()
            await sleep(seconds)

        monkeypatch.setattr(asyncio, "sleep", stuck)
        for _ in range(25):
            writer.log(run.pk, 50, 20_000)
            writer.flush()
            await turns(50)
        await settle(hub, viewer)
        tail = hub.tails.get(run.pk)
        assert tail is not None
        assert viewer.client.seqs[str(run.pk)] == 1_251
        assert slow.client.seqs.get(str(run.pk), 0) < 200
        assert len(tail._events) <= 1_000
        assert tail._characters == sum(map(len, tail._events)) <= 1_000_000
        kept = hub.pages
        assert kept._characters == sum(len(e) for p in kept._pages.values() for e in p)
        assert kept._characters <= reading.MOST_PAGES_CHARACTERS
        gate.set()
        await settle(hub, slow)
        assert slow.client.seqs[str(run.pk)] == 1_251
        assert max(held) < follower.MOST_CHARACTERS + 25_000


class TestLeaving:
    async def test_at_any_moment_leaves_nothing_behind(self, writer: Writer, hub: Hub) -> None:
        run = writer.queue()
        writer.begin()
        writer.bear(run.pk)
        writer.log(run.pk, 600)
        writer.flush()
        first = watch(hub, run)  # starts the hub's own tasks
        await settle(hub, first)
        tasks = asyncio.all_tasks()
        for moment in range(0, 80, 2):
            reader = watch(hub, run, is_tree=True)
            await turns(moment)
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)
            await turns(60)
            assert hub.readers == {first.follower}
            assert not hub.refresher.trees
            assert not hub.pages.reading
            assert not asyncio.all_tasks() - tasks
            wakers = {tail.id: tail.wakers for tail in hub.tails if tail.wakers}
            assert wakers == {run.pk: {first.follower.wake}}
        for tail in hub.tails:
            hub.tails.forget_if_alone(tail)  # as when it has lingered
        assert [tail.id for tail in hub.tails] == [run.pk]
        assert hub.tails._tails.keys() == {run.pk, str(run.pk)}

    async def test_of_the_process_ends_every_feed(self, writer: Writer, hub: Hub) -> None:
        reader = watch(hub, writer.queue())
        await settle(hub, reader)
        await hub.close()
        await turns(10)
        assert isinstance(reader.error, RightLost)
        assert reader.error.why == "restart"
        late = watch(hub, writer.queue())
        await turns(10)
        assert isinstance(late.error, RightLost)

    @pytest.mark.parametrize("moment", [0, 2, 5, 9, 14, 20])
    async def test_of_the_process_ends_a_feed_in_the_middle_of_its_replay(
        self, writer: Writer, hub: Hub, moment: int
    ) -> None:
        run = finished(writer, 3_000)
        reader = watch(hub, run)
        await turns(moment)
        await hub.close()
        async with asyncio.timeout(10):
            await asyncio.gather(reader.task, return_exceptions=True)
        assert not reader.task.cancelled()
        assert isinstance(reader.error, RightLost), reader.error
        assert reader.error.why == "restart"
