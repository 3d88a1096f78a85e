"""The openai SDK: a loop of turns written by hand."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai

from agents import guarded_transport

from .tools import Hear, Look, SyncLook

__all__ = [
    "openai_client",
    "openai_sync_client",
    "stream",
    "stream_in_thread",
    "turns",
    "turns_in_thread",
]

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
        },
    }
]


def openai_client() -> openai.AsyncOpenAI:
    transport = guarded_transport(httpx2.AsyncHTTPTransport())
    return openai.AsyncOpenAI(http_client=openai.DefaultAsyncHttpxClient(transport=transport))


def openai_sync_client() -> openai.OpenAI:
    transport = guarded_transport(httpx2.HTTPTransport())
    return openai.OpenAI(http_client=openai.DefaultHttpxClient(transport=transport))


async def turns(look: Look) -> None:
    messages: list[Any] = [{"role": "user", "content": "Look at things."}]
    async with openai_client() as client:
        while True:
            completion = await client.chat.completions.create(
                model="m", messages=messages, tools=TOOLS
            )
            message = completion.choices[0].message
            messages.append(message)
            for call in message.tool_calls or ():
                assert call.type == "function"
                seen = await look(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": seen})


async def stream(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            chunks = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello."}], stream=True
            )
            async for chunk in chunks:
                hear(chunk.choices[0].delta.content or "" if chunk.choices else "")


def turns_in_thread(look: SyncLook) -> None:
    messages: list[Any] = [{"role": "user", "content": "Look at things."}]
    with openai_sync_client() as client:
        while True:
            completion = client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
            message = completion.choices[0].message
            messages.append(message)
            for call in message.tool_calls or ():
                assert call.type == "function"
                seen = look(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": seen})


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    with openai_sync_client() as client:
        while True:
            for chunk in client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello."}], stream=True
            ):
                hear(chunk.choices[0].delta.content or "" if chunk.choices else "")
