"""LangChain: an agent whose model has retries and fallbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import openai
from langchain.agents import create_agent
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from agents import guarded_transport

from .tools import Hear, Look, SyncLook

__all__ = ["stream", "stream_in_thread", "turns", "turns_in_thread"]

ASKED: Any = {"messages": [("user", "Look at things.")]}


@asynccontextmanager
async def model(**options: Any) -> AsyncIterator[ChatOpenAI]:
    transport = guarded_transport(httpx2.AsyncHTTPTransport())
    async with openai.DefaultAsyncHttpxClient(transport=transport) as client:
        yield ChatOpenAI(model="m", http_async_client=client, **options)


@contextmanager
def sync_model(**options: Any) -> Iterator[ChatOpenAI]:
    transport = guarded_transport(httpx2.HTTPTransport())
    with openai.DefaultHttpxClient(transport=transport) as client:
        yield ChatOpenAI(model="m", http_client=client, **options)


def stubborn(first: Runnable, second: Runnable) -> Runnable:
    """Try each of two models three times."""
    return first.with_retry().with_fallbacks([second.with_retry()])


async def turns(look: Look) -> None:
    async with model() as first:
        await create_agent(first, [tool(look)]).ainvoke(ASKED)


async def stream(look: Look, hear: Hear) -> None:
    async with model() as first:
        agent = create_agent(first, [tool(look)])
        async for message, _ in agent.astream(ASKED, stream_mode="messages"):
            hear(message.text if message.type == "AIMessageChunk" else "")


def turns_in_thread(look: SyncLook) -> None:
    with sync_model() as first:
        create_agent(first, [tool(look)]).invoke(ASKED)


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as first:
        agent = create_agent(first, [tool(look)])
        for message, _ in agent.stream(ASKED, stream_mode="messages"):
            hear(message.text if message.type == "AIMessageChunk" else "")
