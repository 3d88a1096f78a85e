"""LangGraph: a sub-graph that retries, below a graph that goes round and round."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy

from .langchain import model, sync_model
from .tools import Hear, Look, SyncLook

__all__ = ["stream", "stream_in_thread", "turns", "turns_in_thread"]

ASKED: Any = {"messages": [("user", "Look at things.")]}
CONFIG: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": 100}


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]


def _graph(ask: Any, use: Any) -> Any:
    """Return a graph with a checkpointer and a sub-graph: ask the model, then use its tools."""
    retrying = RetryPolicy(max_attempts=5, retry_on=Exception, initial_interval=0.01)
    inner = StateGraph(State)
    inner.add_node("ask", ask, retry_policy=retrying)
    inner.add_node("use", use, retry_policy=retrying)
    inner.add_edge(START, "ask")
    inner.add_edge("ask", "use")
    inner.add_edge("use", END)
    outer = StateGraph(State)
    outer.add_node("turn", inner.compile())
    outer.add_edge(START, "turn")
    outer.add_conditional_edges("turn", lambda _: "turn", ["turn"])
    return outer.compile(checkpointer=InMemorySaver())


def _async_graph(chat: ChatOpenAI, look: Look) -> Any:
    bound = chat.bind_tools([tool(look)])

    async def ask(state: State) -> Any:
        return {"messages": [await bound.ainvoke(ASKED["messages"])]}

    return _graph(ask, ToolNode([tool(look)]))


def _sync_graph(chat: BaseChatModel, look: SyncLook) -> Any:
    bound = chat.bind_tools([tool(look)])

    def ask(state: State) -> Any:
        return {"messages": [bound.invoke(ASKED["messages"])]}

    return _graph(ask, ToolNode([tool(look)]))


async def turns(look: Look) -> None:
    async with model() as chat:
        await _async_graph(chat, look).ainvoke(ASKED, CONFIG)


async def stream(look: Look, hear: Hear) -> None:
    async with model() as chat:
        graph = _async_graph(chat, look)
        async for _, (message, _) in graph.astream(
            ASKED, CONFIG, stream_mode="messages", subgraphs=True
        ):
            hear(message.text if message.type == "AIMessageChunk" else "")


def turns_in_thread(look: SyncLook) -> None:
    with sync_model() as chat:
        _sync_graph(chat, look).invoke(ASKED, CONFIG)


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    with sync_model() as chat:
        graph = _sync_graph(chat, look)
        for _, (message, _) in graph.stream(ASKED, CONFIG, stream_mode="messages", subgraphs=True):
            hear(message.text if message.type == "AIMessageChunk" else "")
