"""Sub-agents that are started: any worker claims them, and they end before their caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agents import SubAgentFailed, SubAgentStopped, SyncTools, Tools, agent
from runs.actions import recovery
from runs.models import RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start

Hire = Callable[..., Worker]


def test_map_and_reduce_over_two_workers(hire: Hire, start: Start, log: Journal) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> list[int]:
        handles = [await tools.agents.start("double", {"n": n}) for n in range(20)]
        return list(await asyncio.gather(*handles))

    for _ in range(2):
        hire()
    run = start("caller")
    record = log.over(run)
    assert record.result == [n * 2 for n in range(20)]
    children = list(record.children.all())
    assert {child.priority for child in children} == {record.priority}
    assert all(child.holds_slot for child in children), "workers claimed them from the queue"
    assert_consistent(run)


def test_def_agents_start_and_wait(worker: Worker, start: Start, log: Journal) -> None:
    @agent("caller")
    def caller(tools: SyncTools) -> list[int]:
        handles = [tools.agents.start("double", {"n": n}) for n in range(3)]
        return [handle.wait() for handle in handles]

    run = start("caller")
    assert log.over(run).result == [0, 2, 4]
    assert_consistent(run)


def test_to_stop_a_child_whose_record_was_removed_does_nothing(
    worker: Worker, start: Start, log: Journal
) -> None:
    """The retention removes runs that ended long ago; their caller may still be at work."""

    @agent("caller")
    async def caller(tools: Tools) -> str:
        handle = await tools.agents.start("double", {"n": 1})
        await asyncio.to_thread(log.over, handle.run)
        await asyncio.to_thread(RunRecord.objects.filter(pk=handle.run).delete)
        await handle.stop()
        return "done"

    run = start("caller")
    assert log.over(run).result == "done"


def test_a_handle_returns_how_its_child_ended(
    worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    @agent("failing")
    async def failing(tools: Tools) -> None:
        raise LookupError("no such page")

    @agent("caller")
    async def caller(tools: Tools) -> list[Any]:
        ends: list[Any] = []
        for name in ("failing", "endless"):
            handle = await tools.agents.start(name)
            try:
                await handle
            except SubAgentFailed as error:
                ends.append(error.error["type"])
            except SubAgentStopped as error:
                ends.append(error.run == handle.run)
        return ends

    run = start("caller")
    child = log.until_event_of_agent("endless", "log").run
    stop(RunRecord.objects.get(pk=child))
    assert log.over(run).result == ["LookupError", True]
    assert_consistent(run)


def test_an_unawaited_child_is_stopped_when_the_function_fails(
    worker: Worker, start: Start, log: Journal
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> None:
        await tools.agents.start("endless")
        while not any(e.data.get("message") == "at work" for e in log.events):
            await asyncio.sleep(0.01)
        raise ValueError("lost")

    run = start("caller")
    record = log.over(run)
    assert (record.status, record.error["type"]) == (Status.ERROR, "ValueError")
    assert log.order_of_ends() == ["endless", "caller"]
    child = assert_consistent(run).children.get()
    assert (child.status, child.stop_via) == (Status.STOPPED, "parent")


def test_a_run_shows_the_child_that_it_waits_for_after_its_function(
    worker: Worker, start: Start, stop: Any, log: Journal, gate: Gate
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        (await tools.agents.start("gated")).leave()
        return "done"

    run = start("caller")
    gate.until_arrived()

    def waits() -> Any:
        run.refresh_from_db()
        return [(call["tool"], call["label"]) for call in run.in_flight]

    eventually(lambda: waits() == [("agents.wait", "gated")], "the run shows its child")
    assert run.status == Status.RUNNING
    gate.open()
    assert log.over(run).result == "done"
    assert_consistent(run)


def test_a_stop_reaches_an_unawaited_child(
    worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    @agent("caller")
    async def caller(tools: Tools) -> str:
        (await tools.agents.start("endless")).leave()
        return "done"

    run = start("caller")
    log.until_at_work(1)
    stop(run)
    record = log.over(run)
    assert (record.status, record.stop_finished_first) == (Status.SUCCESS, True)
    assert record.children.get().status == Status.STOPPED
    assert_consistent(run)


@pytest.mark.usefixtures("on_both_databases")
def test_a_stop_of_a_tree_over_two_workers_ends_it_from_below(
    hire: Hire, start: Start, stop: Any, log: Journal
) -> None:
    @agent("middle")
    async def middle(tools: Tools) -> None:
        await asyncio.gather(*[await tools.agents.start("endless") for _ in range(3)])

    @agent("root")
    async def root(tools: Tools) -> None:
        called = tools.agents.call("middle")
        started = [await tools.agents.start("middle") for _ in range(2)]
        await asyncio.gather(called, *started)

    for _ in range(2):
        hire()
    run = start("root")
    log.until_at_work(9)
    stop(run, reason="wrong document")
    log.over(run)
    assert sorted(log.order_of_ends()) == ["endless"] * 9 + ["middle"] * 3 + ["root"]
    records = RunRecord.objects.all()
    assert {record.status for record in records} == {Status.STOPPED}
    assert {record.stop_root_request for record in records} == {run.pk}
    assert_consistent(run)


@pytest.mark.parametrize("then", ["requeue", "fail"])
def test_a_shutdown_ends_children_before_their_caller(
    then: Any, options: Any, hire: Hire, start: Start, log: Journal
) -> None:
    @agent("caller", on_worker_loss=then, max_attempts=2)
    async def caller(tools: Tools) -> None:
        (await tools.agents.start("endless")).leave()
        await (await tools.agents.start("endless"))

    worker = hire()
    run = start("caller")
    log.until_at_work(2)
    worker.stop_threads()
    run.refresh_from_db()
    for child in run.children.all():
        assert child.finished_at is not None
        assert child.status in (Status.ERROR, Status.STOPPED)
    if then == "fail":
        assert (run.status, run.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert_consistent(run)
    else:
        assert (run.status, run.holds_slot, run.in_flight) == (Status.QUEUED, True, [])


def test_a_child_that_a_shutdown_requeues_is_stopped_with_its_caller(
    hire: Hire, start: Start, log: Journal, gate: Gate
) -> None:
    @agent("again", on_worker_loss="requeue")
    async def again(tools: Tools) -> None:
        gate.arrive()
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.002)

    @agent("caller")
    async def caller(tools: Tools) -> None:
        await (await tools.agents.start("again"))

    worker = hire()
    run = start("caller")
    gate.until_arrived()
    worker.stop_threads()
    record = assert_consistent(run)
    child = record.children.get()
    assert (record.error["code"], child.status) == ("worker_shutdown", Status.STOPPED)
    assert (child.stop_via, child.stop_reason) == ("parent", recovery.CALLER_LOST)
