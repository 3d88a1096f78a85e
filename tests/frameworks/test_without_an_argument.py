"""With guard_everything() plain SDKs and frameworks are stopped, which get no guarded client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
import smolagents
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from smolagents import LogLevel

from agents import guard_everything
from agents.testing import running

from .model_server import ModelServer
from .rows.tools import Look, SyncLook
from .test_matrix import MODES, REASON, assert_stopped, make_agent

# Clients that frameworks make for all runs are never closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

SAID: Any = [{"role": "user", "content": "Look at things."}]


@pytest.fixture(autouse=True)
def everything_is_guarded() -> Iterator[None]:
    undo = guard_everything()
    yield
    undo()


async def openai_sdk(look: Look) -> None:
    async with openai.AsyncOpenAI() as client:
        for number in range(9):
            await client.chat.completions.create(model="m", messages=SAID)
            await look(f"thing {number}")


async def openai_stream(look: Look) -> None:
    async with openai.AsyncOpenAI() as client:
        for number in range(9):
            async for _ in await client.responses.create(model="m", input="Look.", stream=True):
                pass
            await look(f"thing {number}")


async def anthropic_sdk(look: Look) -> None:
    async with anthropic.AsyncAnthropic() as client:
        for number in range(9):
            await client.messages.create(model="m", max_tokens=9, messages=SAID)
            await look(f"thing {number}")


def anthropic_sdk_in_thread(look: SyncLook) -> None:
    with anthropic.Anthropic() as client:
        for number in range(9):
            with client.messages.stream(model="m", max_tokens=9, messages=SAID) as stream:
                stream.get_final_text()
            look(f"thing {number}")


async def langchain_openai(look: Look) -> None:
    # It shares one client for each address, and each test has a loop of its own.
    model = ChatOpenAI(model="m", base_url=os.environ["OPENAI_BASE_URL"])
    await create_agent(model, [tool(look)]).ainvoke({"messages": SAID})


async def langchain_anthropic(look: Look) -> None:
    model = ChatAnthropic(model_name="claude-opus-5", timeout=20, stop=None)
    await create_agent(model, [tool(look)]).ainvoke({"messages": SAID})


async def pydantic_ai_by_name(look: Look) -> None:
    await Agent("openai-chat:gpt-5", tools=[look]).run("Look at things.")


def smolagents_in_thread(look: SyncLook) -> None:
    model = smolagents.OpenAIModel("m", retry=False)
    smolagents.ToolCallingAgent([smolagents.tool(look)], model, verbosity_level=LogLevel.OFF).run(
        "Look at things."
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("place", "function"),
    [
        ("loop", openai_sdk),
        ("loop", openai_stream),
        ("loop", anthropic_sdk),
        ("def", anthropic_sdk_in_thread),
        ("to_thread", anthropic_sdk_in_thread),
        ("loop", langchain_openai),
        ("loop", langchain_anthropic),
        ("loop", pydantic_ai_by_name),
        ("def", smolagents_in_thread),
    ],
)
async def test_stop_in_a_call(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.hold()
    async with running(make_agent(place, function), seconds=20) as run:
        await server.until_requests(1)
        server.let_go()
        await server.until_requests(2)
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=2)
    finished = 2 if mode == "graceful" else 1
    assert result.partial_result == [f"thing {number}" for number in range(finished)]
    assert result.usage.llm_calls == 2
