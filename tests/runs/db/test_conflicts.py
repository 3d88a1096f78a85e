"""Temporary refusals of the database, final ones, and transactions in conflict."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)

from agents.runtime import Outcome
from agents.trace import Trace
from runs.actions import stopping
from runs.actions.finishing import Ended
from runs.db.transactions import in_transaction, is_away
from runs.delivery.local_runs import ActiveRun
from runs.models import RunRecord
from runs.status import Status
from runs.worker.recorder import Recorder
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker
from tests.support.running import together

WAIT_SECONDS = 20


class TestIsAway:
    PASSING = ["08006", "40001", "40P01", "53100", "53300", "55P03", "57P01", "57014", "25006"]
    PASSING += ["25P03"]
    FOR_EVER = ["54000", "54001", "54023", "22001", "22P05", "23505", "23514", "42P01", "0A000"]
    FOR_EVER += ["25P02"]

    @pytest.mark.postgres
    @pytest.mark.parametrize("state", PASSING + FOR_EVER)
    def test_depends_on_the_servers_error_code(self, db: None, state: str) -> None:
        sql = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$"
        with pytest.raises(DatabaseError) as refused, transaction.atomic():
            connection.cursor().execute(sql)
        assert is_away(refused.value) == (state in self.PASSING)

    @pytest.mark.parametrize(
        "error",
        [OperationalError("locked"), InterfaceError("closed"), InternalError("received 2 results")],
    )
    def test_without_an_error_code_is_true(self, error: Exception) -> None:
        assert is_away(error)

    def test_for_a_bug_is_false(self) -> None:
        assert not is_away(DatabaseError("cursor"))
        assert not is_away(ValueError("x"))


@pytest.mark.postgres
def test_a_run_that_is_refused_for_ever_does_not_block_others(refusing: None, alice: User) -> None:
    """PostgreSQL reports some limits as if it were away: OperationalError."""
    worker = make_worker()
    recorder = Recorder(on_lost=lambda _: None)
    recorder.start()
    try:
        waits = [_ended(recorder, alice, worker.pk, result) for result in ("refused", "fine")]
        refused, fine = [wait() for wait in waits]
    finally:
        assert recorder.close()
    assert (fine.status, fine.result) == (Status.SUCCESS, "fine")
    assert (refused.status, refused.error["code"]) == (Status.ERROR, "not_recorded")
    assert_consistent(refused)


@pytest.fixture
def refusing(transactional_db: None) -> Iterator[None]:
    """Refuse a result as PostgreSQL refuses a value beyond one of its limits."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION too_large() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.result = '"refused"' THEN
                    RAISE EXCEPTION 'beyond the limit' USING ERRCODE = '54000';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER too_large BEFORE UPDATE ON runs_runrecord
                FOR EACH ROW EXECUTE FUNCTION too_large();
            """
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION too_large CASCADE")


def _ended(recorder: Recorder, owner: User, worker: Any, result: str) -> Callable[[], RunRecord]:
    run = make_run(owner, status=Status.RUNNING, worker_id=worker, worker=None)
    trace = Trace(str(run.pk), "made", recorder)
    recorder.open(ActiveRun(run.pk, worker), trace)
    trace.emit("agent_start")
    over = threading.Event()

    def on_end(_: Ended | None) -> None:
        over.set()

    recorder.end(trace, Outcome("success", result=result), on_end)

    def wait() -> RunRecord:
        assert over.wait(WAIT_SECONDS), "the recorder is blocked"
        return RunRecord.objects.get(pk=run.pk)

    return wait


class TestTransactionsInConflict:
    @pytest.mark.postgres
    def test_two_stops_across_each_others_trees_both_succeed(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each has locked the rows that the other one needs next: PostgreSQL ends one of them."""
        worker = make_worker()
        roots = [make_run(alice, status=Status.RUNNING, worker=worker) for _ in range(2)]
        children = [
            make_run(alice, status=Status.RUNNING, worker=worker, parent=root) for root in roots
        ]
        both_have_locked = threading.Barrier(2)
        tries: list[int] = []
        mark = stopping.mark

        def mark_below(request: Any, column: str, keys: Any, *rest: Any) -> Any:
            if column == "parent_id":
                tries.append(len(keys))
                if len(tries) <= 2:
                    both_have_locked.wait(WAIT_SECONDS)
            return mark(request, column, keys, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(stopping, "mark", mark_below)

        def stop(root: RunRecord, child: RunRecord) -> Any:
            return stopping.stop_many([root.pk, child.pk], by=alice, via="api")  # type: ignore[arg-type]

        answers = together(lambda: stop(roots[0], children[1]), lambda: stop(roots[1], children[0]))
        assert not [answer for answer in answers if isinstance(answer, Exception)], answers
        assert len(tries) > 2, "neither had to retry"
        asked = RunRecord.objects.filter(stop_requested_at__isnull=False)
        assert asked.count() == 4
        words = sorted(outcome.outcome for answer in answers for outcome in answer)
        assert words.count("accepted") >= 2

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(("error", "count"), [("40P01", 5), ("40001", 5), ("53300", 1)])
    def test_are_retried_a_bounded_number_of_times(self, error: str, count: int) -> None:
        tries: list[int] = []

        def work() -> None:
            tries.append(1)
            cause = _Deadlock()
            cause.sqlstate = error
            raise OperationalError("no") from cause

        with pytest.raises(OperationalError):
            in_transaction(work)
        assert len(tries) == count

    @pytest.mark.django_db(transaction=True)
    def test_within_another_transaction_are_not_retried(self) -> None:
        tries: list[int] = []

        def work() -> None:
            tries.append(1)
            raise OperationalError("no") from _Deadlock()

        with pytest.raises(OperationalError), transaction.atomic():
            in_transaction(work)
        assert len(tries) == 1


class _Deadlock(Exception):
    sqlstate = "40P01"
