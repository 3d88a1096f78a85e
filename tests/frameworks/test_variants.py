"""A stop meets what a framework offers besides: retries, fallbacks, branches, other streams.

The same holds as in test_matrix.py.
"""

from __future__ import annotations

import importlib
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from agents import Tools, agent, check_should_stop
from agents.testing import ScriptedModel, running

from .model_server import Answer, ModelServer
from .test_matrix import MODES, REASON, assert_stopped, make_agent

# LangChain's third protocol for events.
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
VARIANTS = [
    importlib.import_module(f".variants.{name}", __package__)
    for name in ("langchain", "pydantic_ai", "sdks", "smolagents")
]


def variants(kind: str) -> list[Any]:
    """Return what the modules have of a kind: (place, function)."""
    return [
        pytest.param(place, function, id=f"{function.__name__}-{place}")
        for module in VARIANTS
        for function in getattr(module, kind, ())
        for place in _places(function.__name__)
    ]


def _places(name: str) -> tuple[str, ...]:
    if name.endswith("in_thread"):
        return ("def", "to_thread")
    return ("def",) if name.endswith("in_def_agent") else ("loop",)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("IN_A_CALL"))
async def test_stop_in_a_call(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.hold()
    async with running(make_agent(place, function, keeps_text=True), seconds=20) as run:
        await server.until_requests(1)
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=1)
    assert result.partial_result == ("Let me look." if mode == "graceful" else "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("IN_A_STREAM"))
async def test_stop_in_a_stream(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.hold("middle")
    async with running(make_agent(place, function, keeps_text=True), seconds=20) as run:
        await run.until("progress")
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=1)
    assert result.partial_result == ("Let me look." if mode == "graceful" else "Let ")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("IN_A_TOOL"))
async def test_stop_in_a_tool(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    asked = []

    def reply(messages: list[dict[str, str]]) -> str:
        asked.append(server.request_count)  # an agent in a tool has asked a second time
        run.stop(mode, REASON)
        return "It is fine."

    under_test = make_agent(place, function, uses_tools=True)
    async with running(under_test, model=ScriptedModel(reply), seconds=20) as run:
        await run.result()
        result = await assert_stopped(run, server, caplog, requests=asked[0])
    assert result.partial_result == [f"thing {asked[0] - 1}"]
    assert len(asked) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("IN_CODE"))
async def test_stop_in_code_that_the_model_wrote(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    code = "try:\n    look('thing 0')\nexcept Exception:\n    look('thing 1')\nlook('thing 2')"
    server.answers.clear()
    server.answer = Answer(f"I look.\n<code>\n{code}\n</code>")

    def reply(messages: list[dict[str, str]]) -> str:
        run.stop(mode, REASON)
        return "It is fine."

    under_test = make_agent(place, function, uses_tools=True)
    async with running(under_test, model=ScriptedModel(reply), seconds=20) as run:
        result = await assert_stopped(run, server, caplog, requests=1)
    assert result.partial_result == ["thing 0"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("SIDE_BY_SIDE"))
async def test_stop_in_three_calls(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.hold()
    async with running(make_agent(place, function, keeps_text=True), seconds=20) as run:
        await server.until_requests(3)
        run.stop(mode, REASON)
        if mode == "graceful":
            server.release()
        result = await assert_stopped(run, server, caplog, requests=3)
        if mode == "abort":
            await server.until(lambda: server.aborted_count == 3, "closed connections")
    assert server.completed_count == (3 if mode == "graceful" else 0)
    assert result.partial_result == (3 * "Let me look." if mode == "graceful" else "")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("place", "function"), variants("IN_A_PAUSE"))
async def test_stop_in_the_pause_before_a_retry(
    server: ModelServer, caplog: Any, place: str, function: Any, mode: str
) -> None:
    server.answers.clear()
    server.answer = Answer(status=503, headers={"retry-after": "0.3"})
    async with running(make_agent(place, function), seconds=20) as run:
        await run.until("llm_call")
        run.stop(mode, REASON)
        await assert_stopped(run, server, caplog, requests=1)


async def test_a_graph_with_a_checkpointer_continues_where_it_was_stopped(
    server: ModelServer,
) -> None:
    class State(TypedDict):
        done: Annotated[list[str], operator.add]

    async def one(state: State) -> State:
        return {"done": ["one"]}

    async def two(state: State) -> State:
        check_should_stop()
        return {"done": ["two"]}

    builder = StateGraph(State)
    builder.add_sequence([one, two])
    builder.add_edge(START, "one")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    async def under_test(tools: Tools) -> None:
        await tools.call_llm([{"role": "user", "content": "Hello."}])
        await graph.ainvoke({"done": []}, config)

    def reply(messages: list[dict[str, str]]) -> str:
        run.stop()
        return "It is fine."

    async with running(agent("under_test")(under_test), model=ScriptedModel(reply)) as run:
        result = await run.result()
    assert (result.status, result.cleanup_error) == ("stopped", None)
    assert (await graph.aget_state(config)).next == ("two",)
    assert await graph.ainvoke(None, config) == {"done": ["one", "two"]}
