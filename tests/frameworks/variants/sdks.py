"""Other ways to use the openai and anthropic SDKs. The name says what is used."""

from __future__ import annotations

import asyncio

import anthropic
import openai

from ..rows.anthropic_sdk import ASKED, anthropic_client, anthropic_sync_client
from ..rows.openai_sdk import openai_client, openai_sync_client
from ..rows.tools import Hear, Look, SyncLook

__all__ = ["IN_A_CALL", "IN_A_PAUSE", "IN_A_STREAM", "SIDE_BY_SIDE"]

HELLO = [{"role": "user", "content": "Hello."}]


async def _text(client: openai.AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(model="m", messages=HELLO)
    return answer.choices[0].message.content or ""


async def openai_in_a_task(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            hear(await asyncio.create_task(_text(client)))


async def openai_with_a_time_limit(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            hear(await asyncio.wait_for(_text(client), 10))


async def openai_catching_its_errors(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            try:
                hear(await _text(client))
            except Exception as error:
                hear(f"an error: {error}")


async def openai_stream_helper(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            async with client.chat.completions.stream(model="m", messages=HELLO) as events:
                async for event in events:
                    hear(event.delta if event.type == "content.delta" else "")


async def anthropic_tool_runner_stream(look: Look, hear: Hear) -> None:
    tool = anthropic.beta_async_tool(look)
    async with anthropic_client() as client:
        async for answer in client.beta.messages.tool_runner(tools=[tool], stream=True, **ASKED):
            async for event in answer:
                hear(event.text if event.type == "text" else "")


async def openai_gather(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        while True:
            for text in await asyncio.gather(*(_text(client) for _ in range(3))):
                hear(text)


async def openai_retries(look: Look, hear: Hear) -> None:
    async with openai_client() as client:
        await client.with_options(max_retries=9).chat.completions.create(model="m", messages=HELLO)


def openai_retries_in_thread(look: SyncLook, hear: Hear) -> None:
    with openai_sync_client() as client:
        client.with_options(max_retries=9).chat.completions.create(model="m", messages=HELLO)


async def anthropic_retries(look: Look, hear: Hear) -> None:
    async with anthropic_client() as client:
        await client.with_options(max_retries=9).messages.create(**ASKED)


def anthropic_retries_in_thread(look: SyncLook, hear: Hear) -> None:
    with anthropic_sync_client() as client:
        client.with_options(max_retries=9).messages.create(**ASKED)


IN_A_CALL = [openai_in_a_task, openai_with_a_time_limit, openai_catching_its_errors]
IN_A_STREAM = [openai_stream_helper, anthropic_tool_runner_stream]
SIDE_BY_SIDE = [openai_gather]
IN_A_PAUSE = [
    openai_retries,
    openai_retries_in_thread,
    anthropic_retries,
    anthropic_retries_in_thread,
]
