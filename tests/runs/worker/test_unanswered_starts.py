"""A sub-agent whose start the database did not answer does not change how its caller ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import OperationalError

from agents import Tools, agent
from runs.actions import starting
from runs.models import RunRecord
from runs.status import Status
from runs.worker import started_runs, worker
from runs.worker.started_runs import StartedRun
from tests.support.consistency import assert_all_consistent
from tests.support.journal import Journal
from tests.support.running import Gate, Start

LOST = OperationalError("server closed the connection unexpectedly")


@pytest.fixture(autouse=True)
def _agents() -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.01)

    async def start(tools: Tools, how: str) -> None:
        if how == "call":
            await tools.agents.call("child")
        else:
            await tools.agents.start("child")

    @agent("careful")
    async def careful(tools: Tools, how: str) -> str:
        try:
            await start(tools, how)
        except OperationalError:
            return "without it"
        return "with it"

    @agent("careless")
    async def careless(tools: Tools, how: str) -> str:
        await start(tools, how)
        return "with it"


@pytest.fixture(params=["committed", "lost"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let no answer come to the start of a child; return whether the start was committed."""

    def breaking(insert: Any) -> Any:
        def without_answer(*arguments: Any) -> Any:
            if request.param == "committed":
                with monkeypatch.context() as patch:
                    patch.setattr(starting.local_runs, "add", lambda entry: None)
                    insert(*arguments)
            raise LOST

        return without_answer

    for name in ("start_child", "queue_child"):
        monkeypatch.setattr(starting, name, breaking(getattr(starting, name)))
    return request.param == "committed"


@pytest.mark.usefixtures("on_both_databases")
@pytest.mark.parametrize("how", ["call", "start"])
@pytest.mark.parametrize("name", ["careful", "careless"])
def test_a_run_ends_as_its_code_does(
    hire: Any, start: Start, log: Journal, broken: bool, how: str, name: str, options: Any
) -> None:
    options(LEASE_SECONDS=3)
    hire()
    run = log.over(start(name, how=how))
    if name == "careful":
        assert (run.status, run.result, run.error) == (Status.SUCCESS, "without it", None)
    else:
        assert run.status == Status.ERROR
        assert run.error["type"] == "OperationalError"
    children = RunRecord.objects.filter(parent=run.pk)
    assert {child.status for child in children} == ({Status.STOPPED} if broken else set())
    assert_all_consistent()


@pytest.mark.usefixtures("on_both_databases", "broken")
@pytest.mark.parametrize("broken", ["committed"], indirect=True)
@pytest.mark.parametrize("moment", ["while it asks", "while it waits"])
def test_a_drain_keeps_the_result(
    hire: Any,
    start: Start,
    log: Journal,
    moment: str,
    options: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_start, asks, may_leave = Gate(), Gate(), Gate()

    @agent("patient-child")
    async def child(tools: Tools) -> None:
        await may_leave.wait()
        await tools.data_store.get("x")

    @agent("careful-parent")
    async def careful(tools: Tools) -> str:
        await may_start.wait()
        try:
            await tools.agents.start("patient-child")
        except OperationalError:
            return "without it"
        return "with it"

    ask_to_stop = StartedRun.ask_to_stop

    async def ask(child: StartedRun, reason: str) -> None:
        await asks.wait()  # at first for the child to begin, so that it is not stopped before
        await ask_to_stop(child, reason)

    monkeypatch.setattr(StartedRun, "ask_to_stop", ask)
    monkeypatch.setattr(started_runs, "LEAVE_SECONDS", 0.2)
    monkeypatch.setattr(worker, "UNWIND_SECONDS", 0.5)
    options(LEASE_SECONDS=3, MAX_CONCURRENT=1)
    drained = hire()
    run = start("careful-parent")
    may_start.until_arrived()
    hire()
    may_start.open()
    may_leave.until_arrived()  # on the other worker: the first has one slot
    asks.until_arrived()
    if moment == "while it waits":
        asks.open()
        log.until_event_of_agent("patient-child", "stop_requested")
    drained.stop_threads()
    may_leave.open()
    run = log.over(run)
    # The drain ended the run before its child was over, so it did not end by itself.
    assert (run.status, run.error["code"]) == (Status.ERROR, "worker_shutdown"), run.error
    assert run.partial_result == "without it"
    assert_all_consistent()
