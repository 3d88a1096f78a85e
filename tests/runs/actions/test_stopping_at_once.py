"""The one statement that writes an owner's stop of a running run, and when it is not used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from agents import Tools, agent
from runs.actions import starting
from runs.actions.stopping import request_stop
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import RunAlreadyFinished
from runs.models import RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, in_thread
from tests.support.server import eventually

on_both_databases = pytest.mark.usefixtures("on_both_databases")


@pytest.fixture
def running(alice: User) -> RunRecord:
    return make_run(alice, status=Status.RUNNING, worker=make_worker())


@pytest.mark.postgres
def test_it_is_one_statement_and_three_reads_by_key_for_the_answer(
    alice: User, running: RunRecord
) -> None:
    request_stop(make_run(alice, status=Status.RUNNING).pk, via="api", by=alice)  # caches are warm
    with CaptureQueriesContext(connection) as queries:
        request_stop(running.pk, via="api", by=alice)
    statements = [q["sql"] for q in queries if q["sql"] not in {"BEGIN", "COMMIT"}]
    assert ["UPDATE" in statement for statement in statements] == [True, False, False, False]
    tables = [statement.partition('FROM "')[2].partition('"')[0] for statement in statements[1:]]
    assert tables == ["runs_runrecord", "runs_runinput", "runs_workerrecord"]


@on_both_databases
def test_it_has_the_effect_and_the_answer_of_the_longer_path(
    alice: User, operator: User, running: RunRecord
) -> None:
    other = make_run(alice, status=Status.RUNNING, worker=running.worker)
    mine = request_stop(running.pk, via="page", by=alice, reason='it\'s "enough" \\ %s')
    theirs = request_stop(other.pk, via="page", by=operator, reason='it\'s "enough" \\ %s')
    assert (mine.outcome, theirs.outcome) == ("accepted", "accepted")
    for run, user in ((running, alice), (other, operator)):
        record = RunRecord.objects.get(pk=run.pk)
        assert (record.shown_status, record.stop_root_request) == ("stopping", run.pk)
        assert record.stop_requested_by == user
        entry = LogEntry.objects.get(user=user)
        assert (entry.object_id, entry.object_repr) == (str(run.pk), str(run))
        assert entry.get_edited_object() == run
    first, second = LogEntry.objects.values_list("change_message", flat=True)
    assert first == second


@on_both_databases
def test_the_token_of_a_run_in_this_process_is_tripped(alice: User, running: RunRecord) -> None:
    entry = ActiveRun(running.pk, running.worker_id)  # type: ignore[arg-type]
    local_runs.add(entry)
    try:
        request_stop(running.pk, via="api", by=alice)
        assert entry.token.stopped
    finally:
        local_runs.remove(running.pk)


@on_both_databases
def test_a_repeated_stop_is_written_once(alice: User, running: RunRecord) -> None:
    outcomes = [request_stop(running.pk, via="api", by=alice).outcome for _ in range(2)]
    assert outcomes == ["accepted", "already_stopping"]
    assert LogEntry.objects.count() == 1


@on_both_databases
def test_a_caller_is_stopped_with_its_children(alice: User, running: RunRecord) -> None:
    child = make_run(alice, status=Status.RUNNING, parent=running, worker=running.worker)
    request_stop(running.pk, via="api", by=alice)
    child.refresh_from_db()
    assert (child.stop_requested, child.stop_via) == (True, "parent")


@on_both_databases
def test_a_failed_transaction_around_it_leaves_nothing(alice: User, running: RunRecord) -> None:
    entry = ActiveRun(running.pk, running.worker_id)  # type: ignore[arg-type]
    local_runs.add(entry)
    try:
        with transaction.atomic():
            request_stop(running.pk, via="api", by=alice)
            transaction.set_rollback(True)
        running.refresh_from_db()
        assert not running.stop_requested
        assert not entry.token.stopped
        assert not LogEntry.objects.exists()
    finally:
        local_runs.remove(running.pk)


@pytest.mark.postgres  # on SQLite no other transaction can be open
class TestWaiting:
    def test_for_an_open_start_of_a_child_includes_the_child(
        self, alice: User, running: RunRecord
    ) -> None:
        @agent("child")
        async def child(tools: Tools) -> None: ...

        parent = ActiveRun(running.pk, running.worker_id)  # type: ignore[arg-type]
        with (
            self.under_way(lambda: starting.queue_child(parent, "child", {})) as end,
            in_thread(stop, running, alice) as stopped,
        ):
            eventually(a_session_waits)
            end()
            assert stopped() == "accepted"
        started = running.children.get()
        assert (started.status, started.stop_via) == (Status.STOPPED, "parent")
        assert LogEntry.objects.count() == 1

    def test_for_an_open_ending_sees_the_ending(self, alice: User, running: RunRecord) -> None:
        runs = RunRecord.objects.filter(pk=running.pk)
        with (
            self.under_way(
                lambda: runs.update(status="success", finished_at=running.created_at)
            ) as end,
            in_thread(stop, running, alice) as stopped,
        ):
            eventually(a_session_waits)
            end()
            assert stopped() == "finished"
        assert not LogEntry.objects.exists()

    @contextlib.contextmanager
    def under_way(self, work: Callable[[], object]) -> Iterator[Callable[[], None]]:
        """Do ``work`` in a transaction during the body; yields a function that ends it."""
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


def stop(run: RunRecord, user: User) -> str:
    try:
        return request_stop(run.pk, via="api", by=user).outcome
    except RunAlreadyFinished:
        return "finished"


def a_session_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])
