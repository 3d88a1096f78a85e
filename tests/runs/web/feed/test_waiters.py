"""Requests that wait for the end of a run: told at once, found by polling, and let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from runs.models import RunRecord
from runs.web.feed import Hub, RightLost, Viewer, reading
from tests.support.feeds import Writer, settle, turns


def _wait(hub: Hub, run: RunRecord, seconds: float = 20.0) -> asyncio.Task[bool]:
    viewer = Viewer(run.owner_id, token="x", run=run.pk)
    return asyncio.create_task(hub.until_over(viewer, seconds))


@pytest.fixture
async def hub(hub: Hub) -> AsyncIterator[Hub]:
    yield hub
    assert not len(hub.waiters)
    assert not hub.waiters._waiting


async def _answer(task: asyncio.Task[bool]) -> bool:
    async with asyncio.timeout(10):
        return await task


async def test_an_end_before_the_wait_is_seen(writer: Writer, hub: Hub) -> None:
    run = writer.queue()
    writer.begin()
    writer.end(run.pk)
    assert await _answer(_wait(hub, run)) is True


async def test_an_end_during_the_wait_is_told_at_once(writer: Writer, hub: Hub) -> None:
    run = writer.queue()
    writer.begin()
    waiting = _wait(hub, run)
    await turns(50)
    assert not waiting.done()
    writer.end(run.pk)
    assert await _answer(waiting) is True


async def test_an_end_without_a_message_is_found_by_one_query_for_all(
    writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [writer.queue() for _ in range(30)]
    writer.begin(is_elsewhere=True)
    waiting = [_wait(hub, run) for run in runs for _ in range(3)]
    await turns(100)
    asked: list[int] = []
    read_over = reading.read_over

    def count(ids: Any) -> Any:
        asked.append(len(ids))
        return read_over(ids)

    monkeypatch.setattr(reading, "read_over", count)
    for run in runs:
        writer.end(run.pk)
    await turns(50)
    assert not any(task.done() for task in waiting)
    await hub.waiters.poll()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [True] * 90
    assert asked == [30]


async def test_a_run_that_is_handed_back_is_waited_for_further(writer: Writer, hub: Hub) -> None:
    run = writer.queue()
    writer.begin()
    waiting = _wait(hub, run)
    await turns(20)
    writer.lose(run.pk)
    await settle(hub)
    assert not waiting.done()
    writer.begin()
    writer.end(run.pk)
    assert await _answer(waiting) is True


async def test_a_deleted_run_ends_the_wait(writer: Writer, hub: Hub) -> None:
    run = writer.queue()
    waiting = _wait(hub, run)
    await turns(20)
    writer.delete(run.pk)
    await hub.waiters.poll()
    assert await _answer(waiting) is True


async def test_the_time_is_over(writer: Writer, hub: Hub) -> None:
    assert await _answer(_wait(hub, writer.queue(), 0.01)) is False


async def test_a_waiter_that_leaves_is_forgotten(writer: Writer, hub: Hub) -> None:
    waiting = _wait(hub, writer.queue())
    await turns(20)
    assert len(hub.waiters) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not len(hub.waiters)


async def test_the_end_of_the_process_lets_all_go(writer: Writer, hub: Hub) -> None:
    run = writer.queue()
    waiting = _wait(hub, run)
    await turns(20)
    await hub.close()
    for task in (waiting, _wait(hub, run)):  # one that comes later does not wait
        with pytest.raises(RightLost) as lost:
            await _answer(task)
        assert lost.value.why == "restart"


async def test_a_failing_database_is_asked_again(
    writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = writer.queue()
    writer.begin()
    waiting = _wait(hub, run)
    await turns(50)
    read_over, failures = reading.read_over, [OSError("away"), OSError("away")]

    def fail(ids: Any) -> Any:
        if failures:
            raise failures.pop()
        return read_over(ids)

    monkeypatch.setattr(reading, "read_over", fail)
    writer.end(run.pk)
    assert await _answer(waiting) is True
    assert not failures
