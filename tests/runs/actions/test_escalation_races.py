"""Two that change one stop at the same time: the second sees what the first did, in both orders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from agents import Tools, agent
from agents.runtime import Outcome
from runs.actions import leases, recovery, starting
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.actions.stopping import escalate_due, request_stop
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import ParentIsStopping, RunAlreadyFinished
from runs.models import RunRecord, WorkerRecord
from runs.queue.limits import NO_LIMITS
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, in_thread, together
from tests.support.server import eventually

Work = Callable[[], object]


@pytest.fixture
def running(alice: User) -> RunRecord:
    return make_run(alice, status=Status.RUNNING, worker=make_worker())


def now(run: RunRecord) -> RunRecord:
    return RunRecord.objects.get(pk=run.pk)


def ask(run: RunRecord, user: User, mode: str) -> str:
    try:
        return request_stop(run.pk, via="api", by=user, mode=mode).outcome
    except RunAlreadyFinished:
        return "finished"


def end(run: RunRecord, kind: str = "success") -> object:
    assert run.worker_id is not None
    ending = Ending(Outcome(kind), None, 0, 0)  # type: ignore[arg-type]
    return record_updates([Updates(run.pk, run.worker_id, run.attempt, [], ending=ending)])


@contextlib.contextmanager
def under_way(work: Work) -> Iterator[Work]:
    """Do ``work`` in a transaction; yields a function that commits it."""
    gate = Gate()

    def held() -> None:
        with transaction.atomic():
            work()
            gate.wait_here()

    with in_thread(held):
        gate.until_arrived()
        try:
            yield gate.open
        finally:
            gate.open()


def in_order(first: Work, second: Callable[[], str]) -> str:
    """Begin ``second`` while the transaction of ``first`` is open; return its answer.

    SQLite has one writer at a time: there the first is over when the second begins.
    """
    if connection.vendor != "postgresql":
        first()
        return second()
    with under_way(first) as commit, in_thread(second) as answer:
        eventually(a_session_waits)
        commit()
        return str(answer())


def a_session_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


pytestmark = pytest.mark.usefixtures("on_both_databases")


class TestTwoEscalations:
    def test_the_harder_second(self, running: RunRecord, alice: User, operator: User) -> None:
        ask(running, alice, "graceful")
        answer = in_order(
            partial(ask, running, alice, "abort"), partial(ask, running, operator, "abandon")
        )
        record = assert_consistent(running)
        assert (answer, record.stop_mode) == ("accepted", "abandon")
        assert record.stop_escalated_by == operator
        log = record.events.filter(type="stop_requested").order_by("seq")
        assert [event.data["mode"] for event in log] == ["graceful", "abort", "abandon"]
        assert [event.data.get("escalated_by") for event in log] == [None, "alice", "operator"]

    def test_the_harder_first(self, running: RunRecord, alice: User, operator: User) -> None:
        ask(running, alice, "graceful")
        answer = in_order(
            partial(ask, running, alice, "abandon"), partial(ask, running, operator, "abort")
        )
        assert (answer, now(running).stop_mode) == ("finished", "abandon")
        assert_consistent(running)

    def test_the_same_twice(self, running: RunRecord, alice: User, operator: User) -> None:
        ask(running, alice, "graceful")
        answer = in_order(
            partial(ask, running, alice, "abort"), partial(ask, running, operator, "abort")
        )
        assert (answer, now(running).stop_escalated_by) == ("already_stopping", alice)

    def test_of_a_run_that_nothing_had_stopped(
        self, running: RunRecord, alice: User, operator: User
    ) -> None:
        answer = in_order(
            partial(ask, running, alice, "graceful"), partial(ask, running, operator, "abort")
        )
        record = now(running)
        assert (answer, record.stop_mode) == ("accepted", "abort")
        assert (record.stop_requested_by, record.stop_escalated_by) == (alice, operator)

    def test_of_a_tree_from_above_and_from_below(self, alice: User) -> None:
        held = make_worker()
        for _ in range(5):
            root = make_run(alice, status=Status.RUNNING, worker=held)
            middle = make_run(alice, status=Status.RUNNING, worker=held, parent=root)
            leaf = make_run(alice, status=Status.RUNNING, worker=held, parent=middle)
            answers = together(
                partial(ask, root, alice, "abort"),
                partial(ask, middle, alice, "abandon"),
                partial(ask, leaf, alice, "graceful"),
                partial(ask, root, alice, "graceful"),
            )
            assert set(answers) <= {"accepted", "already_stopping", "finished"}
            assert (now(root).stop_mode, now(root).status) == ("abort", "running")
            for run in (middle, leaf):
                assert (now(run).stop_mode, now(run).status) == ("abandon", "stopped")
                assert_consistent(run)


class TestAnEnding:
    def test_before_an_escalation(self, running: RunRecord, alice: User) -> None:
        ask(running, alice, "graceful")
        answer = in_order(partial(end, running), partial(ask, running, alice, "abort"))
        record = assert_consistent(running)
        assert (answer, record.status, record.stop_mode) == ("finished", "success", "graceful")

    def test_after_an_escalation_logs_it(self, running: RunRecord, alice: User) -> None:
        ask(running, alice, "graceful")
        in_order(partial(ask, running, alice, "abort"), lambda: str(end(running)))
        record = assert_consistent(running)
        assert (record.status, record.stop_mode) == ("success", "abort")
        log = record.events.filter(type="stop_requested").order_by("seq")
        assert [event.data["mode"] for event in log] == ["graceful", "abort"]

    def test_before_it_is_abandoned(self, running: RunRecord, alice: User) -> None:
        answer = in_order(partial(end, running), partial(ask, running, alice, "abandon"))
        record = assert_consistent(running)
        assert (answer, record.status, record.stop_requested) == ("finished", "success", False)

    def test_after_it_was_abandoned_changes_nothing(self, running: RunRecord, alice: User) -> None:
        in_order(partial(ask, running, alice, "abandon"), lambda: str(end(running)))
        record = assert_consistent(running)
        assert (record.status, record.result, record.stop_abandoned) == ("stopped", None, True)


class TestAPlannedOne:
    @pytest.fixture
    def planned(self, running: RunRecord, alice: User) -> RunRecord:
        request_stop(running.pk, via="api", by=alice, abort_after=600)
        at = timezone.now() - timedelta(seconds=1)
        RunRecord.objects.filter(pk=running.pk).update(stop_abort_at=at)
        return running

    def test_before_an_asked_one(self, planned: RunRecord, operator: User) -> None:
        answer = in_order(escalate_due, partial(ask, planned, operator, "abort"))
        assert (answer, now(planned).stop_escalated_by) == ("already_stopping", None)

    def test_after_an_asked_one(self, planned: RunRecord, operator: User) -> None:
        if connection.vendor == "postgresql":
            with under_way(partial(ask, planned, operator, "abort")) as commit:
                assert escalate_due() == 0, "it does not wait for the lock"
                commit()
        else:
            ask(planned, operator, "abort")
        assert escalate_due() == 0
        record = now(planned)
        assert (record.stop_mode, record.stop_escalated_by) == ("abort", operator)

    def test_by_many_processes_is_carried_out_once(self, planned: RunRecord) -> None:
        together(*[escalate_due] * 8)
        escalate_due()
        at = now(planned).stop_escalated_at
        assert at is not None
        escalate_due()
        assert now(planned).stop_escalated_at == at

    @pytest.mark.postgres  # on SQLite no other transaction can be open
    def test_one_that_is_locked_delays_no_other(
        self, planned: RunRecord, alice: User, on_both_databases: str
    ) -> None:
        other = make_run(alice, status=Status.RUNNING, worker=planned.worker)
        request_stop(other.pk, via="api", by=alice, abort_after=0)
        locked = RunRecord.objects.filter(pk=planned.pk)
        with under_way(lambda: locked.update(llm_calls=1)):
            assert escalate_due() == 1
        assert [now(run).stop_mode for run in (planned, other)] == ["graceful", "abort"]
        assert escalate_due() == 1
        assert now(planned).stop_mode == "abort"


class TestATakeover:
    """The worker of a run is lost, and the run is queued again and claimed by another worker."""

    @pytest.fixture
    def lost(self, alice: User) -> RunRecord:
        gone = make_worker(lost_at=timezone.now())
        fields = {"requeue_on_loss": True, "max_attempts": 2, "agent": "made"}
        return make_run(alice, status=Status.RUNNING, worker=gone, **fields)

    @pytest.fixture
    def other(self, alice: User) -> WorkerRecord:
        return make_worker()

    def test_after_an_abort_is_none(
        self, lost: RunRecord, other: WorkerRecord, alice: User
    ) -> None:
        ask(lost, alice, "abort")
        recovery.recover_runs()
        assert leases.claim(other.pk, 5, NO_LIMITS) == []
        record = assert_consistent(lost)
        assert (record.status, record.stop_mode) == ("stopped", "abort")

    def test_before_an_abort_takes_the_abort(
        self, lost: RunRecord, other: WorkerRecord, alice: User
    ) -> None:
        recovery.recover_runs()
        [claimed] = leases.claim(other.pk, 5, NO_LIMITS)
        entry = local_runs.get(claimed.pk)
        try:
            assert ask(lost, alice, "abort") == "accepted"
            assert entry is not None
            assert (entry.attempt, entry.token.mode) == (2, "abort")
        finally:
            local_runs.remove(claimed.pk)

    def test_at_half_way_stops_the_queued_run(self, lost: RunRecord, alice: User) -> None:
        recovery.recover_runs()
        assert now(lost).status == Status.QUEUED
        assert ask(lost, alice, "abort") == "accepted"
        assert assert_consistent(lost).status == "stopped"


class TestTheStartOfAChild:
    @pytest.fixture(autouse=True)
    def child(self) -> None:
        @agent("child")
        async def child(tools: Tools) -> None: ...

    def test_before_an_escalation_is_part_of_it(self, running: RunRecord, alice: User) -> None:
        parent = ActiveRun(running.pk, running.worker_id)  # type: ignore[arg-type]
        answer = in_order(
            lambda: starting.queue_child(parent, "child", {}),
            partial(ask, running, alice, "abandon"),
        )
        assert answer == "accepted"
        assert_consistent(running)
        assert running.children.get().status == Status.STOPPED

    def test_after_a_stop_is_refused(self, running: RunRecord, alice: User) -> None:
        parent = ActiveRun(running.pk, running.worker_id)  # type: ignore[arg-type]

        def start() -> str:
            try:
                starting.queue_child(parent, "child", {})
            except ParentIsStopping:
                return "refused"
            return "started"

        assert in_order(partial(ask, running, alice, "abort"), start) == "refused"
        assert not running.children.exists()
