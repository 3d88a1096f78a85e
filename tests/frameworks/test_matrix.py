"""Each framework meets a stop in a call, in a stream, in a tool, and the same in a thread.

What holds in each cell: the agent's own frame gets ``AgentStopped`` itself, and no error or group
that was made of it; the agent returns what it has, as its partial result; the model's server has
seen no request after the one in flight; and no task or thread is left with an error of which
asyncio complains later.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest

from agents import AgentStopped, SyncTools, Tools, agent, check_should_stop
from agents.testing import MemoryDataStore, Result, Run, ScriptedModel, running

from .model_server import ModelServer, asking_for

MODES = ["graceful", "abort"]
#: Some retries decide by the text of what was raised, which is the reason of the stop.
REASON = "429 Too Many Requests: rate limit, timeout, overloaded, try again"
FRAMEWORKS = ["openai_sdk", "anthropic_sdk", "langchain", "langgraph", "pydantic_ai", "smolagents"]
ROWS = {name: importlib.import_module(f".rows.{name}", __package__) for name in FRAMEWORKS}
#: Where the framework's code runs: on the loop, in a thread of an ``async def`` agent, and in a
#: ``def`` agent, which has a thread of its own.
PLACES = {"loop": "{}", "to_thread": "{}_in_thread", "def": "{}_in_thread"}


def cells(kind: str) -> list[Any]:
    """Return the cells of a kind (``turns``, ``stream``): (place, function)."""
    return [
        pytest.param(place, function, id=f"{name}-{place}")
        for name, row in ROWS.items()
        for place, pattern in PLACES.items()
        if (function := getattr(row, pattern.format(kind), None)) is not None
    ]


class Kept:
    """What an agent under test has: things that its tool saw, and pieces of text."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.text = ""


def make_agent(
    place: str, function: Callable[..., Any], *, uses_tools: bool = False, keeps_text: bool = False
) -> Any:
    """Return an agent that runs ``function`` of a row, and returns what it has when stopped."""
    hears = "hear" in inspect.signature(function).parameters

    def result(kept: Kept) -> Any:
        return kept.text if keeps_text else kept.seen

    def arguments(look: object, kept: Kept, tools: Tools | SyncTools) -> tuple[Any, ...]:
        def hear(piece: str) -> None:
            kept.text += piece
            if piece:
                tools.progress(len(kept.text), None)

        return (look, hear) if hears else (look,)

    async def on_loop(tools: Tools) -> Any:
        kept = Kept()

        async def look(what: str) -> str:
            """Look at a thing.

            Args:
                what: the thing.
            """
            kept.seen.append(what)
            if uses_tools:
                await tools.call_llm([{"role": "user", "content": what}])
                await tools.data_store.set(what, "seen")
            return "It is fine."

        try:
            await function(*arguments(look, kept, tools))
        except AgentStopped:
            return result(kept)
        raise AssertionError("it ended by itself")

    async def to_thread(tools: Tools) -> Any:
        kept, loop = Kept(), asyncio.get_running_loop()

        def look(what: str) -> str:
            """Look at a thing.

            Args:
                what: the thing.
            """
            kept.seen.append(what)
            if uses_tools:
                asking = tools.call_llm([{"role": "user", "content": what}])
                asyncio.run_coroutine_threadsafe(asking, loop).result()
                check_should_stop()
            return "It is fine."

        try:
            await asyncio.to_thread(function, *arguments(look, kept, tools))
        except AgentStopped:
            return result(kept)
        raise AssertionError("it ended by itself")

    def in_thread(tools: SyncTools) -> Any:
        kept = Kept()

        def look(what: str) -> str:
            """Look at a thing.

            Args:
                what: the thing.
            """
            kept.seen.append(what)
            if uses_tools:
                tools.call_llm([{"role": "user", "content": what}])
                tools.data_store.set(what, "seen")
            return "It is fine."

        try:
            function(*arguments(look, kept, tools))
        except AgentStopped:
            return result(kept)
        raise AssertionError("it ended by itself")

    forms: dict[str, Any] = {"loop": on_loop, "to_thread": to_thread, "def": in_thread}
    return agent("under_test")(forms[place])


async def assert_stopped(run: Run, server: ModelServer, caplog: Any, *, requests: int) -> Result:
    """Check what holds in each cell, and return how the run has ended."""
    result = await run.result()
    assert (result.status, result.error, result.cleanup_error) == ("stopped", None, None), run
    assert result.calls_started_after_stop == 0
    assert server.request_count == requests
    await assert_no_complaints(caplog)
    return result


async def assert_no_complaints(caplog: Any) -> None:
    """Check that asyncio has nothing to say about tasks that no code asked for their error."""
    gc.collect()
    await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), cells("turns"))
@pytest.mark.parametrize("turn", [1, 3])
async def test_stop_in_a_call(
    server: ModelServer, caplog: Any, place: str, function: Any, turn: int, mode: str
) -> None:
    server.hold()
    async with running(make_agent(place, function), seconds=20) as run:
        for number in range(1, turn):
            await server.until_requests(number)
            server.let_go()
        await server.until_requests(turn)
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=turn)
        if mode == "abort":
            await server.until(lambda: server.aborted_count == 1, "a closed connection")
    finished = turn if mode == "graceful" else turn - 1
    assert server.completed_count == finished
    assert result.partial_result == [f"thing {number}" for number in range(finished)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), cells("stream"))
async def test_stop_in_a_stream(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.hold("middle")
    async with running(make_agent(place, function, keeps_text=True), seconds=20) as run:
        await run.until("progress")
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=1)
        if mode == "abort":
            await server.until(lambda: server.aborted_count == 1, "a closed connection")
    assert result.partial_result == ("Let me look." if mode == "graceful" else "Let ")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), cells("turns"))
@pytest.mark.parametrize("count", [1, 3])
async def test_stop_in_a_tool(
    server: ModelServer, caplog: Any, place: str, function: Any, count: int, mode: str
) -> None:
    server.answers[0] = asking_for("look", 0, count)

    def reply(messages: list[dict[str, str]]) -> str:
        run.stop(mode, REASON)
        return "It is fine."

    model, store = ScriptedModel(reply), MemoryDataStore()
    under_test = make_agent(place, function, uses_tools=True)
    async with running(under_test, model=model, data_store=store, seconds=20) as run:
        result = await assert_stopped(run, server, caplog, requests=1)
    assert result.partial_result[0] == "thing 0"
    assert len(model.calls) <= count
    assert store.entries == {}
