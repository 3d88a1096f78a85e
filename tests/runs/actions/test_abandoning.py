"""An abandoned run is over at once; later its code changes nothing, and its end is noted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from agents import Tools, agent
from agents.cancellation import StopMode
from agents.exceptions import AgentStopped
from agents.runtime import Outcome
from agents.trace import Event, Usage
from runs.actions import abandoning, leases, recovery, starting
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.actions.stopping import request_stop
from runs.db.threads import DatabaseThreads
from runs.delivery import local_runs, notify
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import ParentIsStopping
from runs.models import DataStoreEntry, RunEvent, RunRecord
from runs.status import Status
from runs.worker.data_store import OwnerStore
from tests.support.consistency import assert_consistent
from tests.support.rows import make_dead_worker, make_run, make_worker

pytestmark = pytest.mark.usefixtures("on_both_databases")

CALL = {
    "call": "1",
    "tool": "call_llm",
    "label": "small",
    "started_at": "2026-01-31T12:00:41.200000+00:00",
}


@pytest.fixture
def running(alice: User) -> RunRecord:
    return make_run(alice, status=Status.RUNNING, worker=make_worker())


def now(run: RunRecord) -> RunRecord:
    return RunRecord.objects.get(pk=run.pk)


def abandon(run: RunRecord, by: User, **given: Any) -> RunRecord:
    request_stop(run.pk, via="api", by=by, mode="abandon", **given)
    return assert_consistent(run)


class TestTheRecord:
    def test_is_over_when_the_request_is_answered(self, running: RunRecord, alice: User) -> None:
        result = request_stop(running.pk, via="api", by=alice, mode="abandon", reason="hopeless")
        assert (result.outcome, result.run.status) == ("accepted", Status.STOPPED)
        record = assert_consistent(running)
        assert (record.stop_mode, record.stop_abandoned) == ("abandon", True)
        assert [e.type for e in record.events.all()] == ["stop_requested", "agent_end"]
        end = record.events.get(type="agent_end").data
        assert (end["abandoned"], end["started"], end["status"]) == (True, True, "stopped")
        assert record.stop_escalated_at is None, "it was abandoned from the start"

    def test_names_the_calls_that_were_in_flight(self, running: RunRecord, alice: User) -> None:
        other = {**CALL, "call": "2", "tool": "thread", "label": "slow (agents.py:34)"}
        RunRecord.objects.filter(pk=running.pk).update(in_flight=[CALL, other])
        record = abandon(running, alice)
        since = CALL["started_at"]
        assert record.stop_left_behind == [
            {"kind": "call_llm", "label": "small", "since": since, "ended_at": None},
            {"kind": "thread", "label": "slow (agents.py:34)", "since": since, "ended_at": None},
        ]
        assert record.in_flight == []
        assert record.usage_estimated, "the model may still be paid for"

    def test_names_the_code_if_no_call_was_in_flight(self, running: RunRecord, alice: User) -> None:
        record = abandon(running, alice)
        assert record.started_at is not None
        since = record.started_at.astimezone(UTC).isoformat()
        code = {"kind": "code", "label": "made", "since": since, "ended_at": None}
        assert record.stop_left_behind == [code]
        assert not record.usage_estimated

    def test_logs_each_mode_that_the_log_lacks(self, running: RunRecord, alice: User) -> None:
        for mode in StopMode:
            request_stop(running.pk, via="api", by=alice, mode=mode)
        log = assert_consistent(running).events.filter(type="stop_requested").order_by("seq")
        assert [event.data["mode"] for event in log] == ["graceful", "abort", "abandon"]

    def test_logs_no_mode_twice(self, running: RunRecord, alice: User) -> None:
        request_stop(running.pk, via="api", by=alice, reason="enough")
        data = {
            "mode": "graceful",
            "reason": "enough",
            "via": "api",
            "requested_by": "alice",
            "requested_at": now(running).stop_requested_at.isoformat(),  # type: ignore[union-attr]
            "root_request": str(running.pk),
        }
        write(running, event(running, 1, "agent_start"), event(running, 2, "stop_requested", data))
        record = abandon(running, alice)
        log = record.events.filter(type="stop_requested").order_by("seq")
        assert [event.data["mode"] for event in log] == ["graceful", "abandon"]
        assert record.last_seq == 4

    def test_ends_with_all_below_it_children_first(self, running: RunRecord, alice: User) -> None:
        child = make_run(alice, status=Status.RUNNING, worker=running.worker, parent=running)
        leaf = make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=child)
        asleep = make_run(alice, parent=child)
        request_stop(child.pk, via="api", by=alice)
        abandon(running, alice)
        ends = [now(run).finished_at for run in (leaf, child, running)]
        assert ends == sorted(ends, key=lambda at: at or timezone.now())
        for run in (child, leaf):
            assert (now(run).stop_abandoned, now(run).stop_mode) == (True, "abandon")
        assert (now(asleep).status, now(asleep).stop_abandoned) == ("stopped", False)

    def test_of_a_child_tells_the_worker_that_waits_for_it(
        self, running: RunRecord, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Any] = []
        monkeypatch.setattr(notify, "send_ended", lambda worker, runs: told.append((worker, runs)))
        child = make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=running)
        make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=child)
        request_stop(child.pk, via="api", by=alice, mode="abandon")
        assert told == [(running.worker_id, [child.pk])]
        assert now(running).status == Status.RUNNING

    def test_keeps_what_a_deferred_ending_had(self, running: RunRecord, alice: User) -> None:
        make_run(alice, status=Status.RUNNING, worker=make_worker(), parent=running)
        ending = Ending(Outcome("interrupted", partial_result=[1]), None, 0, 0)
        assert running.worker_id is not None
        record_updates([Updates(running.pk, running.worker_id, 1, [], ending=ending)])
        assert now(running).error is not None
        record = abandon(running, alice)
        assert (record.error, record.partial_result) == (None, [1])


def event(run: RunRecord, seq: int, type: str = "log", data: Any = None) -> Event:
    at, data = datetime.now(UTC), data or {"level": "info", "message": f"line {seq}"}
    return Event(str(run.pk), seq, at, type, run.agent, run.depth, "system", data)


def write(run: RunRecord, *events: Event, **fields: Any) -> Any:
    assert run.worker_id is not None
    last_seq = events[-1].seq if events else 0
    updates = Updates(run.pk, run.worker_id, run.attempt, list(events), last_seq=last_seq, **fields)
    return record_updates([updates])


class TestLateWrites:
    """Of the worker, which does not know yet, or never will."""

    @pytest.fixture
    def over(self, running: RunRecord, alice: User) -> Iterator[RunRecord]:
        write(running, event(running, 1, "agent_start"))
        DataStoreEntry.objects.create(owner=alice, namespace="", key="a", value=1)
        abandon(running, alice)
        before = self.everything()
        yield running
        assert self.everything() == before
        assert_consistent(running)

    def everything(self) -> list[Any]:
        tables = (RunRecord, RunEvent, DataStoreEntry)
        return [list(table.objects.order_by("pk").values()) for table in tables]

    def test_a_thousand_of_log_usage_and_progress_change_nothing(self, over: RunRecord) -> None:
        for start in range(2, 1002, 10):
            lines = [event(over, seq) for seq in range(start, start + 10)]
            recorded = write(over, *lines, usage=Usage(9, 9, 9), in_flight=[CALL])
            assert recorded.gone[over.pk].is_abandoned

    @pytest.mark.parametrize("kind", ["success", "error", "stopped", "interrupted"])
    def test_an_ending_changes_nothing(self, over: RunRecord, kind: Any) -> None:
        outcome = Outcome(kind, result="late", error={"code": "x", "type": "X", "message": "x"})
        ended = write(over, ending=Ending(outcome, None, 0, 0)).gone[over.pk]
        assert (ended.status, ended.is_abandoned) == (Status.STOPPED, True)

    def test_the_data_store_refuses_them(self, over: RunRecord, alice: User) -> None:
        assert over.worker_id is not None
        database = DatabaseThreads()
        store = OwnerStore(alice.pk, database, ActiveRun(over.pk, over.worker_id))

        async def late() -> None:
            for write in (store.set_many("", {"a": 2}, None), store.clear("")):
                with pytest.raises(AgentStopped):
                    await write

        try:
            asyncio.run(late())
        finally:
            database.close()

    def test_no_child_starts(self, over: RunRecord) -> None:
        @agent("child")
        async def child(tools: Tools) -> None: ...

        assert over.worker_id is not None
        parent = ActiveRun(over.pk, over.worker_id)
        for start in (starting.start_child, starting.queue_child):
            with pytest.raises(ParentIsStopping):
                start(parent, "child", {})
        assert not leases.begin(parent)

    def test_a_recovery_leaves_it_as_it_is(self, over: RunRecord) -> None:
        assert recovery.recover_runs(worker=over.worker_id) == 0
        assert over.worker_id is not None
        assert recovery.recover_orphans(over.worker_id) == 0


class TestTheEndOfTheCode:
    def test_is_all_that_is_written_later(self, running: RunRecord, alice: User) -> None:
        before = abandon(running, alice)
        assert before.worker_id is not None
        claim = (running.pk, before.worker_id, 1)
        assert abandoning.note_left(*claim)
        record = assert_consistent(running)
        [left] = record.stop_left_behind or []
        assert datetime.fromisoformat(left["ended_at"]) >= (record.finished_at or timezone.now())
        assert not abandoning.note_left(*claim), "it has ended once"
        record.stop_left_behind = before.stop_left_behind
        names = [field.attname for field in record._meta.concrete_fields]
        assert [getattr(record, n) for n in names] == [getattr(before, n) for n in names]

    def test_of_another_claim_is_none_of_its_own(self, running: RunRecord, alice: User) -> None:
        abandon(running, alice)
        assert running.worker_id is not None
        assert not abandoning.note_left(running.pk, running.worker_id, 2)
        assert not abandoning.note_left(running.pk, uuid.uuid4(), 1)

    def test_of_a_run_that_is_not_abandoned_is_not_written(
        self, running: RunRecord, alice: User
    ) -> None:
        request_stop(running.pk, via="api", by=alice, mode="abort")
        assert running.worker_id is not None
        assert not abandoning.note_left(running.pk, running.worker_id, 1)
        assert now(running).stop_left_behind is None

    def test_is_that_of_its_worker_if_that_one_is_lost(self, alice: User) -> None:
        dead, other = make_dead_worker(), make_worker()
        lost = make_run(alice, status=Status.RUNNING, worker=dead)
        kept = make_run(alice, status=Status.RUNNING, worker=other)
        for run in (lost, kept):
            abandon(run, alice)
        [found] = leases.mark_vanished_workers(None)
        assert abandoning.note_left_by_lost(found.pk) == 1
        [left] = now(lost).stop_left_behind or []
        found.refresh_from_db()
        assert datetime.fromisoformat(left["ended_at"]) == found.lost_at
        assert (now(kept).stop_left_behind or [])[0]["ended_at"] is None
        assert abandoning.note_left_by_lost() == 0

    def test_is_noted_by_a_worker_that_has_claimed_it_and_does_not_execute_it(
        self, running: RunRecord, alice: User
    ) -> None:
        here = make_run(alice, status=Status.RUNNING, worker=running.worker)
        assert running.worker_id is not None
        local_runs.add(ActiveRun(here.pk, running.worker_id))
        try:
            for run in (running, here):
                abandon(run, alice)
            assert abandoning.note_unexecuted(running.worker_id) == 1
            assert (now(running).stop_left_behind or [])[0]["ended_at"] is not None
            assert (now(here).stop_left_behind or [])[0]["ended_at"] is None
        finally:
            local_runs.remove(here.pk)

    def test_is_found_again_if_a_process_died_before_it_wrote_it(self, alice: User) -> None:
        recent = make_worker(lost_at=timezone.now() - timedelta(hours=1))
        run = make_run(alice, status=Status.RUNNING, worker=recent)
        abandon(run, alice)
        assert abandoning.note_left_by_lost() == 1
        assert (now(run).stop_left_behind or [])[0]["ended_at"] is not None

    def test_is_looked_for_in_one_query_if_all_are_noted(
        self, alice: User, django_assert_num_queries: Callable[..., Any]
    ) -> None:
        """Each hour, of all runs of the workers that were lost lately."""
        recent = make_worker(lost_at=timezone.now() - timedelta(hours=1))
        for _ in range(3):
            abandon(make_run(alice, status=Status.RUNNING, worker=recent), alice)
        assert abandoning.note_left_by_lost(recent.pk) == 3
        with django_assert_num_queries(2):  # one is for the worker
            assert abandoning.note_left_by_lost(recent.pk) == 0

    def test_of_a_run_that_is_deleted_meanwhile_is_not_written(self, alice: User) -> None:
        recent = make_worker(lost_at=timezone.now())
        deleted, other = (make_run(alice, status=Status.RUNNING, worker=recent) for _ in range(2))
        for run in (deleted, other):
            abandon(run, alice)

        asked: list[str] = []

        def then_delete(execute: Any, sql: str, *rest: Any) -> Any:
            result = execute(sql, *rest)
            asked.append(sql)
            if sql.startswith("SELECT") and sum("stop_abandoned" in one for one in asked) == 1:
                RunRecord.objects.filter(pk=deleted.pk).delete()
            return result

        with connection.execute_wrapper(then_delete):
            assert abandoning.note_left_by_lost() == 1
        assert (now(other).stop_left_behind or [])[0]["ended_at"] is not None


def test_any_number_of_runs_takes_few_statements(
    alice: User, running: RunRecord, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for _ in range(30):
        make_run(alice, status=Status.RUNNING, worker=running.worker, parent=running)
    with django_assert_max_num_queries(25):
        request_stop(running.pk, via="api", by=alice, mode="abandon")
