"""The agents in docs/sdks.md run, and are stopped as the page says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.testing import MemoryDataStore, running

from .examples import HERE, IN_OPENAI2, agents_on_the_page, defined
from .mcp_server import ToolServer
from .model_server import ModelServer
from .test_matrix import REASON, assert_stopped


@pytest.mark.parametrize("name", [name for name in HERE if name != "with_mcp"])
@pytest.mark.parametrize("turn", [1, 2])
async def test_it_is_stopped_in_a_call_and_keeps_what_it_has(
    server: ModelServer, tmp_path: Path, caplog: Any, name: str, turn: int
) -> None:
    store = MemoryDataStore()
    server.hold()
    with defined(name, tmp_path) as agent:
        async with running(agent, {"question": "What is there?"}, data_store=store) as run:
            for number in range(1, turn):
                await server.until_requests(number)
                server.let_go()
            await server.until_requests(turn)
            run.stop(reason=REASON)
            server.release()
            result = await assert_stopped(run, server, caplog, requests=turn)
    assert result.partial_result == [f"thing {number}" for number in range(turn)]
    usage = result.usage
    assert (usage.llm_calls, usage.input_tokens, usage.output_tokens) == (
        turn,
        21 * turn,
        13 * turn,
    )


async def test_the_agent_that_uses_mcp_keeps_the_answer_of_the_call_in_flight(
    tmp_path: Path,
) -> None:
    with ToolServer() as things, defined("with_mcp", tmp_path) as agent:
        async with running(agent, {"url": things.url}) as run:
            await things.until("tools/call look", 3)
            run.stop()
            result = await run.result()
    assert result.status == "stopped"
    assert len(result.partial_result) == things.count("tools/call look")


def test_each_section_with_an_argument_has_an_agent_that_is_tested() -> None:
    assert sorted(agents_on_the_page()) == sorted([*HERE, *IN_OPENAI2])
