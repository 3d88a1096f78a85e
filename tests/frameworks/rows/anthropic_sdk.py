"""The anthropic SDK: its own runner of tools, and its streams."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx2

from agents import guarded_transport

from .tools import Hear, Look, SyncLook

__all__ = [
    "anthropic_client",
    "anthropic_sync_client",
    "stream",
    "stream_in_thread",
    "turns",
    "turns_in_thread",
]

ASKED: Any = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Look at things."}],
}


def anthropic_client() -> anthropic.AsyncAnthropic:
    transport = guarded_transport(httpx2.AsyncHTTPTransport())
    http = anthropic.DefaultAsyncHttpxClient(transport=transport)
    return anthropic.AsyncAnthropic(http_client=http)


def anthropic_sync_client() -> anthropic.Anthropic:
    transport = guarded_transport(httpx2.HTTPTransport())
    return anthropic.Anthropic(http_client=anthropic.DefaultHttpxClient(transport=transport))


async def turns(look: Look) -> None:
    tool = anthropic.beta_async_tool(look)
    async with anthropic_client() as client:
        async for _ in client.beta.messages.tool_runner(tools=[tool], **ASKED):
            pass


async def stream(look: Look, hear: Hear) -> None:
    async with anthropic_client() as client:
        while True:
            async with client.messages.stream(**ASKED) as answer:
                async for text in answer.text_stream:
                    hear(text)


def turns_in_thread(look: SyncLook) -> None:
    with anthropic_sync_client() as client:
        for _ in client.beta.messages.tool_runner(tools=[anthropic.beta_tool(look)], **ASKED):
            pass


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    with anthropic_sync_client() as client:
        while True:
            with client.messages.stream(**ASKED) as answer:
                for text in answer.text_stream:
                    hear(text)
