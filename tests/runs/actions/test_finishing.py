"""How an ending becomes a status, and a log that is written with it or not at all."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.utils import timezone

from agents.cancellation import StopMode
from agents.runtime import Outcome
from agents.trace import Usage
from runs import events
from runs.actions import finishing
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker, requested

on_both_databases = pytest.mark.usefixtures("on_both_databases")

AN_ERROR: Any = {"code": "x", "type": "X", "message": "x"}
STARTED = ("agent_start",)
OBSERVED = ("agent_start", "stop_requested", "stop_observed")


@pytest.fixture
def worker_row(transactional_db: None) -> WorkerRecord:
    return make_worker()


@pytest.fixture
def run(alice: User, worker_row: WorkerRecord) -> RunRecord:
    return make_run(alice, status=Status.RUNNING, worker=worker_row)


def updates_of(run: RunRecord, *types: str, **fields: Any) -> Updates:
    request = {
        "mode": "graceful",
        "reason": run.stop_reason,
        "via": run.stop_via,
        "requested_by": run.stop_requested_by.get_username() if run.stop_requested_by else None,
        "requested_at": run.stop_requested_at.isoformat() if run.stop_requested_at else None,
        "root_request": str(run.stop_root_request or run.pk),
    }
    log = [
        events.system_event(
            run, run.last_seq + n, type, request if type == "stop_requested" else {}
        )
        for n, type in enumerate(types, 1)
    ]
    last = log[-1].seq if log else 0
    assert run.worker_id is not None
    return Updates(run.pk, run.worker_id, run.attempt, log, last_seq=last, **fields)


def ending(kind: Any, *, stop_recorded: bool = False, **fields: Any) -> Ending:
    return Ending(Outcome(kind, **fields), StopMode.GRACEFUL if stop_recorded else None, 0, 0)


def ask_to_stop(run: RunRecord) -> None:
    fields = requested(stop_root_request=run.pk)
    RunRecord.objects.filter(pk=run.pk).update(**fields)
    run.refresh_from_db()


@pytest.mark.parametrize(
    ("asked", "outcome", "status", "expected"),
    [
        (False, Outcome("success", result=[1]), "success", {"result": [1]}),
        (False, Outcome("success", result=None), "success", {"result": None}),
        (False, Outcome("error", error=AN_ERROR), "error", {"error": AN_ERROR}),
        (
            False,
            Outcome("error", error=AN_ERROR, partial_result=2),
            "error",
            {"partial_result": 2},
        ),
        (True, Outcome("success", result=1), "success", {"stop_finished_first": True}),
        (True, Outcome("error", error=AN_ERROR), "error", {"stop_finished_first": True}),
        (True, Outcome("stopped", partial_result=3), "stopped", {"partial_result": 3}),
        (
            True,
            Outcome("stopped", cleanup_error=AN_ERROR),
            "stopped",
            {"stop_cleanup_error": {"type": "X", "message": "x"}, "error": None},
        ),
        (True, Outcome("interrupted", partial_result=4), "stopped", {"partial_result": 4}),
        (False, Outcome("interrupted", partial_result=5), "error", {"partial_result": 5}),
        (False, Outcome("stopped", partial_result=6), "error", {"partial_result": 6}),
    ],
)
def test_an_ending_becomes_a_status(
    asked: bool, outcome: Outcome, status: str, expected: dict[str, Any], run: RunRecord
) -> None:
    if asked:
        ask_to_stop(run)
    observed = outcome.kind in ("stopped", "interrupted") and asked
    now = timezone.now()
    updates = updates_of(
        run,
        *(OBSERVED if observed else STARTED),
        ending=Ending(outcome, StopMode.GRACEFUL if observed else None, 0, 0),
        acknowledged_at=now if observed else None,
        observed_at=now if observed else None,
    )
    recorded = record_updates([updates])
    record = assert_consistent(run)
    assert record.status == status
    assert {name: getattr(record, name) for name in expected} == expected
    ended = recorded.gone[run.pk]
    assert ended is not None
    assert (ended.status, ended.result, ended.error) == (status, record.result, record.error)
    assert [e.type for e in recorded.log][-1] == "agent_end"
    if status == "error" and outcome.kind != "error":
        assert record.error["code"] == "worker_shutdown"


def test_a_shutdown_requeues_a_run_if_its_agent_allows(
    alice: User, worker_row: WorkerRecord
) -> None:
    run = make_run(
        alice, status=Status.RUNNING, worker=worker_row, requeue_on_loss=True, max_attempts=2
    )
    recorded = record_updates([updates_of(run, *STARTED, ending=ending("interrupted"))])
    assert recorded.gone[run.pk] is not None
    assert recorded.gone[run.pk].status == Status.QUEUED  # type: ignore[union-attr]
    run.refresh_from_db()
    assert (run.status, run.worker_id, run.started_at) == (Status.QUEUED, None, None)
    assert (run.attempt, run.last_seq, run.in_flight) == (1, 2, [])
    assert "attempt 1 of 2" in run.events.get(seq=2).data["message"]


def test_a_run_whose_attempts_are_used_up_is_not_requeued(
    alice: User, worker_row: WorkerRecord
) -> None:
    run = make_run(
        alice,
        status=Status.RUNNING,
        worker=worker_row,
        requeue_on_loss=True,
        max_attempts=2,
        attempt=2,
    )
    record_updates([updates_of(run, *STARTED, ending=ending("interrupted"))])
    ended = assert_consistent(run)
    assert ended.status == Status.ERROR
    assert ended.error["code"] == "worker_lost"
    assert "All 2 attempts" in ended.error["message"]


def test_a_stop_during_a_drain_is_a_stop(run: RunRecord) -> None:
    """The shutdown tripped the token, and then a user requested a stop."""
    before = timezone.now() - timedelta(seconds=3)
    ask_to_stop(run)
    updates = updates_of(
        run,
        *OBSERVED,
        ending=ending("interrupted", stop_recorded=True),
        acknowledged_at=before,
        observed_at=before,
    )
    record_updates([updates])
    record = assert_consistent(run)
    assert record.status == Status.STOPPED
    assert record.stop_acknowledged_at == record.stop_requested_at


@on_both_databases
def test_a_stop_that_was_not_delivered_is_logged_at_the_end(run: RunRecord) -> None:
    ask_to_stop(run)
    record_updates([updates_of(run, *STARTED, ending=ending("success", result=1))])
    record = assert_consistent(run)
    assert [e.type for e in record.events.all()] == ["agent_start", "stop_requested", "agent_end"]


def test_an_observation_after_the_end_is_ignored(run: RunRecord) -> None:
    ask_to_stop(run)
    now = timezone.now()
    updates = updates_of(
        run, *STARTED, ending=ending("success", result=1), acknowledged_at=now, observed_at=now
    )
    record_updates([updates])
    record = assert_consistent(run)
    assert record.stop_finished_first
    assert record.stop_observed_at is None


def test_progress_writes_the_log_and_the_calls_in_flight(run: RunRecord) -> None:
    call: Any = {"call": "1", "tool": "http", "label": "GET x", "started_at": "now"}
    usage = Usage(2, 10, 20, estimated=True)
    recorded = record_updates(
        [updates_of(run, "agent_start", "log", in_flight=[call], usage=usage)]
    )
    assert recorded.gone == {}
    run.refresh_from_db()
    assert (run.status, run.last_seq, run.in_flight) == (Status.RUNNING, 2, [call])
    assert (run.llm_calls, run.input_tokens, run.output_tokens) == (2, 10, 20)
    assert run.usage_estimated


@on_both_databases
def test_one_batch_writes_updates_of_runs_with_and_without_a_stop(
    alice: User, worker_row: WorkerRecord
) -> None:
    runs = [make_run(alice, status=Status.RUNNING, worker=worker_row) for _ in range(4)]
    ask_to_stop(runs[1])
    ask_to_stop(runs[3])
    now = timezone.now()
    batch = [
        updates_of(runs[0], *STARTED),
        updates_of(runs[1], *OBSERVED, acknowledged_at=now, observed_at=now),
        updates_of(runs[2], *STARTED, ending=ending("success", result=1)),
        updates_of(
            runs[3],
            *OBSERVED,
            acknowledged_at=now,
            observed_at=now,
            ending=ending("stopped", stop_recorded=True),
        ),
    ]
    recorded = record_updates(batch)
    assert set(recorded.gone) == {runs[2].pk, runs[3].pk}
    for run in runs:
        run.refresh_from_db()
    assert [run.last_seq for run in runs] == [1, 3, 2, 4]
    assert runs[1].stop_observed_at == runs[3].stop_observed_at == now
    assert_consistent(runs[2])
    assert_consistent(runs[3])


@pytest.mark.parametrize("kind", ["progress", "ending"])
@pytest.mark.parametrize("how", ["another worker", "another attempt", "over", "deleted"])
def test_updates_under_a_lost_claim_are_not_written(
    kind: str, how: str, run: RunRecord, alice: User
) -> None:
    updates = updates_of(run, *STARTED, ending=ending("success") if kind == "ending" else None)
    row = RunRecord.objects.filter(pk=run.pk)
    if how == "another worker":
        row.update(worker=make_worker(), attempt=2)
    elif how == "another attempt":
        row.update(attempt=2)
    elif how == "over":
        row.update(status="error", error=AN_ERROR, finished_at=timezone.now())
    else:
        run.delete()
    other = make_run(alice, status=Status.RUNNING, worker=WorkerRecord.objects.first())
    before = list(row.values())
    recorded = record_updates([updates, updates_of(other, *STARTED)])
    assert list(row.values()) == before
    assert not events.read(updates.run)
    assert set(recorded.gone) == {updates.run}
    ended = recorded.gone[updates.run]
    if how == "over":  # the request that waits for it gets its status
        assert ended is not None
        assert (ended.status, ended.error) == ("error", AN_ERROR)
    else:
        assert ended is None
    assert [e.type for e in events.read(other.pk)] == ["agent_start"]


@on_both_databases
def test_committed_updates_are_not_written_twice(run: RunRecord) -> None:
    """The connection broke after the commit: the recorder does not know it, and writes again."""
    progress = updates_of(run, "agent_start", "log", "log")
    record_updates([progress])
    again = record_updates([progress])
    assert again.log == progress.events  # but no listener received it
    end = Updates(
        run.pk,
        progress.worker,
        1,
        [events.system_event(run, 4, "log", {})],
        last_seq=4,
        ending=ending("success", result="once"),
    )
    first, second = record_updates([end]), record_updates([end])
    assert first.gone == second.gone
    assert [e.as_dict() for e in second.log] == [e.as_dict() for e in first.log]
    record = assert_consistent(run)
    assert (record.result, record.last_seq) == ("once", 5)


@on_both_databases
def test_log_and_status_appear_together_or_not_at_all(
    run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = updates_of(run, *STARTED, ending=ending("success", result=1))
    before = list(RunRecord.objects.values())
    failed_at = 0
    for failing in range(20):
        seen = 0

        def refuse(execute: Any, *arguments: Any, failing: int = failing) -> Any:
            nonlocal seen
            seen += 1
            if seen > failing:
                raise OperationalError("the database is away")
            return execute(*arguments)

        try:
            with connection.execute_wrapper(refuse):
                record_updates([updates])
            break
        except OperationalError:
            failed_at += 1
            assert list(RunRecord.objects.values()) == before
            assert not events.read(run.pk)
    assert failed_at >= 3, "lock, status, log"
    assert assert_consistent(run).result == 1


@on_both_databases
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("by", ["its worker", "the reaper"])
def test_an_ending_comes_last_if_the_clocks_of_hosts_differ(
    by: str, hours: int, run: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_to_stop(run)
    now = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(hours=hours))
    if by == "its worker":
        observed = timezone.now()
        updates = updates_of(
            run,
            *OBSERVED,
            acknowledged_at=observed,
            observed_at=observed,
            ending=ending("stopped", stop_recorded=True),
        )
        record_updates([updates])
    else:
        RunRecord.objects.filter(pk=run.pk).update(stop_acknowledged_at=now())
        WorkerRecord.objects.update(lost_at=timezone.now())
        run.refresh_from_db()
        finish_lost(run)
    run.refresh_from_db()
    at = [run.started_at, run.stop_requested_at, run.stop_acknowledged_at, run.finished_at]
    assert at == sorted(at)  # type: ignore[type-var]


def finish_lost(run: RunRecord) -> finishing.Ended:
    """End a run as the recovery does when its worker was lost."""
    end = finishing.finish_lost(run, code="worker_lost")
    finishing.finish([end])
    return end.ended


class TestARunWithoutItsWorker:
    def test_ends_as_an_error(self, run: RunRecord) -> None:
        finish_lost(run)
        record = assert_consistent(run)
        assert (record.status, record.error["code"]) == ("error", "worker_lost")

    def test_ends_as_stopped_if_a_stop_was_requested(self, run: RunRecord) -> None:
        record_updates([updates_of(run, "agent_start", "log")])
        ask_to_stop(run)
        WorkerRecord.objects.update(lost_at=timezone.now())
        finish_lost(run)
        record = assert_consistent(run)
        assert (record.status, record.error) == ("stopped", None)
        assert not record.stop_finished_first

    def test_logs_its_stop_request_once(self, run: RunRecord) -> None:
        ask_to_stop(run)
        record_updates([updates_of(run, "agent_start", "stop_requested")])
        run.refresh_from_db()
        WorkerRecord.objects.update(lost_at=timezone.now())
        finish_lost(run)
        assert_consistent(run)

    def test_is_requeued_if_its_agent_allows(self, run: RunRecord) -> None:
        run.requeue_on_loss, run.max_attempts = True, 2
        ended = finish_lost(run)
        assert ended.status == Status.QUEUED
        run.refresh_from_db()
        assert run.status == Status.QUEUED
