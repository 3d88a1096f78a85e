"""A started run in another process: how its caller learns that it has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from agents import SubAgentStopped, Tools, agent
from agents.runtime import Outcome
from agents.trace import Usage
from runs import transitions
from runs.actions import recovery
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.consumers import AgentConsumer
from runs.delivery import stops
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import started_runs
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_worker
from tests.support.running import Start

Hire = Callable[..., Worker]


class TestChildInAnotherProcess:
    """The child's worker is only a record; the test writes what that worker would write."""

    @pytest.fixture
    def far(self, transactional_db: None) -> WorkerRecord:
        return make_worker(name="far")

    @pytest.fixture
    def poll_seconds(self) -> float:
        return started_runs.POLL_SECONDS

    @pytest.fixture
    def run(
        self,
        options: Any,
        hire: Hire,
        start: Start,
        log: Journal,
        poll_seconds: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> RunRecord:
        self.polled = threading.Event()
        read = started_runs._read

        def noting(ids: Any) -> Any:
            rows = read(ids)
            self.polled.set()
            return rows

        monkeypatch.setattr(started_runs, "_read", noting)
        monkeypatch.setattr(started_runs, "POLL_SECONDS", poll_seconds)
        monkeypatch.setattr(started_runs, "ADOPT_SECONDS", 3600)
        monkeypatch.setattr(
            stops, "deliver_missed", lambda worker: None
        )  # only the poll under test

        @agent("caller")
        async def caller(tools: Tools) -> Any:
            handle = await tools.agents.start("double", {"n": 1})
            try:
                return await handle
            except SubAgentStopped:
                return "the child alone"

        options(MAX_CONCURRENT=1)
        self.worker = hire()
        run = start("caller")
        log.until_event(run, "agent_call", tool="agents.start")
        return run

    def _claim(self, run: RunRecord, far: WorkerRecord) -> RunRecord:
        child = run.children.get()
        assert transitions.claim_one(far.pk, child.pk, timezone.now()) == 1
        return child

    def _end(self, child: RunRecord, outcome: Outcome) -> None:
        child.refresh_from_db()
        assert child.worker_id is not None
        ending = Ending(outcome, None, 0, 0)
        at = child.stop_requested_at
        updates = Updates(
            child.pk, child.worker_id, 1, usage=Usage(),
            acknowledged_at=at, observed_at=at, ending=ending,
        )  # fmt: skip
        assert record_updates([updates]).gone[child.pk] is not None

    def test_its_end_is_found_without_a_message(
        self, run: RunRecord, far: WorkerRecord, log: Journal
    ) -> None:
        child = self._claim(run, far)
        self._end(child, Outcome("success", result=7))
        assert log.over(run).result == 7

    @pytest.mark.parametrize("poll_seconds", [3600.0])
    def test_a_message_triggers_the_poll(
        self, run: RunRecord, far: WorkerRecord, log: Journal
    ) -> None:
        assert self.polled.wait(10)  # the next poll is due in an hour
        child = self._claim(run, far)
        self._end(child, Outcome("success", result=7))
        message = {"type": "run.ended", "runs": [str(child.pk)]}
        consumer = AgentConsumer()
        consumer.scope = {"worker": self.worker}
        asyncio.run(consumer.run_ended(message))
        assert log.over(run).result == 7

    def test_the_worker_of_its_caller_is_notified_of_its_end(
        self, run: RunRecord, far: WorkerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = self._claim(run, far)
        RunRecord.objects.filter(pk=child.pk).update(holds_slot=True)  # from the queue
        child.refresh_from_db()
        ending = Ending(Outcome("success"), None, 0, 0)
        updates = Updates(child.pk, far.pk, 1, usage=Usage(), ending=ending)
        assert record_updates([updates]).callers == {self.worker.id: [child.pk]}

    @pytest.mark.parametrize("of", ["root", "child"])
    def test_its_end_may_arrive_before_the_stop_of_its_caller(
        self, of: str, run: RunRecord, far: WorkerRecord, stop: Any, log: Journal,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        child = self._claim(run, far)
        monkeypatch.setattr(stops, "deliver", lambda due: None)
        stop(run if of == "root" else child)
        self._end(child, Outcome("stopped"))
        record = log.over(run)
        if of == "root":
            assert record.status == Status.STOPPED
        else:
            assert (record.status, record.result) == (Status.SUCCESS, "the child alone")

    def test_a_shutdown_waits_for_it_a_while_and_writes_no_end_before_its_end(
        self, run: RunRecord, far: WorkerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(started_runs, "LEAVE_SECONDS", 0.2)
        child = self._claim(run, far)
        self.worker.stop_threads()
        child.refresh_from_db()
        assert (child.stop_via, child.stop_reason) == ("parent", recovery.CALLER_LOST)
        run.refresh_from_db()
        assert (run.status, run.in_flight) == (Status.RUNNING, [])
        assert recovery.recover_runs() == 0
        self._end(child, Outcome("stopped"))
        assert recovery.recover_runs() == 1
        run.refresh_from_db()
        assert (run.status, run.error["code"]) == (Status.ERROR, "worker_shutdown")

    def test_the_loss_of_its_worker_is_an_error_of_its_caller(
        self, run: RunRecord, far: WorkerRecord, log: Journal
    ) -> None:
        self._claim(run, far)
        WorkerRecord.objects.filter(pk=far.pk).update(lost_at=timezone.now())
        record = log.over(run)
        assert (record.status, record.error["type"]) == (Status.ERROR, "SubAgentFailed")
        assert run.children.get().error["code"] == "worker_lost"
        assert_consistent(run)

    def test_the_deletion_of_its_record_is_an_error_of_its_caller(
        self, run: RunRecord, log: Journal
    ) -> None:
        run.children.all().delete()
        record = log.over(run)
        assert (record.status, record.error["type"]) == (Status.ERROR, "SubAgentFailed")


def test_updates_of_the_process_trigger_the_poll(
    worker: Worker, start: Start, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(started_runs, "POLL_SECONDS", 3600)

    @agent("caller")
    async def caller(tools: Tools) -> list[Any]:
        return [await (await tools.agents.start("double", {"n": n})) for n in range(10)]

    assert log.over(start("caller")).result == [n * 2 for n in range(10)]
