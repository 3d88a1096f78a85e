"""A caller executes a child that it waits for if no worker has a slot for it, within the limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from agents import Tools, agent
from agents.runtime import Outcome
from agents.trace import Usage
from runs import transitions
from runs.actions import leases
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.models import RunRecord
from runs.status import Status
from runs.worker import started_runs
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.rows import make_worker
from tests.support.running import Gate, Start

Hire = Callable[..., Worker]


class TestNoSlotIsFree:
    """One worker with one slot, which the caller has."""

    @pytest.fixture
    def worker(self, options: Any, hire: Hire) -> Worker:
        options(MAX_CONCURRENT=1)
        return hire()

    @pytest.mark.usefixtures("on_both_databases", "worker")
    def test_the_caller_adopts_a_child_that_it_waits_for(self, start: Start, log: Journal) -> None:
        @agent("caller")
        async def caller(tools: Tools, depth: int) -> int:
            if depth == 0:
                return 1
            handles = [await tools.agents.start("caller", {"depth": depth - 1}) for _ in range(2)]
            return sum(await asyncio.gather(*handles))

        run = start("caller", depth=2)
        assert log.over(run).result == 4
        below = RunRecord.objects.filter(root=run.pk, depth__gt=0)
        assert {child.holds_slot for child in below} == {False}
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_the_caller_adopts_unawaited_children_when_its_function_ends(
        self, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            (await tools.agents.start("double", {"n": 1})).leave()
            return "done"

        run = start("caller")
        assert log.over(run).result == "done"
        assert run.children.get().result == 2
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_a_stop_reaches_an_adopted_child(self, start: Start, stop: Any, log: Journal) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await (await tools.agents.start("endless"))

        run = start("caller")
        log.until_at_work(1)
        stop(run)
        assert log.over(run).status == Status.STOPPED
        assert log.order_of_ends() == ["endless", "caller"]
        assert_consistent(run)

    @pytest.mark.usefixtures("worker")
    def test_a_child_that_is_stopped_while_queued_is_not_started(
        self, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.start("endless")

        run = start("caller")
        assert log.over(run).status == Status.SUCCESS
        child = assert_consistent(run).children.get()
        assert (child.status, child.attempt) == (Status.STOPPED, 0)
        assert child.stop_reason == "its caller did not wait for it"


class TestAdoption:
    """Two processes take a queued run at the same moment, or one stops it: exactly one wins."""

    @pytest.fixture
    def held(self, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, list[Any]]:
        """Adoptions wait at a gate; their results are in the list."""
        gate, came = Gate(), []
        adopt = leases.adopt

        def holding(*arguments: Any) -> Any:
            gate.wait_here()
            came.append(adopt(*arguments))
            return came[-1]

        monkeypatch.setattr(leases, "adopt", holding)
        return gate, came

    @pytest.fixture
    def run(self, options: Any, hire: Hire, start: Start, held: Any) -> RunRecord:
        @agent("caller")
        async def caller(tools: Tools) -> Any:
            return await (await tools.agents.start("double", {"n": 4}))

        options(MAX_CONCURRENT=1)
        hire()
        run = start("caller")
        held[0].until_arrived()
        return run

    def test_another_worker_is_faster(
        self, run: RunRecord, held: Any, hire: Hire, log: Journal
    ) -> None:
        hire()
        child = run.children.get()
        log.over(child)
        held[0].open()
        assert log.over(run).result == 8
        assert held[1] == [None]
        assert assert_consistent(child).attempt == 1

    def test_a_stop_is_faster(self, run: RunRecord, held: Any, stop: Any, log: Journal) -> None:
        stop(run)
        held[0].open()
        assert log.over(run).status == Status.STOPPED
        assert held[1] == [None]
        assert assert_consistent(run).children.get().attempt == 0

    def test_the_caller_is_faster(
        self, run: RunRecord, held: Any, hire: Hire, log: Journal
    ) -> None:
        held[0].open()
        assert log.over(run).result == 8
        hire()
        assert held[1] != [None]
        assert assert_consistent(run).children.get().holds_slot is False


@pytest.mark.parametrize("limit", [1, None])
def test_a_limit_is_kept_while_some_run_advances(
    limit: int | None, hire: Hire, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 10)  # the queue is faster than that
    together = asyncio.Barrier(limit or 4)
    most = []
    running = 0

    @agent("limited", max_concurrent=limit)
    async def limited(tools: Tools) -> None:
        nonlocal running
        running += 1
        most.append(running)
        for child in worker.executor.started._awaited.values():
            child.queued_at = -math.inf
        await together.wait()
        await asyncio.sleep(0.3)
        running -= 1

    @agent("caller")
    async def caller(tools: Tools) -> None:
        await asyncio.gather(*[await tools.agents.start("limited") for _ in range(4)])

    worker = hire()
    run = start("caller")
    log.over(run)
    assert max(most) == (4 if limit is None else 1)
    assert_consistent(run)


def test_a_run_that_is_not_next_in_the_queue_is_not_adopted(
    options: Any, hire: Hire, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a limited agent: while another was just claimed, or another is next in the queue."""
    far = make_worker(name="far")
    polls: list[int] = []
    read = started_runs._read

    def read_and_note(ids: list[Any]) -> Any:
        if len(ids) == 3 and 3 not in polls:
            # The last one: the others are checked before it.
            assert transitions.claim_one(far.pk, ids[-1], timezone.now()) == 1
            monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 0)
        rows = read(ids)
        polls.append(len(ids))
        return rows

    monkeypatch.setattr(started_runs, "_read", read_and_note)
    monkeypatch.setattr(started_runs, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)

    @agent("limited", max_concurrent=1)
    async def limited(tools: Tools) -> str:
        return "adopted"

    @agent("caller")
    async def caller(tools: Tools) -> list[str]:
        handles = [await tools.agents.start("limited") for _ in range(3)]
        return list(await asyncio.gather(*handles))

    def poll_on() -> None:
        before = len(polls)
        eventually(lambda: len(polls) >= before + 3, "it has polled again")

    options(MAX_CONCURRENT=1)
    worker = hire()
    run = start("caller")
    eventually(lambda: 3 in polls, "it waits for all of them")
    poll_on()
    claimed = run.children.exclude(status=Status.QUEUED).get()
    assert claimed.worker_id == far.pk

    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)
    for child in worker.executor.started._awaited.values():
        child.queued_at = -math.inf
    ending = Ending(Outcome("success", result="far"), None, 0, 0)
    record_updates([Updates(claimed.pk, far.pk, 1, usage=Usage(), ending=ending)])
    log.until_event(run, "agent_call", tool="agents.wait")
    poll_on()
    assert run.children.filter(status=Status.QUEUED).count() == 2

    monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 0)  # no worker has claimed them
    assert sorted(log.over(run).result) == ["adopted", "adopted", "far"]
