"""The timers and servers that a run has left call none of its code when it is over."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from agents import Tools
from tests.support.started_run import Started

PAUSE = 0.005  # seconds, of the chains


async def end(how: str, run: Started, tools: Tools) -> None:
    if how == "error":
        raise ValueError("no")
    if how == "stop":
        run.stop()
        await tools.data_store.get("x")


@pytest.mark.parametrize("how", ["return", "error", "stop"])
@pytest.mark.parametrize("form", ["function", "partial", "call_at", "in a task", "in a thread"])
async def test_a_chain_of_timers_ends_with_its_run(form: str, how: str, tmp_path: Path) -> None:
    witness = tmp_path / "words"
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def again(word: str = "again\n") -> None:
        with witness.open("a") as file:
            file.write(word)
        begun.set()
        if form == "call_at":
            loop.call_at(loop.time() + PAUSE, again)
        else:
            loop.call_later(PAUSE, partial(again, word) if form == "partial" else again)

    async def work(tools: Tools) -> None:
        if form == "in a thread":
            await asyncio.to_thread(loop.call_soon_threadsafe, again)
        elif form == "in a task":
            await asyncio.create_task(asyncio.sleep(0, again()))
        else:
            again()
        await begun.wait()
        await end(how, run, tools)

    run = Started(work)
    await run.outcome()
    words = witness.read_text()
    await asyncio.sleep(10 * PAUSE)
    assert witness.read_text() == words


async def test_a_timer_that_is_due_at_the_end_does_not_come(tmp_path: Path) -> None:
    called = []

    async def work(tools: Tools) -> None:
        asyncio.get_running_loop().call_later(0, called.append, "late")

    run = Started(work)
    await run.outcome()
    before = list(called)
    await asyncio.sleep(PAUSE)
    assert called == before


async def test_asyncios_own_timers_are_left(tmp_path: Path) -> None:
    """A connection that several runs share may have been opened by one that is over."""
    timers = []

    async def work(tools: Tools) -> None:
        timers.append(asyncio.get_running_loop().call_later(60, asyncio.Event().set))

    await Started(work).outcome()
    assert not timers[0].cancelled()
    timers[0].cancel()


async def test_the_timers_of_others_are_left() -> None:
    timers = []

    async def forever(tools: Tools) -> None:
        timers.append(asyncio.get_running_loop().call_later(60, print))
        await asyncio.Event().wait()

    async def brief(tools: Tools) -> None:
        asyncio.get_running_loop().call_later(60, print)

    timers.append(asyncio.get_running_loop().call_later(60, print))  # of code outside of runs
    staying = Started(forever)
    await Started(brief).outcome()
    assert len(timers) == 2
    assert not any(timer.cancelled() for timer in timers)
    staying.ending.cancel()
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_a_server_ends_with_its_run(family: str, tmp_path: Path) -> None:
    handled = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.append(1)
        writer.close()

    async def work(tools: Tools) -> None:
        if family == "tcp":
            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            connect.append(partial(asyncio.open_connection, "127.0.0.1", port))
        else:
            await asyncio.start_unix_server(handle, tmp_path / "socket")
            connect.append(partial(asyncio.open_unix_connection, tmp_path / "socket"))
        reader, writer = await connect[0]()
        await reader.read()
        writer.close()

    connect: list[partial[object]] = []
    await Started(work).outcome()
    assert handled == [1]
    with pytest.raises(OSError, match="Errno 111"):
        await connect[0]()  # type: ignore[misc]
