"""Plain SDKs, with no argument that guards them, meet a stop and an abort, and are counted."""

from __future__ import annotations

from typing import Any

import pytest

from agents import AgentStopped, Tools, agent
from agents.testing import Result, Run, running

from ..model_server import ModelServer
from .conftest import WARNINGS
from .ways import STREAMS, TURNS

pytestmark = [
    pytest.mark.usefixtures("everything_is_guarded"),
    pytest.mark.filterwarnings(*WARNINGS),
]

MODES = ["graceful", "abort"]


def under_test(function: Any, *, keeps_text: bool = False) -> Any:
    async def work(tools: Tools) -> Any:
        seen: list[str] = []
        text: list[str] = []

        async def look(what: str) -> str:
            """Look at a thing."""
            seen.append(what)
            return "It is fine."

        def hear(piece: str) -> None:
            text.append(piece)
            if piece:
                tools.progress(len(text), None)

        try:
            await function(look, hear)
        except AgentStopped:
            return "".join(text) if keeps_text else seen
        raise AssertionError("it ended by itself")

    return agent("under_test")(work)


async def stopped(run: Run, server: ModelServer, *, requests: int) -> Result:
    result = await run.result()
    assert (result.status, result.error, result.cleanup_error) == ("stopped", None, None), run
    assert result.calls_started_after_stop == 0
    assert server.request_count == requests
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", TURNS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("turn", [1, 3])
async def test_stop_in_a_call(server: ModelServer, function: Any, turn: int, mode: str) -> None:
    server.hold()
    async with running(under_test(function), seconds=20) as run:
        for number in range(1, turn):
            await server.until_requests(number)
            server.let_go()
        await server.until_requests(turn)
        run.stop(mode)
        if mode == "graceful":
            server.release()
        result = await stopped(run, server, requests=turn)
        if mode == "abort":
            await server.until(lambda: server.aborted_count == 1, "a closed connection")
    finished = turn if mode == "graceful" else turn - 1
    assert result.partial_result == [f"thing {number}" for number in range(finished)]
    assert result.usage.llm_calls == turn
    assert result.usage.output_tokens >= 9 * finished


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", STREAMS, ids=lambda function: function.__name__)
async def test_stop_in_a_stream(server: ModelServer, function: Any, mode: str) -> None:
    server.hold("middle")
    async with running(under_test(function, keeps_text=True), seconds=20) as run:
        await run.until("progress")
        run.stop(mode)
        if mode == "graceful":
            server.release()
        result = await stopped(run, server, requests=1)
    assert result.partial_result == ("Let me look." if mode == "graceful" else "Let ")
    assert result.usage.llm_calls == 1
