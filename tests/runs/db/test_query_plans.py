"""PostgreSQL's plan for a claim, with any statistics about the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from bench.queue import fill
from runs import transitions
from runs.db.statements import insert
from runs.delivery import local_runs
from runs.models import RunRecord, uuid7
from runs.queue import claims, turns
from runs.queue.limits import Limits
from runs.status import Status
from runs.transitions import Change
from runs.worker import data_store
from tests.support.rows import make_worker

pytestmark = [pytest.mark.postgres, pytest.mark.usefixtures("transactional_db")]

QUEUED = 2_000


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def analysed_while_nearly_empty(owner: User) -> None:
    fill(owner, 10, status="success")
    execute("ANALYZE runs_runrecord")
    fill(owner, QUEUED)


def analysed_while_little_was_queued(owner: User) -> None:
    fill(owner, 40_000, status="success")
    fill(owner, 10)
    execute("VACUUM ANALYZE runs_runrecord")
    fill(owner, QUEUED, first_turn=10)


def analysed_while_all_was_queued(owner: User) -> None:
    fill(owner, QUEUED)
    execute("ANALYZE runs_runrecord")
    fill(owner, 20_000, status="success")


@pytest.fixture(
    params=[
        analysed_while_nearly_empty,
        analysed_while_little_was_queued,
        analysed_while_all_was_queued,
    ],
    ids=lambda situation: situation.__name__,
)
def situation(request: pytest.FixtureRequest, alice: User) -> Iterator[None]:
    execute("ALTER TABLE runs_runrecord SET (autovacuum_enabled = off)")
    make: Callable[[User], None] = request.param
    try:
        make(alice)
        yield
    finally:
        execute("ALTER TABLE runs_runrecord RESET (autovacuum_enabled)")
        execute("TRUNCATE runs_runrecord CASCADE")
        execute("ANALYZE runs_runrecord")  # the next test has correct statistics


@contextmanager
def plans() -> Iterator[list[str]]:
    """Collect the plans of all statements on runs, with their real row counts."""
    found: list[str] = []

    def explain(execute: Any, sql: str, arguments: Any, many: bool, context: Any) -> Any:
        if "runs_runrecord" in sql:
            execute(f"EXPLAIN {sql}", arguments[0] if many else arguments, False, context)
            found.append("\n".join(row[0] for row in context["cursor"].fetchall()))
        return execute(sql, arguments, many, context)

    with connection.execute_wrapper(explain):
        yield found


@pytest.mark.usefixtures("situation")
@pytest.mark.parametrize("allowed", [Limits(), Limits({"another": 5}, per_owner=QUEUED)])
def test_a_claim_sorts_nothing_and_reads_only_the_runs_that_it_claims(allowed: Limits) -> None:
    worker = make_worker()
    with plans() as found:
        assert len(claims.claim(worker.pk, 50, timezone.now(), allowed)) == 50
    (choosing,) = [plan for plan in found if "LockRows" in plan]
    assert "using run_queue on" in choosing, choosing
    assert "using runs_runrecord_pkey" in found[-1], found[-1]
    for plan in found:
        assert "Sort" not in plan, plan
        assert "Seq Scan on runs_runrecord" not in plan, plan
        assert "Join" not in plan, plan


@pytest.mark.usefixtures("situation")
def test_the_next_turn_reads_one_row_of_each_index(alice: User) -> None:
    id = uuid7()
    run = RunRecord(id=id, root_id=id, owner=alice, agent="made")
    with plans() as found:
        insert(run, turn=turns.next_turn(run))
    (plan,) = found
    assert "Sort" not in plan, plan
    assert "Aggregate" not in plan, plan
    for index in ("run_turn_of_owner", "run_queue", "run_turn_in_service"):
        assert f"using {index} on" in plan, plan


def test_a_worker_finds_each_of_its_runs_by_its_key(alice: User) -> None:
    """Even if the planner's statistics do not know how many runs it has."""
    execute("ANALYZE runs_runrecord")
    worker = make_worker()
    fill(alice, QUEUED, status="running")
    RunRecord.objects.update(worker=worker)
    first, second = RunRecord.objects.filter(status="running")[:2]
    held_by = (worker.pk, 1)
    change = Change(first.pk, Status.SUCCESS, held_by, {"finished_at": timezone.now()})
    with plans() as found:
        assert transitions.note_progress([(first.pk, held_by, {"last_seq": 3})]) == 1
        assert transitions.apply([change]) == 1
        entry = local_runs.ActiveRun(second.pk, worker.pk)
        with transaction.atomic():
            assert data_store._holds(entry)
    assert len(found) == 3
    for plan in found:
        assert "using runs_runrecord_pkey" in plan, plan


def test_statements_are_not_prepared_on_the_server() -> None:
    """Otherwise a plan would be kept, and be as old as its connection."""
    connection.ensure_connection()
    assert connection.connection.prepare_threshold is None


def test_pages_keep_space_for_updates() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE relname = 'runs_runrecord'")
        assert "fillfactor=80" in cursor.fetchone()[0]
