"""The end of a hub."""

from __future__ import annotations

import asyncio

import pytest

from runs.web.feed import Hub
from tests.support.running import Gate

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_repeated_close_waits_for_the_first_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a process would end its loop while the first one closes connections."""
    gate = Gate()
    monkeypatch.setattr("runs.db.threads.DatabaseThreads.close", lambda _: gate.wait_here())
    first = asyncio.create_task(hub.close())
    await asyncio.to_thread(gate.until_arrived)
    second = asyncio.create_task(hub.close())
    assert hub.is_closed
    await asyncio.sleep(0.05)
    assert not second.done()
    gate.open()
    await asyncio.gather(first, second)
