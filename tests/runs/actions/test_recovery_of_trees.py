"""Trees over several workers, one of which is lost: children end first, and no other run waits."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from agents.cancellation import StopMode
from agents.runtime import Outcome
from agents.trace import Usage
from runs import events
from runs.actions import leases, recovery, stopping
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.delivery.stop_message import StopRequest
from runs.models import RunRecord, WorkerRecord
from runs.quotas import ledger
from runs.quotas.sizes import size_of_values
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import together

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("forget_local_runs")]
IN_FLIGHT = [{"call": "1", "tool": "agents.wait", "label": "x", "started_at": "2026-01-01"}]


@pytest.fixture
def lost(alice: User) -> WorkerRecord:
    return make_worker(lost_at=timezone.now())


@pytest.fixture
def fine(alice: User) -> WorkerRecord:
    return make_worker()


@pytest.fixture
def make(alice: User) -> Any:
    return partial(make_run, alice, status=Status.RUNNING)


def finish(run: RunRecord) -> None:
    """As its worker does at the end of a stop."""
    run.refresh_from_db()
    assert run.worker_id is not None
    at = run.stop_requested_at
    words = [
        events.system_event(run, 1, "agent_start", {}),
        events.system_event(run, 2, "stop_requested", StopRequest.of(run).as_data()),
        events.system_event(run, 3, "stop_observed", {}),
    ]
    updates = Updates(
        run.pk, run.worker_id, run.attempt, words, last_seq=3, usage=Usage(),
        acknowledged_at=at, observed_at=at,
        ending=Ending(Outcome("stopped"), StopMode.GRACEFUL, 0, 0),
    )  # fmt: skip
    assert record_updates([updates]).gone[run.pk] is not None


def read(run: RunRecord) -> RunRecord:
    return RunRecord.objects.get(pk=run.pk)


@pytest.mark.parametrize("then", ["fails", "requeues", "was asked to stop"])
def test_a_lost_caller_ends_after_its_children_elsewhere(
    then: str, make: Any, lost: WorkerRecord, fine: WorkerRecord, alice: User
) -> None:
    options: dict[str, Any] = {
        "fails": {},
        "requeues": {"requeue_on_loss": True, "max_attempts": 2},
        "was asked to stop": requested(alice),
    }[then]
    root = make(worker=lost, in_flight=IN_FLIGHT, **options)
    far = make(worker=fine, parent=root)
    queued = make_run(alice, parent=root)
    assert recovery.recover_runs() == 0
    assert (read(root).status, read(root).in_flight) == (Status.RUNNING, [])
    assert (read(far).stop_via, read(far).stop_reason) == ("parent", recovery.CALLER_LOST)
    assert assert_consistent(queued).status == Status.STOPPED
    assert recovery.recover_runs() == 0, "its child is running"
    finish(far)
    assert recovery.recover_runs() == 1
    record = read(root)
    if then == "requeues":
        assert (record.status, record.holds_slot) == (Status.QUEUED, True)
    elif then == "fails":
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_lost")
    else:
        assert record.status == Status.STOPPED


def test_distant_descendants_end_first(make: Any, lost: WorkerRecord, fine: WorkerRecord) -> None:
    root = make(worker=lost)
    called = make(worker=lost, parent=root, holds_slot=False)
    far = make(worker=fine, parent=called)
    assert recovery.recover_runs() == 0
    assert not read(called).stop_requested, "it was in the lost process itself"
    finish(far)
    assert recovery.recover_runs() == 2
    assert read(called).error["code"] == read(root).error["code"] == "worker_lost"


@pytest.mark.usefixtures("on_both_databases")
def test_runs_that_wait_for_their_children_delay_no_other_run(
    make: Any, lost: WorkerRecord, fine: WorkerRecord
) -> None:
    waiting = [make(worker=lost, in_flight=IN_FLIGHT) for _ in range(12)]
    far = [make(worker=fine, parent=run) for run in waiting]
    free = [make(worker=lost) for _ in range(12)]
    rounds = [recovery.recover_runs(limit=5) for _ in range(4)]
    assert rounds == [5, 5, 2, 0]
    assert {read(run).status for run in free} == {Status.ERROR}
    assert {read(run).status for run in waiting} == {Status.RUNNING}
    assert all(read(run).stop_requested for run in far)
    assert all(read(run).in_flight == [] for run in waiting)
    for run in far:
        finish(run)
    assert sum(together(*[recovery.recover_runs for _ in range(4)])) == 12


def test_a_lost_child_is_requeued_as_long_as_its_caller_waits(
    make: Any, lost: WorkerRecord, fine: WorkerRecord
) -> None:
    root = make(worker=fine)
    again = make(worker=lost, parent=root, requeue_on_loss=True, max_attempts=2)
    fails = make(worker=lost, parent=root)
    assert recovery.recover_runs() == 2
    assert read(again).status == Status.QUEUED
    assert read(fails).error["code"] == "worker_lost"


def test_a_lost_child_of_a_lost_caller_is_not_started_again(make: Any, lost: WorkerRecord) -> None:
    root = make(worker=lost, requeue_on_loss=True, max_attempts=2)
    child = make(worker=lost, parent=root, requeue_on_loss=True, max_attempts=2)
    assert recovery.recover_runs() == 2
    assert read(child).error["code"] == "worker_lost"
    assert "used up" not in read(child).error["message"]
    assert read(root).status == Status.QUEUED


def test_an_orphan_waits_for_its_children_too(make: Any, fine: WorkerRecord) -> None:
    other = make_worker()
    orphan = make(worker=fine, in_flight=IN_FLIGHT)
    far = make(worker=other, parent=orphan)
    assert recovery.recover_orphans(fine.pk) == 0
    assert read(orphan).in_flight == []
    assert read(far).stop_requested
    finish(far)
    assert recovery.recover_orphans(fine.pk) == 1


class TestPrematureEnding:
    """A process that shuts down writes no end above children that continue."""

    def end(self, run: RunRecord, outcome: Outcome) -> Any:
        assert run.worker_id is not None
        ending = Ending(outcome, None, 0, 0)
        updates = Updates(run.pk, run.worker_id, run.attempt, usage=Usage(), ending=ending)
        return record_updates([updates]).gone

    def test_is_left_to_the_recovery(self, make: Any, fine: WorkerRecord, alice: User) -> None:
        root = make(worker=fine, in_flight=IN_FLIGHT)
        far = make(worker=make_worker(), parent=root)
        assert self.end(root, Outcome("interrupted", partial_result="half")) == {root.pk: None}
        record = read(root)
        assert (record.status, record.in_flight) == (Status.RUNNING, [])
        leases.retire(fine.pk)
        assert recovery.recover_runs() == 0
        finish(far)
        assert recovery.recover_runs() == 1
        record = read(root)
        assert (record.status, record.error["code"]) == (Status.ERROR, "worker_shutdown")
        assert record.partial_result == "half"

    def test_of_a_stopped_run_is_stopped(self, make: Any, fine: WorkerRecord, alice: User) -> None:
        root = make(worker=fine, **requested(alice))
        far = make(worker=make_worker(), parent=root, **requested(alice, stop_via="parent"))
        self.end(root, Outcome("interrupted", partial_result="half"))
        leases.retire(fine.pk)
        finish(far)
        assert recovery.recover_runs() == 1
        record = read(root)
        assert (record.status, record.error) == (Status.STOPPED, None)
        assert record.partial_result == "half"

    def test_is_forgotten_if_the_run_is_requeued(self, make: Any, fine: WorkerRecord) -> None:
        root = make(worker=fine, requeue_on_loss=True, max_attempts=2)
        far = make(worker=make_worker(), parent=root)
        self.end(root, Outcome("interrupted", partial_result="half"))
        leases.retire(fine.pk)
        recovery.recover_runs()
        finish(far)
        assert recovery.recover_runs() == 1
        record = read(root)
        assert (record.status, record.partial_result, record.error) == ("queued", None, None)

    @pytest.mark.parametrize("then", ["requeued", "lost", "stopped", "reported"])
    def test_counts_for_what_is_kept_of_it(
        self, make: Any, fine: WorkerRecord, alice: User, then: str
    ) -> None:
        again = {"requeue_on_loss": True, "max_attempts": 2} if then == "requeued" else {}
        root = make(worker=fine, value_bytes=1_000, **again)
        far = make(worker=make_worker(), parent=root)
        self.end(root, Outcome("interrupted", partial_result="half" * 100))
        record = read(root)
        assert record.value_bytes == 1_000 + size_of_values(record.partial_result, record.error)
        if then == "reported":
            stopping.stop_children(root.pk, reason="late")
            finish(far)
            self.end(root, Outcome("success", result="whole" * 10))
        else:
            if then == "stopped":
                stopping.request_stop(root.pk, via="api", by=alice)
            leases.retire(fine.pk)
            recovery.recover_runs()
            finish(far)
            assert recovery.recover_runs() == 1
        record = read(root)
        kept = size_of_values(record.result, record.partial_result, record.error)
        assert record.value_bytes == 1_000 + kept
        logs = sum(RunRecord.objects.values_list("log_bytes", flat=True))
        others = read(far).value_bytes
        assert ledger.usage(alice.pk).stored_bytes == kept + others + logs

    @pytest.mark.parametrize("kind", ["success", "error", "interrupted"])
    def test_is_written_by_a_later_try(self, make: Any, fine: WorkerRecord, kind: Any) -> None:
        root = make(worker=fine)
        far = make(worker=make_worker(), parent=root)
        error: Any = {"code": "x", "type": "X", "message": "x"} if kind == "error" else None
        outcome = Outcome(kind, result=1 if kind == "success" else None, error=error)
        assert self.end(root, outcome)[root.pk] is None
        stopping.stop_children(root.pk, reason="late")
        finish(far)
        self.end(root, outcome)
        record = assert_consistent(root)
        assert record.status == ("success" if kind == "success" else "error")

    def test_is_written_after_the_children_have_ended(self, make: Any, fine: WorkerRecord) -> None:
        root = make(worker=fine)
        make(worker=fine, parent=root, status=Status.SUCCESS)
        assert self.end(root, Outcome("success", result=1))[root.pk].status == Status.SUCCESS
