"""Ways to use SDKs without any argument that guards them: loops of turns, and streams.

What a function gets are the tool that the model asks for, and what hears each piece of text.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
import openai
from google import genai
from google.genai import types
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

from ..rows.tools import Hear, Look

__all__ = ["STREAMS", "TURNS"]

SAID: Any = [{"role": "user", "content": "Look at things."}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
    },
}


async def openai_chat(look: Look, hear: Hear) -> None:
    messages = list(SAID)
    async with openai.AsyncOpenAI() as client:
        while True:
            answer = await client.chat.completions.create(
                model="m", messages=messages, tools=[TOOL]
            )
            await _look(answer.choices[0].message, messages, look)


async def _look(message: Any, messages: list[Any], look: Look) -> None:
    messages.append(message)
    for call in message.tool_calls or ():
        seen = await look(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": seen})


async def openai_responses(look: Look, hear: Hear) -> None:
    async with openai.AsyncOpenAI() as client:
        while True:
            response = await client.responses.create(model="m", input="Look at things.")
            for item in response.output:
                if item.type == "function_call":
                    await look(**json.loads(item.arguments))


async def litellm_openai(look: Look, hear: Hear) -> None:
    await _litellm("openai/m", look)


async def litellm_anthropic(look: Look, hear: Hear) -> None:
    await _litellm("anthropic/m", look)


async def litellm_gemini(look: Look, hear: Hear) -> None:
    await _litellm("gemini/m", look)


async def _litellm(model: str, look: Look) -> None:
    messages = list(SAID)
    while True:
        answer = await litellm.acompletion(model, messages, tools=[TOOL])
        await _look(answer.choices[0].message, messages, look)


async def google_genai(look: Look, hear: Hear) -> None:
    calling = types.AutomaticFunctionCallingConfig(maximum_remote_calls=1000)
    config = types.GenerateContentConfig(tools=[look], automatic_function_calling=calling)
    client = genai.Client()
    try:
        await client.aio.models.generate_content(model="m", contents="Look.", config=config)
    finally:
        await client.aio.aclose()


async def google_genai_in_a_thread(look: Look, hear: Hear) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with genai.Client() as client:
            while True:
                answer = client.models.generate_content(model="m", contents="Look.")
                for call in answer.function_calls or ():
                    asyncio.run_coroutine_threadsafe(look(**call.args), loop).result()

    await asyncio.to_thread(work)


async def llama_index(look: Look, hear: Hear) -> None:
    agent = FunctionAgent(tools=[look], llm=OpenAI("gpt-4o"))
    await agent.run("Look at things.", max_iterations=1000)


async def openai_stream(look: Look, hear: Hear) -> None:
    async with openai.AsyncOpenAI() as client:
        async for chunk in await client.chat.completions.create(
            model="m", messages=SAID, stream=True
        ):
            hear(chunk.choices[0].delta.content or "" if chunk.choices else "")
        await client.chat.completions.create(model="m", messages=SAID)


async def litellm_stream(look: Look, hear: Hear) -> None:
    while True:
        async for chunk in await litellm.acompletion("openai/m", SAID, stream=True):
            hear(chunk.choices[0].delta.content or "")


async def litellm_anthropic_stream(look: Look, hear: Hear) -> None:
    while True:
        async for chunk in await litellm.acompletion("anthropic/m", SAID, stream=True):
            hear(chunk.choices[0].delta.content or "")


async def llama_index_stream(look: Look, hear: Hear) -> None:
    while True:
        pieces = await OpenAI("gpt-4o").astream_chat([ChatMessage(role="user", content="Look.")])
        async for piece in pieces:
            hear(piece.delta or "")


async def llama_index_events(look: Look, hear: Hear) -> None:
    agent = FunctionAgent(tools=[look], llm=OpenAI("gpt-4o"))
    handler = agent.run("Look at things.", max_iterations=1000)

    async def listen() -> None:
        async for event in handler.stream_events():
            if isinstance(event, AgentStream):
                hear(event.delta)

    listening = asyncio.create_task(listen())  # it would wait for ever: see docs/sdks.md
    try:
        await handler
    finally:
        listening.cancel()


TURNS = [
    openai_chat,
    openai_responses,
    litellm_openai,
    litellm_anthropic,
    litellm_gemini,
    google_genai,
    google_genai_in_a_thread,
    llama_index,
]
STREAMS = [
    openai_stream,
    litellm_stream,
    litellm_anthropic_stream,
    llama_index_stream,
    llama_index_events,
]
