"""Stops at a deadline, in the database: each run once, none too early, and never against another
write.
"""

from __future__ import annotations

import os
import random
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction

from agents.runtime import Outcome
from runs.actions import (
    leases,
    limit_stops,
    limits,
    recovery,
    starting,
    stop_rows,
    stopping,
)
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.db.clock import database_now
from runs.db.statements import as_parameter
from runs.delivery import local_runs, notify
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import RunIsStopping
from runs.identity.models import AuditEntry
from runs.models import RunInput, RunRecord, WorkerRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_dead_worker, make_run, make_worker
from tests.support.running import in_thread, together

pytestmark = pytest.mark.usefixtures("on_both_databases", "transactional_db")

MINUTE = 60.0


@pytest.fixture
def worker(alice: User) -> WorkerRecord:
    return make_worker()


@pytest.fixture
def raiser(alice: User) -> User:
    alice.user_permissions.add(Permission.objects.get(codename="raise_limits"))
    return User.objects.get(pk=alice.pk)


def overdue(owner: User, worker: WorkerRecord | None, **fields: Any) -> RunRecord:
    """Make a run that is a second beyond its minute: running, or queued again."""
    status = Status.RUNNING if worker else Status.QUEUED
    at = database_now() - timedelta(seconds=1)
    times = {"attempt": 1, "deadline_seconds": MINUTE, "deadline_at": at}
    return make_run(owner, status=status, worker=worker, **{**times, **fields})


def report(run: RunRecord, kind: str = "success") -> None:
    """End a run as its worker reports it."""
    assert run.worker_id is not None
    outcome = Outcome(kind)  # type: ignore[arg-type]
    updates = Updates(run.pk, run.worker_id, run.attempt, last_seq=run.last_seq)
    updates.ending = Ending(outcome, None, 0, 0)
    if kind == "stopped":
        updates.acknowledged_at = updates.observed_at = datetime.now(UTC)
    record_updates([updates])


def test_a_running_run_is_asked_to_stop(alice: User, worker: WorkerRecord) -> None:
    run = overdue(alice, worker)
    in_time = overdue(alice, worker, deadline_at=database_now() + timedelta(seconds=30))
    free = make_run(alice, status=Status.RUNNING, worker=worker)
    assert limit_stops.stop_overdue() == 1
    run.refresh_from_db()
    assert (run.shown_status, run.stop_mode, run.stop_via) == ("stopping", "graceful", "budget")
    assert (run.stop_requested_by, run.stop_reason) == (None, "the deadline was reached")
    value = run.stop_limit.pop("value")
    assert MINUTE + 1 <= value < MINUTE + 10
    assert run.stop_limit == {"kind": "wall", "scope": "run", "limit": MINUTE, "evidence": []}
    assert run.stop_abort_at == run.stop_requested_at + timedelta(seconds=10)
    assert _audited() == 1
    assert not RunRecord.objects.filter(
        pk__in=[in_time.pk, free.pk], stop_requested_at__isnull=False
    ).exists()
    assert limit_stops.stop_overdue() == 0


def test_a_run_that_is_queued_again_is_stopped_at_once(alice: User) -> None:
    run = overdue(alice, None)
    assert limit_stops.stop_overdue() == 1
    assert assert_consistent(run).status == Status.STOPPED


def test_the_runs_below_stop_with_their_caller(alice: User, worker: WorkerRecord) -> None:
    root = overdue(alice, worker)
    below = overdue(alice, worker, parent=root, deadline_at=root.deadline_at)
    queued = overdue(alice, None, parent=below, deadline_at=root.deadline_at)
    assert limit_stops.stop_overdue() == 3
    receipts = RunRecord.objects.in_bulk([root.pk, below.pk, queued.pk])
    assert [receipts[run.pk].stop_via for run in (root, below, queued)] == [
        "budget",
        "parent",
        "parent",
    ]
    assert {receipt.stop_root_request for receipt in receipts.values()} == {root.pk}
    assert receipts[below.pk].stop_limit is None
    assert receipts[below.pk].stop_abort_at == receipts[root.pk].stop_abort_at
    assert receipts[queued.pk].status == Status.STOPPED
    assert _audited() == 1


@pytest.mark.postgres
def test_a_run_whose_caller_is_locked_waits_for_it(alice: User, worker: WorkerRecord) -> None:
    root = overdue(alice, worker)
    below = overdue(alice, worker, parent=root, deadline_at=root.deadline_at)
    with transaction.atomic():
        RunRecord.objects.select_for_update().get(pk=root.pk)
        with in_thread(limit_stops.stop_overdue) as stopped:
            assert stopped() == 0
    assert limit_stops.stop_overdue() == 2
    below.refresh_from_db()
    assert (below.stop_via, below.stop_root_request) == ("parent", root.pk)


