"""Other ways to use LangChain and LangGraph. The name says what is used."""

from __future__ import annotations

import asyncio
import operator
from functools import cached_property
from typing import Annotated, Any, TypedDict

import anthropic
import httpx2
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    ToolRetryMiddleware,
)
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from agents import guarded_transport

from ..rows.langchain import ASKED, model, stubborn, sync_model
from ..rows.tools import Hear, Look, SyncLook

__all__ = ["IN_A_CALL", "IN_A_STREAM", "IN_A_TOOL", "SIDE_BY_SIDE"]

PROMPT = ChatPromptTemplate.from_messages([("user", "Look at {thing}.")])


class GuardedChatAnthropic(ChatAnthropic):
    """ChatAnthropic, which has no argument for its HTTP client, with one that is guarded."""

    @cached_property
    def _async_client(self) -> anthropic.AsyncAnthropic:
        transport = guarded_transport(httpx2.AsyncHTTPTransport())
        http = anthropic.DefaultAsyncHttpxClient(transport=transport)
        return anthropic.AsyncAnthropic(**self._client_params, http_client=http)


async def retries_and_fallbacks(look: Look, hear: Hear) -> None:
    async with model() as first, model() as second:
        chat = stubborn(first, second)
        while True:
            hear((await chat.ainvoke("Look.")).text)


def retries_and_fallbacks_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as first, sync_model() as second:
        chat = stubborn(first, second)
        while True:
            hear(chat.invoke("Look.").text)


async def a_chain(look: Look, hear: Hear) -> None:
    async with model() as first, model() as second:
        chain = PROMPT | stubborn(first, second) | StrOutputParser() | RunnableLambda(hear)
        while True:
            await chain.ainvoke({"thing": "it"})


async def a_handler_of_usage(look: Look, hear: Hear) -> None:
    usage = UsageMetadataCallbackHandler()
    async with model() as first:
        while True:
            hear((await first.ainvoke("Look.", {"callbacks": [usage]})).text)


async def an_agent_with_middleware(look: Look, hear: Hear) -> None:
    async with model() as first, model() as second:
        agent = create_agent(
            first,
            [tool(look)],
            middleware=[
                ModelRetryMiddleware(max_retries=3, on_failure="continue"),
                ModelFallbackMiddleware(second, second),
                ToolRetryMiddleware(max_retries=3, on_failure="continue"),
            ],
        )
        await agent.ainvoke(ASKED)


def an_agent_with_middleware_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as first, sync_model() as second:
        agent = create_agent(
            first,
            [tool(look)],
            middleware=[
                ModelRetryMiddleware(max_retries=3, on_failure="continue"),
                ModelFallbackMiddleware(second, second),
                ToolRetryMiddleware(max_retries=3, on_failure="continue"),
            ],
        )
        agent.invoke(ASKED)


async def an_agent_on_anthropic(look: Look, hear: Hear) -> None:
    chat = GuardedChatAnthropic(model="claude-m", max_tokens=100)
    try:
        await create_agent(chat, [tool(look)]).ainvoke(ASKED)
    finally:
        await chat._async_client.close()


async def astream_of_a_model(look: Look, hear: Hear) -> None:
    async with model() as first, model() as second:
        chat = stubborn(first, second)
        while True:
            async for chunk in chat.astream("Look."):
                hear(chunk.text)


async def astream_events_v2(look: Look, hear: Hear) -> None:
    async with model() as first:
        agent = create_agent(first, [tool(look)])
        async for event in agent.astream_events(ASKED, version="v2"):
            if event["event"] == "on_chat_model_stream":
                hear(event["data"]["chunk"].text)


async def astream_events_v3(look: Look, hear: Hear) -> None:
    async with model() as first:
        while True:
            answer = await first.astream_events("Look.", version="v3")
            async for text in answer.text:
                hear(text)


