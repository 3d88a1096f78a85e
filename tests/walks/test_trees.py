"""A stop of a tree of agents ends all of it, children before their callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agents import (
    AgentStopped,
    SubAgentFailed,
    SubAgentStopped,
    SyncTools,
    Tools,
    agent,
)
from runs.models import RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.running import Start, in_thread

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def tree() -> Callable[[], int]:
    """Agents three levels deep: root -> 3 middles -> 3 leaves each, which work until stopped.

    Returns a function that counts the leaves at work.
    """
    at_work: list[int] = []

    @agent("leaf")
    async def leaf(tools: Tools) -> None:
        at_work.append(1)
        tools.log("at work")
        while True:
            await tools.data_store.set("leaf", 1)
            await asyncio.sleep(0.002)

    @agent("middle")
    async def middle(tools: Tools, way: str) -> None:
        if way == "gather":
            await asyncio.gather(*[tools.agents.call("leaf") for _ in range(3)])
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(tools.agents.call("leaf"))

    @agent("root")
    async def root(tools: Tools, way: str) -> None:
        calls = [tools.agents.call("middle", {"way": way}) for _ in range(3)]
        if way == "gather":
            await asyncio.gather(*calls)
        else:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(call)

    return lambda: len(at_work)


@pytest.mark.parametrize("way", ["gather", "TaskGroup"])
def test_every_descendant_is_stopped_before_the_root_is(
    way: str, tree: Callable[[], int], start: Start, stop: Any, log: Journal
) -> None:
    run = start("root", way=way)
    log.until_at_work(9)
    stop(run, reason="wrong document")
    log.over(run)
    assert sorted(log.order_of_ends()) == ["leaf"] * 9 + ["middle"] * 3 + ["root"]
    assert log.order_of_ends()[-1] == "root"
    records = RunRecord.objects.all()
    assert {record.status for record in records} == {Status.STOPPED}
    assert {record.stop_reason for record in records} == {"wrong document"}
    assert {record.stop_root_request for record in records} == {run.pk}
    assert {(record.depth, record.stop_via) for record in records} == {
        (0, "api"),
        (1, "parent"),
        (2, "parent"),
    }
    for middle in records.filter(agent="middle"):
        latest = max(leaf.finished_at for leaf in middle.children.all())
        assert latest <= middle.finished_at
    assert assert_all_consistent()


def test_a_stop_of_a_middle_stops_its_subtree_and_nothing_else(
    start: Start, stop: Any, log: Journal
) -> None:
    errors: list[Any] = []

    @agent("leaf")
    async def leaf(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("middle")
    async def middle(tools: Tools) -> None:
        await asyncio.gather(tools.agents.call("leaf"), tools.agents.call("leaf"))

    @agent("sibling")
    async def sibling(tools: Tools) -> str:
        while not errors:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)
        return "untouched"

    @agent("root")
    async def root(tools: Tools) -> dict[str, Any]:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(tools.agents.call("sibling"))
            try:
                await tools.agents.call("middle")
            except SubAgentStopped as error:
                errors.append(error)
            await tools.data_store.set("after", "the caller may continue")
        return {"other": await other}

    run = start("root")
    log.until(lambda: sum(e.data.get("message") == "at work" for e in log.events) == 2, "leaves")
    child = RunRecord.objects.get(agent="middle")
    stop(child)
    record = log.over(run)
    assert record.status == Status.SUCCESS
    assert record.result == {"other": "untouched"}
    assert not record.stop_requested
    (error,) = errors
    assert (error.agent, error.run) == ("middle", str(child.pk))
    by_agent = {r.agent: r for r in RunRecord.objects.all()}
    assert by_agent["middle"].status == by_agent["leaf"].status == Status.STOPPED
    assert by_agent["sibling"].status == Status.SUCCESS
    assert RunRecord.objects.filter(agent="leaf", stop_root_request=child.pk).count() == 2
    call = next(e for e in log.of(run, "agent_call") if e.data["label"] == "middle")
    assert call.data["status"] == "stopped"
    assert_consistent(run)


def test_a_childs_error_reaches_its_caller_and_its_own_log(start: Start, log: Journal) -> None:
    @agent("child")
    async def child(tools: Tools) -> None:
        raise LookupError("no such page")

    @agent("caller")
    async def caller(tools: Tools) -> dict[str, Any]:
        with pytest.raises(SubAgentFailed) as caught:
            await tools.agents.call("child")
        return caught.value.error

    run = start("caller")
    record = log.over(run)
    child_record = record.children.get()
    assert record.status == Status.SUCCESS
    assert record.result == child_record.error
    assert record.result["type"] == "LookupError"
    assert child_record.status == Status.ERROR
    assert_consistent(run)


def test_def_agents_call_each_other_and_stop_together(
    start: Start, stop: Any, log: Journal
) -> None:
    @agent("leaf")
    def leaf(tools: SyncTools) -> None:
        while True:
            tools.data_store.get("x")

    @agent("caller")
    def caller(tools: SyncTools) -> None:
        tools.agents.call("leaf")

    run = start("caller")
    log.until_event_of_agent("leaf", "data_store")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert log.order_of_ends() == ["leaf", "caller"]
    assert_consistent(run)


def test_a_reader_sees_a_tree_end_from_below(
    tree: Callable[[], int], start: Start, stop: Any, log: Journal, worker: Worker
) -> None:
    """A reader never sees a finished caller above a child that is still active."""
    run = start("root", way="TaskGroup")
    log.until_at_work(9)
    wrong: list[Any] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            rows = {r.pk: r for r in RunRecord.objects.all()}
            for row in rows.values():
                above = rows.get(row.parent_id)
                if above is not None and above.is_terminal and not row.is_terminal:
                    wrong.append((above.agent, row.agent))

    with in_thread(watch):
        stop(run)
        log.over(run)
        done.set()
    assert not wrong


def test_the_stop_itself_does_not_leave_a_swallowing_caller(
    start: Start, stop: Any, log: Journal
) -> None:
    caught: list[str] = []

    @agent("child")
    async def child(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        try:
            await tools.agents.call("child")
        except Exception as error:  # a caller that takes everything for an error of its child
            caught.append(type(error).__name__)
        except AgentStopped:
            caught.append("AgentStopped")
            raise

    run = start("caller")
    log.until_event_of_agent("child", "log")
    stop(run)
    assert log.over(run).status == Status.STOPPED
    assert caught == ["AgentStopped"]
    assert_consistent(run)
