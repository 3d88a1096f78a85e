"""A stop becomes harder: by another request, or as planned; never softer, never later."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import DataError, connection
from django.utils import timezone

from runs.actions import stopping
from runs.actions.stopping import escalate_due, request_stop, stop_many
from runs.db.clock import now_sql
from runs.identity.models import AuditEntry
from runs.models import RunEvent, RunRecord, WorkerRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker

pytestmark = pytest.mark.usefixtures("on_both_databases")

MODES = ("graceful", "abort", "abandon")


@pytest.fixture
def held(transactional_db: None) -> WorkerRecord:
    return make_worker()


@pytest.fixture
def make(alice: User, held: WorkerRecord) -> Callable[..., RunRecord]:
    def make(parent: RunRecord | None = None, **fields: Any) -> RunRecord:
        given = {"status": Status.RUNNING, "worker": held, **fields}
        return make_run(alice, parent=parent, **given)

    return make


def now(run: RunRecord) -> RunRecord:
    return RunRecord.objects.get(pk=run.pk)


def due(*runs: RunRecord) -> None:
    """Let the plans of runs be due."""
    for run in runs:
        for name in ("stop_abort_at", "stop_abandon_at"):
            at = timezone.now() - timedelta(seconds=1)
            left = RunRecord.objects.filter(pk=run.pk, **{f"{name}__isnull": False})
            left.update(**{name: at})


class TestAHarderRequest:
    def test_escalates_and_keeps_who_asked_first_and_why(
        self, make: Any, alice: User, operator: User
    ) -> None:
        run = make()
        first = request_stop(run.pk, via="api", by=alice, reason="first")
        second = request_stop(run.pk, via="admin", by=operator, mode="abort", reason="second")
        assert (first.outcome, second.outcome) == ("accepted", "accepted")
        record = now(run)
        assert (record.stop_mode, record.stop_reason, record.stop_via) == ("abort", "first", "api")
        assert record.stop_requested_by == alice
        assert record.stop_requested_at == first.run.stop_requested_at
        assert (record.stop_escalated_by, record.stop_escalated_by_name) == (operator, "operator")
        assert record.stop_escalated_at is not None
        assert record.status == Status.RUNNING

    @pytest.mark.parametrize("first", MODES[:2])
    @pytest.mark.parametrize("second", MODES[:2])
    def test_is_one_that_is_harder_and_no_other(
        self, make: Any, alice: User, operator: User, first: str, second: str
    ) -> None:
        run = make()
        request_stop(run.pk, via="api", by=alice, mode=first)
        before = RunRecord.objects.values().get(pk=run.pk)
        outcome = request_stop(run.pk, via="api", by=operator, mode=second).outcome
        is_harder = MODES.index(second) > MODES.index(first)
        assert outcome == ("accepted" if is_harder else "already_stopping")
        assert now(run).stop_mode == max(first, second, key=MODES.index)
        if not is_harder:
            assert RunRecord.objects.values().get(pk=run.pk) == before
            assert not LogEntry.objects.filter(user=operator).exists()

    @pytest.mark.parametrize("mode", MODES)
    def test_a_queued_run_is_stopped_at_once(self, alice: User, mode: str) -> None:
        run = make_run(alice)
        result = request_stop(run.pk, via="api", by=alice, mode=mode, abandon_after=60)
        assert (result.outcome, result.run.status) == ("accepted", Status.STOPPED)
        record = assert_consistent(run)
        assert (record.stop_mode, record.stop_abandoned) == (mode, False)

    def test_goes_down_the_tree_through_runs_that_were_asked_before(
        self, make: Any, alice: User, operator: User
    ) -> None:
        root = make()
        middle = make(root)
        leaf = make(middle)
        asleep = make(root, status=Status.QUEUED, worker=None)
        request_stop(middle.pk, via="api", by=operator, reason="the middle")
        request_stop(root.pk, via="page", by=alice, mode="abort", reason="all", abandon_after=60)
        plan = now(root).stop_abandon_at
        assert plan is not None
        for run in (root, middle, leaf, asleep):
            assert now(run).stop_mode == "abort"
            assert now(run).stop_abandon_at == plan
        assert now(middle).stop_reason == now(leaf).stop_reason == "the middle"
        assert now(middle).stop_requested_by == now(leaf).stop_requested_by == operator
        assert now(middle).stop_escalated_by == now(leaf).stop_escalated_by == alice
        assert now(root).stop_escalated_at is None
        assert now(asleep).status == Status.STOPPED

    def test_of_a_child_leaves_its_caller_as_it_is(self, make: Any, alice: User) -> None:
        root = make()
        child = make(root)
        request_stop(root.pk, via="api", by=alice)
        request_stop(child.pk, via="api", by=alice, mode="abort")
        assert (now(root).stop_mode, now(child).stop_mode) == ("graceful", "abort")

    def test_of_many_says_accepted_for_those_that_it_escalated(
        self, make: Any, alice: User
    ) -> None:
        fresh, gentle, hard = make(), make(), make()
        over = make_run(alice, status=Status.SUCCESS)
        request_stop(gentle.pk, via="api", by=alice)
        request_stop(hard.pk, via="api", by=alice, mode="abort")
        ids = [fresh.pk, gentle.pk, hard.pk, over.pk]
        outcomes = [one.outcome for one in stop_many(ids, via="api", by=alice, mode="abort")]
        assert outcomes == ["accepted", "accepted", "already_stopping", "already_finished"]

    def test_is_an_act_of_its_own_in_the_logs(self, make: Any, alice: User, operator: User) -> None:
        run = make(make())
        request_stop(run.pk, via="api", by=alice)
        request_stop(run.pk, via="admin", by=operator, mode="abort", reason="slow")
        request_stop(run.pk, via="admin", by=operator, mode="abort")
        entries = LogEntry.objects.order_by("id").values_list("user__username", "change_message")
        assert list(entries) == [
            ("alice", "Asked to stop. Mode: graceful. Via: api."),
            ("operator", "Asked to stop. Mode: abort. Via: admin. Reason: slow"),
        ]
        assert AuditEntry.objects.filter(act="stop").count() == 2


class TestAPlan:
    def test_is_made_from_the_request_on(self, make: Any, alice: User) -> None:
        run = make()
        request_stop(run.pk, via="api", by=alice, abort_after=10, abandon_after=60.5)
        record = now(run)
        requested_at = record.stop_requested_at
        assert record.stop_abort_at == requested_at + timedelta(seconds=10)
        assert record.stop_abandon_at == requested_at + timedelta(seconds=60.5)
        message = LogEntry.objects.get().change_message
        assert "Planned: abort after 10 s. Planned: abandon after 60.5 s." in message

    def test_has_no_mode_that_the_request_has_already(self, make: Any, alice: User) -> None:
        run = make()
        request_stop(run.pk, via="api", by=alice, mode="abort", abort_after=1)
        assert (now(run).stop_abort_at, now(run).stop_mode) == (None, "abort")

    def test_may_be_added_and_moved_earlier_and_never_later(self, make: Any, alice: User) -> None:
        root = make()
        child = make(root)

        def plan(**given: Any) -> str:
            return request_stop(root.pk, via="api", by=alice, **given).outcome

        assert plan() == "accepted"
        assert plan(abort_after=1000) == "accepted"
        late = now(root).stop_abort_at
        assert plan(abort_after=2000) == "already_stopping"
        assert now(root).stop_abort_at == late
        assert plan(abort_after=100, abandon_after=5000) == "accepted"
        record = now(root)
        assert record.stop_abort_at < late
        assert record.stop_escalated_at is None
        assert now(child).stop_abort_at == record.stop_abort_at
        assert now(child).stop_abandon_at == record.stop_abandon_at
        assert plan(mode="abort", abandon_after=6000) == "accepted"
        assert now(root).stop_abandon_at == record.stop_abandon_at

    def test_of_a_child_that_is_earlier_stays(self, make: Any, alice: User) -> None:
        root = make()
        child = make(root)
        request_stop(child.pk, via="api", by=alice, abort_after=5)
        mine = now(child).stop_abort_at
        request_stop(root.pk, via="api", by=alice, abort_after=500, abandon_after=900)
        assert now(child).stop_abort_at == mine
        assert now(child).stop_abandon_at == now(root).stop_abandon_at

    @pytest.mark.parametrize(
        "given",
        [
            {"abort_after": -1},
            {"abort_after": math.inf},
            {"abandon_after": math.nan},
            {"abandon_after": 365 * 86400 + 1},
            {"abort_after": 5, "abandon_after": 4.9},
        ],
    )
    def test_that_is_none_is_refused(self, make: Any, alice: User, given: Any) -> None:
        run = make()
        with pytest.raises(ValueError, match="_after"):
            request_stop(run.pk, via="api", by=alice, **given)
        assert now(run).stop_requested_at is None

    def test_is_carried_out_when_it_is_due_and_once(self, make: Any, alice: User) -> None:
        root = make()
        child = make(root)
        other = make()
        for run in (root, other):
            request_stop(run.pk, via="api", by=alice, abort_after=600, abandon_after=1200)
        assert escalate_due() == 0
        due(root, child)
        RunRecord.objects.filter(pk__in=[root.pk, child.pk]).update(
            stop_abandon_at=timezone.now() + timedelta(seconds=60)
        )
        assert escalate_due() == 2
        assert escalate_due() == 0
        for run in (root, child):
            record = now(run)
            assert (record.stop_mode, record.status) == ("abort", Status.RUNNING)
            assert (record.stop_escalated_by, record.stop_escalated_by_name) == (None, "")
            assert record.stop_escalated_at >= record.stop_abort_at
        assert now(other).stop_mode == "graceful"
        assert LogEntry.objects.count() == 2, "what was planned is no act of a person"

    def test_that_is_due_as_a_whole_abandons_and_says_that_it_was_planned(
        self, make: Any, alice: User
    ) -> None:
        root = make()
        child = make(root)
        request_stop(root.pk, via="api", by=alice, abort_after=600, abandon_after=600)
        due(root, child)
        assert escalate_due() == 2
        for run in (root, child):
            record = assert_consistent(run)
            assert (record.status, record.stop_mode) == (Status.STOPPED, "abandon")
            log = RunEvent.objects.filter(run=run.pk, type="stop_requested").order_by("seq")
            assert [event.data["mode"] for event in log] == ["graceful", "abandon"]
            assert [event.data.get("planned") for event in log] == [None, True]

    def test_of_a_run_that_is_over_is_not_carried_out(self, make: Any, alice: User) -> None:
        run = make()
        request_stop(run.pk, via="api", by=alice, abort_after=600)
        due(run)
        RunRecord.objects.filter(pk=run.pk).update(status="stopped", finished_at=timezone.now())
        assert escalate_due() == 0
        assert now(run).stop_mode == "graceful"

    def test_of_any_number_is_carried_out_in_pieces(self, make: Any, alice: User) -> None:
        runs = [make() for _ in range(7)]
        stop_many([run.pk for run in runs], by=alice, via="api", abort_after=600)
        due(*runs)
        assert [escalate_due(limit=3) for _ in range(4)] == [3, 3, 1, 0]
        assert {now(run).stop_mode for run in runs} == {"abort"}

    def test_that_can_t_be_written_keeps_no_other_from_being_carried_out(
        self, make: Any, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken, other = make(), make()
        for run in (broken, other):
            request_stop(run.pk, via="api", by=alice, abort_after=600)
        due(broken, other)
        change = stopping.change

        def refuse(request: Any, column: Any, keys: Any, *more: Any) -> Any:
            if broken.pk in keys:
                raise DataError("refused")
            return change(request, column, keys, *more)

        monkeypatch.setattr(stopping, "change", refuse)
        assert escalate_due() == 1
        assert [now(run).stop_mode for run in (broken, other)] == ["graceful", "abort"]

    def test_nothing_due_is_found_by_an_index(self, make: Any) -> None:
        sql, parameters = now_sql()
        explain = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":  # the table is too small for an index
                cursor.execute("SET enable_seqscan = off")
            statement = f"{explain} {stopping._DUE.format(now=sql)}"
            cursor.execute(statement, [*parameters * 3, 100])
            plan = str(cursor.fetchall())
            if connection.vendor == "postgresql":
                cursor.execute("RESET enable_seqscan")
        assert "run_abort_due" in plan
        assert "run_abandon_due" in plan
