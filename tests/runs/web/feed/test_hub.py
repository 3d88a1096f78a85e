"""The end of a hub, and its reads while the database is away."""

from __future__ import annotations

import asyncio

import pytest
from django.db import DataError, OperationalError

from runs.db import transactions
from runs.web.feed import Hub, reading
from tests.support.feeds import Reader, Writer, finished, watch
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


class TestWhileTheDatabaseIsAway:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.001)

    @pytest.mark.parametrize("wire", ["socket", "sse"])
    async def test_no_feed_breaks_off(
        self,
        wire: str,
        writer: Writer,
        hub: Hub,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Neither one that reads the input, nor one that reads the log."""
        run = finished(writer, 700)
        failures = _fail(monkeypatch, "read_input", "read_events", "read_trees")
        readers = [watch(hub, run, wire) for _ in range(3)]  # type: ignore[arg-type]
        readers += [watch(hub, run, wire, is_tree=True)]  # type: ignore[arg-type]
        await _ended(*readers)
        assert {"read_input", "read_events", "read_trees"} <= set(failures)
        for reader in readers:
            assert reader.client.seqs == {str(run.pk): 702}

    async def test_a_refused_query_is_not_repeated(
        self, writer: Writer, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[int] = []

        def refuse() -> None:
            tries.append(1)
            raise DataError("no")

        with pytest.raises(DataError):
            await hub.read_patiently(refuse)
        assert len(tries) == 1

    async def test_a_handshake_is_answered_at_once(self, hub: Hub) -> None:
        def away() -> None:
            raise OperationalError("away")

        with pytest.raises(OperationalError):
            await hub.read(away)


def _fail(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Let these functions fail twice each; the list has the failures."""
    failures: list[str] = []

    def break_off(name: str) -> None:
        read = getattr(reading, name)

        def broken(*arguments: object) -> object:
            if failures.count(name) < 2:
                failures.append(name)
                raise OperationalError("away")
            return read(*arguments)

        monkeypatch.setattr(reading, name, broken)

    for name in names:
        break_off(name)
    return failures


async def _ended(*readers: Reader) -> None:
    async with asyncio.timeout(10):
        while not all(reader.client.is_ended for reader in readers):
            await asyncio.sleep(0.005)