async def astream_events_v3_of_an_agent(look: Look, hear: Hear) -> None:
    async with model() as first:
        agent = create_agent(first, [tool(look)])
        events = await agent.astream_events(ASKED, version="v3")
        async for message in events.messages:
            async for text in message.text:
                hear(text)


async def a_batch(look: Look, hear: Hear) -> None:
    async with model() as first, model() as second:
        chat = stubborn(first, second)
        while True:
            for answer in await chat.abatch(["Look.", "Look again.", "And again."]):
                hear(answer.text)


async def a_parallel_runnable(look: Look, hear: Hear) -> None:
    async with model() as first:
        both = RunnableParallel(one=first, two=first, three=first)
        while True:
            for answer in (await both.ainvoke("Look.")).values():
                hear(answer.text)


def a_parallel_runnable_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as first:
        both = RunnableParallel(one=first, two=first, three=first)
        while True:
            for answer in both.invoke("Look.").values():
                hear(answer.text)


class State(TypedDict):
    answers: Annotated[list[str], operator.add]


def _fan(branch: Any, hear: Hear) -> Any:
    """Return a graph that asks three branches at a time, again and again."""

    def gather(state: State) -> State:
        for answer in state["answers"][-3:]:
            hear(answer)
        return {"answers": []}

    graph = StateGraph(State)
    graph.add_node("branch", branch)
    graph.add_node("gather", gather)
    graph.add_conditional_edges(START, lambda _: [Send("branch", {}) for _ in range(3)])
    graph.add_edge("branch", "gather")
    graph.add_conditional_edges("gather", lambda _: [Send("branch", {}) for _ in range(3)])
    return graph.compile()


async def a_graph_with_branches(look: Look, hear: Hear) -> None:
    async with model() as first:

        async def branch(state: Any) -> Any:
            return {"answers": [(await first.ainvoke("Look.")).text]}

        await _fan(branch, hear).ainvoke({"answers": []})


def a_graph_with_branches_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as first:

        def branch(state: Any) -> Any:
            return {"answers": [first.invoke("Look.").text]}

        _fan(branch, hear).invoke({"answers": []})


async def a_sync_node_of_an_async_graph(look: Look, hear: Hear) -> None:
    with sync_model() as first:

        def branch(state: Any) -> Any:
            return {"answers": [first.invoke("Look.").text]}

        await _fan(branch, hear).ainvoke({"answers": []})


async def a_graph_in_a_thread_of_a_node(look: Look, hear: Hear) -> None:
    with sync_model() as first:

        def branch(state: Any) -> Any:
            return {"answers": [first.invoke("Look.").text]}

        inner = _fan(branch, hear)

        async def node(state: State) -> Any:
            return await asyncio.to_thread(inner.invoke, {"answers": []})

        outer = StateGraph(State)
        outer.add_node("node", node)
        outer.add_edge(START, "node")
        await outer.compile().ainvoke({"answers": []})


async def the_functional_api(look: Look, hear: Hear) -> None:
    async with model() as first:

        @task
        async def ask(what: str) -> str:
            return (await first.ainvoke(what)).text

        @entrypoint()
        async def main(what: str) -> None:
            while True:
                hear(await ask(what))

        await main.ainvoke("Look.")


IN_A_CALL = [
    retries_and_fallbacks,
    retries_and_fallbacks_in_thread,
    a_chain,
    a_handler_of_usage,
    the_functional_api,
]
IN_A_STREAM = [
    astream_of_a_model,
    astream_events_v2,
    astream_events_v3,
    astream_events_v3_of_an_agent,
]
IN_A_TOOL = [
    an_agent_with_middleware,
    an_agent_with_middleware_in_thread,
    an_agent_on_anthropic,
]
SIDE_BY_SIDE = [
    a_batch,
    a_parallel_runnable,
    a_parallel_runnable_in_thread,
    a_graph_with_branches,
    a_graph_with_branches_in_thread,
    a_sync_node_of_an_async_graph,
    a_graph_in_a_thread_of_a_node,
]
