"""Other ways to use pydantic-ai. The name says what is used."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai import Agent, RunContext
from pydantic_ai.direct import model_request
from pydantic_ai.messages import (
    ModelRequest,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)

from ..rows.pydantic_ai import open_agent
from ..rows.tools import Hear, Look, SyncLook

__all__ = ["IN_A_CALL", "IN_A_STREAM", "IN_A_TOOL", "SIDE_BY_SIDE"]


async def model_requests(look: Look, hear: Hear) -> None:
    async with open_agent(look) as agent:
        while True:
            answer = await model_request(agent.model, [ModelRequest.user_text_prompt("Look.")])
            [part] = [part for part in answer.parts if isinstance(part, TextPart)]
            hear(part.content)


async def iter_nodes(look: Look, hear: Hear) -> None:
    async with open_agent(look) as agent, agent.iter("Look.") as run:
        async for node in run:
            if Agent.is_call_tools_node(node):
                for part in node.model_response.parts:
                    hear(part.content if isinstance(part, TextPart) else "")


def run_sync_in_thread(look: SyncLook, hear: Hear) -> None:
    opened = open_agent(look)
    with asyncio.Runner() as runner:
        agent = runner.run(opened.__aenter__())
        try:
            agent.run_sync("Look.")
        finally:
            runner.run(opened.__aexit__(None, None, None))


async def run_stream_events(look: Look, hear: Hear) -> None:
    async with open_agent(look) as agent, agent.run_stream_events("Look.") as events:
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                hear(event.part.content)
            if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                hear(event.delta.content_delta)


async def event_stream_handler(look: Look, hear: Hear) -> None:
    async def handle(context: RunContext, events: Any) -> None:
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                hear(event.part.content)
            if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                hear(event.delta.content_delta)

    async with open_agent(look) as agent:
        await agent.run("Look.", event_stream_handler=handle)


async def an_agent_in_a_tool(look: Look, hear: Hear) -> None:
    """The model asks for ``look``, which asks an agent that looks."""
    async with open_agent(look) as inner:

        async def delegate(what: str) -> str:
            """Look at a thing."""
            return (await inner.run(what)).output

        outer = Agent(inner.model, retries=3)
        outer.tool_plain(name="look", retries=3)(delegate)
        await outer.run("Look.")


async def gathered_runs(look: Look, hear: Hear) -> None:
    async def one() -> None:
        async with open_agent(look) as agent, agent.iter("Look.") as run:
            async for node in run:
                if Agent.is_call_tools_node(node):
                    for part in node.model_response.parts:
                        hear(part.content if isinstance(part, TextPart) else "")

    await asyncio.gather(one(), one(), one())


IN_A_CALL = [model_requests, iter_nodes]
IN_A_STREAM = [run_stream_events, event_stream_handler]
IN_A_TOOL = [an_agent_in_a_tool, run_sync_in_thread]
SIDE_BY_SIDE = [gathered_runs]