def test_a_called_run_names_the_limit_of_its_caller(alice: User, worker: WorkerRecord) -> None:
    """Its caller is over, but left it behind; or another transaction has locked the caller."""
    root = overdue(alice, worker)
    below = overdue(alice, worker, parent=root, deadline_at=root.deadline_at, deadline_seconds=None)
    RunRecord.objects.filter(pk=root.pk).update(stop_requested_at=database_now(), stop_via="api")
    assert limit_stops.stop_overdue() == 1
    below.refresh_from_db()
    assert (below.stop_limit["scope"], below.stop_limit["limit"]) == ("tree", MINUTE)


@pytest.mark.usefixtures("caplog")
def test_a_run_that_can_not_be_stopped_does_not_keep_the_others(
    alice: User, worker: WorkerRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [overdue(alice, worker) for _ in range(3)]
    stop = limit_stops.stop_at_limit

    def stop_but_one(reached: Any, reason: str) -> None:
        if runs[1].pk in reached:
            raise ValueError("as a database would, that refuses a value")
        stop(reached, reason)

    monkeypatch.setattr(limit_stops, "stop_at_limit", stop_but_one)
    assert limit_stops.stop_overdue() == 2
    for run in runs:
        run.refresh_from_db()
    assert [run.stop_requested for run in runs] == [True, False, True]


@pytest.mark.postgres
def test_the_look_reads_no_more_than_what_is_due(alice: User, worker: WorkerRecord) -> None:
    """By the partial index, which has the active runs with a deadline alone."""
    make = RunRecord(agent="made", owner=alice, status=Status.SUCCESS, finished_at=database_now())
    RunRecord.objects.bulk_create(
        RunRecord(id=(id := uuid.uuid4()), root_id=id, **_fields_of(make)) for _ in range(3_000)
    )
    overdue(alice, worker)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE runs_runrecord")
        sql = limit_stops._OVERDUE.format(now="CLOCK_TIMESTAMP()")
        cursor.execute(f"EXPLAIN {sql}", [100])
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "run_deadline" in plan, plan


def _fields_of(run: RunRecord) -> dict[str, Any]:
    return {name: getattr(run, name) for name in ("agent", "owner", "status", "finished_at")}


def test_the_worker_gets_a_message(
    alice: User, worker: WorkerRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[uuid.UUID] = []
    monkeypatch.setattr(notify, "send_stops", lambda stops: sent.extend(s.run for s in stops))
    run = overdue(alice, worker)
    limit_stops.stop_overdue()
    assert sent == [run.pk]


def test_the_token_of_a_run_in_this_process_is_tripped(alice: User, worker: WorkerRecord) -> None:
    run = overdue(alice, worker)
    entry = ActiveRun(run.pk, worker.pk)
    local_runs.add(entry)
    try:
        limit_stops.stop_overdue()
        assert entry.token.stopped
    finally:
        local_runs.remove(run.pk)


def test_a_run_that_was_deleted_is_not_asked(alice: User, worker: WorkerRecord) -> None:
    run = overdue(alice, worker)
    entry = ActiveRun(run.pk, worker.pk)
    entry.token._has_reached_deadline = True
    with transaction.atomic():
        RunInput.objects.filter(run=run)._raw_delete("default")
        RunRecord.objects.filter(pk=run.pk)._raw_delete("default")
    limit_stops.stop_at_deadline(entry)
    assert _audited() == 0


class TestClaims:
    def test_the_first_one_sets_the_deadline_by_the_databases_clock(
        self, alice: User, worker: WorkerRecord
    ) -> None:
        run = make_run(alice, deadline_seconds=MINUTE)
        before = database_now()
        leases.claim(worker.pk, 1)
        local_runs.remove(run.pk)
        run.refresh_from_db()
        earliest, latest = (at + timedelta(seconds=MINUTE) for at in (before, database_now()))
        tolerance = timedelta(milliseconds=1)  # SQLite writes no less
        assert earliest - tolerance <= run.deadline_at <= latest + tolerance

    def test_later_ones_keep_it(self, alice: User, worker: WorkerRecord) -> None:
        at = database_now() + timedelta(seconds=2 * MINUTE)  # it was moved
        run = make_run(alice, deadline_seconds=MINUTE, deadline_at=at, attempt=1)
        leases.claim(worker.pk, 1)
        entry = local_runs.get(run.pk)
        local_runs.remove(run.pk)
        run.refresh_from_db()
        assert (run.attempt, run.deadline_at) == (2, at)
        assert entry is not None
        assert entry.deadline_at == at

    @pytest.mark.parametrize(("own", "is_own"), [(5.0, True), (MINUTE, False), (None, False)])
    def test_a_called_run_gets_the_earlier_one(
        self, alice: User, worker: WorkerRecord, own: float | None, is_own: bool
    ) -> None:
        above = database_now() + timedelta(seconds=30)
        root = make_run(alice, status=Status.RUNNING, worker=worker, deadline_at=above)
        run = make_run(alice, parent=root, deadline_seconds=own, deadline_at=above)
        entry = ActiveRun(root.pk, worker.pk)
        adopted = leases.adopt(entry, run.pk)
        local_runs.remove(run.pk)
        assert adopted is not None
        assert (adopted[0].deadline_at < above) == is_own
        assert is_own or adopted[0].deadline_at == above

    def test_a_run_without_a_limit_gets_none(self, alice: User, worker: WorkerRecord) -> None:
        run = make_run(alice)
        leases.claim(worker.pk, 1)
        entry = local_runs.get(run.pk)
        local_runs.remove(run.pk)
        run.refresh_from_db()
        assert run.deadline_at is None
        assert entry is not None
        assert entry.token.deadline == float("inf")


class TestLostWorkers:
    @pytest.mark.parametrize("requeues", [True, False])
    def test_an_overdue_run_is_stopped_though_no_process_has_looked(
        self, alice: User, requeues: bool
    ) -> None:
        dead = make_dead_worker(lost_at=database_now())
        run = overdue(alice, dead, requeue_on_loss=requeues, max_attempts=5)
        assert recovery.recover_runs() == 1
        record = assert_consistent(run)
        assert (record.status, record.stop_via) == ("stopped", "budget")

    def test_a_run_in_time_is_requeued_with_its_deadline(self, alice: User) -> None:
        dead = make_dead_worker(lost_at=database_now())
        at = database_now() + timedelta(seconds=30)
        run = overdue(alice, dead, requeue_on_loss=True, max_attempts=5, deadline_at=at)
        assert recovery.recover_runs() == 1
        run.refresh_from_db()
        assert (run.status, run.deadline_at) == ("queued", at)


class TestRaces:
    def test_an_ending_that_comes_first_stands(self, alice: User, worker: WorkerRecord) -> None:
        run = overdue(alice, worker)
        report(run)
        assert limit_stops.stop_overdue() == 0
        record = assert_consistent(run)
        assert (record.status, record.stop_requested, record.stop_limit) == ("success", False, None)

    def test_an_ending_that_comes_second_says_so(self, alice: User, worker: WorkerRecord) -> None:
        run = overdue(alice, worker)
        assert limit_stops.stop_overdue() == 1
        report(run)
        record = assert_consistent(run)
        assert (record.status, record.stop_finished_first) == ("success", True)
        assert record.stop_limit["kind"] == "wall"

    @pytest.mark.postgres
    def test_a_run_that_is_just_ending_is_left(self, alice: User, worker: WorkerRecord) -> None:
        run, other = overdue(alice, worker), overdue(alice, worker)
        with transaction.atomic():
            report(run)
            with in_thread(limit_stops.stop_overdue) as stopped:
                assert stopped() == 1  # and does not wait
        assert not assert_consistent(run).stop_requested
        other.refresh_from_db()
        assert other.stop_via == "budget"

    def test_a_person_who_comes_first_stays_the_requester(
        self, alice: User, worker: WorkerRecord
    ) -> None:
        run = overdue(alice, worker)
        stopping.request_stop(run.pk, via="api", by=alice)  # type: ignore[arg-type]
        assert limit_stops.stop_overdue() == 0
        run.refresh_from_db()
        assert (run.stop_via, run.stop_requested_by, run.stop_limit) == ("api", alice, None)

    def test_a_person_who_comes_second_changes_nothing(
        self, alice: User, worker: WorkerRecord
    ) -> None:
        run = overdue(alice, worker)
        limit_stops.stop_overdue()
        result = stopping.request_stop(run.pk, via="api", by=alice)  # type: ignore[arg-type]
        assert result.outcome == "already_stopping"
        run.refresh_from_db()
        assert (run.stop_via, run.stop_requested_by) == ("budget", None)

    def test_a_limit_that_was_raised_first_holds(
        self, raiser: User, worker: WorkerRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also between the look at what is due, and the lock."""
        run = overdue(raiser, worker)
        locked = limit_stops._locked

        def raised(runs: Any, **options: Any) -> Any:
            later = run.deadline_at + timedelta(seconds=MINUTE)
            RunRecord.objects.filter(pk=run.pk).update(deadline_at=later)
            return locked(runs, **options)

        monkeypatch.setattr(limit_stops, "_locked", raised)
        assert limit_stops.stop_overdue() == 0
        run.refresh_from_db()
        assert not run.stop_requested

    def test_a_limit_that_is_raised_second_is_refused(
        self, raiser: User, worker: WorkerRecord
    ) -> None:
        run = overdue(raiser, worker)
        limit_stops.stop_overdue()
        with pytest.raises(RunIsStopping):
            limits.change_limits(run.pk, {"deadline_seconds": None}, by=raiser)
        run.refresh_from_db()
        assert run.deadline_seconds == MINUTE

    @pytest.mark.postgres
    def test_a_limit_that_is_being_raised_is_waited_for_by_nobody(
        self, raiser: User, worker: WorkerRecord
    ) -> None:
        run = overdue(raiser, worker, deadline_at=database_now() + timedelta(seconds=0.2))
        with transaction.atomic():
            limits.change_limits(run.pk, {"deadline_seconds": None}, by=raiser)
            with in_thread(_once_overdue, run) as stopped:
                assert stopped() == 0
        run.refresh_from_db()
        assert not run.stop_requested

    def test_a_child_that_is_born_late_has_its_callers_deadline(
        self, alice: User, worker: WorkerRecord, echo: None
    ) -> None:
        root = overdue(alice, worker)
        entry = ActiveRun(root.pk, worker.pk)
        child, of_child = starting.start_child(entry, "echo", {})
        local_runs.remove(child.pk)
        assert child.deadline_at == root.deadline_at
        assert of_child.token.deadline < float("inf")
        assert limit_stops.stop_overdue() == 2
        child.refresh_from_db()
        assert child.stop_via == "parent"

    def test_many_processes_ask_each_run_once(self, alice: User, worker: WorkerRecord) -> None:
        runs = [overdue(alice, worker if n % 2 else None) for n in range(60)]

        def look() -> int:
            return sum(limit_stops.stop_overdue(limit=7) for _ in range(20))

        counts = together(look, look, look)
        assert all(isinstance(count, int) for count in counts), counts
        assert sum(counts) == len(runs)
        assert _audited() == len(runs)


def _audited() -> int:
    return AuditEntry.objects.filter(act="stop").count()


def _once_overdue(run: RunRecord) -> int:
    while database_now() < run.deadline_at:
        pass
    return limit_stops.stop_overdue()


class _Clock:
    """The database's clock of a simulated world."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr("django.utils.timezone.now", lambda: clock.now)
    for module in (limit_stops, stop_rows):
        monkeypatch.setattr(module, "database_now", lambda: clock.now)
    monkeypatch.setattr(limit_stops, "now_sql", lambda: ("%s", [as_parameter(clock.now)]))
    return clock


#: Random deadlines in the database; more by hand: DEADLINES=10000.
DEADLINES = int(os.environ.get("DEADLINES", "1500"))


@pytest.mark.slow
def test_of_many_deadlines_none_is_early_and_none_is_twice(
    alice: User, worker: WorkerRecord, clock: _Clock
) -> None:
    """Processes look at random instants; some deadlines move, some runs end or are stopped."""
    chance = random.Random(12)
    count, seconds = DEADLINES, 300.0
    start = clock.now
    RunRecord.objects.bulk_create(
        RunRecord(
            id=(id := uuid.uuid4()),
            root_id=id,
            agent="made",
            owner=alice,
            worker=worker,
            status=Status.RUNNING,
            attempt=1,
            started_at=start,
            deadline_seconds=(after := round(chance.uniform(0, seconds), 3)),
            deadline_at=start + timedelta(seconds=after),
        )
        for _ in range(count)
    )
    others = set(RunRecord.objects.order_by("?").values_list("pk", flat=True)[: count // 10])
    moved = list(others)[::2]
    for id in moved:
        later = start + timedelta(seconds=chance.uniform(0, seconds))
        RunRecord.objects.filter(pk=id).update(deadline_at=later)
    ended = set(others) - set(moved)
    RunRecord.objects.filter(pk__in=ended).update(status=Status.SUCCESS, finished_at=start)

    asked: Counter[uuid.UUID] = Counter()
    while clock.now < start + timedelta(seconds=seconds + 2):
        # Looks come around the next deadline: before it nothing is due.
        due = RunRecord.objects.active().filter(stop_requested_at=None).order_by("deadline_at")
        following = due.values_list("deadline_at", flat=True).first()
        if following is None:
            break
        passed = chance.uniform(-0.5, 0.5) + chance.choice([0, 0, 0, 10])
        clock.now = max(clock.now, following + timedelta(seconds=passed))
        before = set(due.filter(deadline_at__lte=clock.now).values_list("pk", flat=True))
        for _process in range(2):
            while limit_stops.stop_overdue(limit=500):
                pass
        for run in RunRecord.objects.filter(pk__in=before):
            asked[run.pk] += 1
            assert run.deadline_at is not None
            assert run.stop_requested_at is not None
            assert run.stop_requested_at >= run.deadline_at, "too early"
    assert len(asked) == count - len(ended)
    assert set(asked.values()) == {1}
    assert _audited() == len(asked), "a run was asked twice"
    assert not RunRecord.objects.filter(pk__in=ended, stop_requested_at__isnull=False).exists()
