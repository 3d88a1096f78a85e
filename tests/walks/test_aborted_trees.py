"""An abort of a run cuts a model's call three levels below it, and all of the tree is stopped."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agents import SyncTools, Tools, agent
from runs.models import RunRecord
from runs.status import Status
from tests.support.consistency import assert_all_consistent
from tests.support.journal import Journal
from tests.support.llm_server import LLMServer
from tests.support.running import Start

ASK = [{"role": "user", "content": "What follows?"}]
LEVELS = ("top", "upper", "lower", "leaf")


@pytest.fixture(params=["called", "started", "called by def agents"])
def way(request: pytest.FixtureRequest) -> str:
    """Register an agent for each level; return how each begins the next one."""

    def define(name: str, below: str) -> None:
        if request.param == "called":

            @agent(name)
            async def calls(tools: Tools) -> Any:
                return await tools.agents.call(below)

        elif request.param == "started":

            @agent(name)
            async def starts(tools: Tools) -> Any:
                return await (await tools.agents.start(below))

        else:

            @agent(name)
            def calls_in_thread(tools: SyncTools) -> Any:
                return tools.agents.call(below)

    for name, below in itertools.pairwise(LEVELS):
        define(name, below)

    @agent("leaf")
    async def leaf(tools: Tools) -> str:
        return (await tools.call_llm(ASK)).text

    return str(request.param)


@pytest.mark.usefixtures("on_both_databases", "way")
@pytest.mark.parametrize("at", ["start", "middle"])
def test_a_call_three_levels_down_is_cut(
    llm_server: LLMServer,
    hire: Callable[..., Any],
    start: Start,
    stop: Callable[..., Any],
    log: Journal,
    at: str,
) -> None:
    llm_server.hold(at)
    for _ in range(2):
        hire()
    run = start("top")
    llm_server.wait_for_requests(1)
    stop(run, mode="abort")
    llm_server.wait(lambda: llm_server.open_count == 0, "the connection is closed")
    log.over(run)
    tree = list(RunRecord.objects.order_by("depth"))
    assert [one.agent for one in tree] == list(LEVELS)
    assert {one.status for one in tree} == {Status.STOPPED}
    assert tree[-1].stop_calls_cut == 1
    (call,) = log.of(tree[-1], "llm_call")
    assert call.data["outcome"] == "aborted"
    assert tree[-1].input_tokens > 0, "what was sent is paid for"
    assert llm_server.request_count == 1
    assert_all_consistent()
