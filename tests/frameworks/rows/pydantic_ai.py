"""pydantic-ai: an agent that retries, with a model that falls back to another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from pydantic_ai import Agent
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from agents import guarded_transport

from .tools import Hear, Look, SyncLook

__all__ = ["open_agent", "stream", "stream_in_thread", "turns", "turns_in_thread"]


@asynccontextmanager
async def open_agent(look: Look | SyncLook) -> AsyncIterator[Agent]:
    transport = guarded_transport(httpx2.AsyncHTTPTransport())
    async with httpx2.AsyncClient(transport=transport) as client:
        provider = OpenAIProvider(http_client=client)
        model = OpenAIChatModel("m", provider=provider)
        yield Agent(FallbackModel(model, model), tools=[look], retries=3)


async def turns(look: Look) -> None:
    async with open_agent(look) as agent:
        await agent.run("Look at things.")


async def stream(look: Look, hear: Hear) -> None:
    async with open_agent(look) as agent:
        while True:
            async with agent.run_stream("Say hello.") as answer:
                async for piece in answer.stream_text(delta=True, debounce_by=None):
                    hear(piece)


def turns_in_thread(look: SyncLook) -> None:
    async def main() -> None:
        async with open_agent(look) as agent:
            await agent.run("Look at things.")

    asyncio.run(main())


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    async def main() -> None:
        async with open_agent(look) as agent:
            while True:
                async with agent.run_stream("Say hello.") as answer:
                    async for piece in answer.stream_text(delta=True, debounce_by=None):
                        hear(piece)

    asyncio.run(main())
