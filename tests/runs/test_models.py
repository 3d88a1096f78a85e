"""Constraints of the database, for any writer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import IntegrityError, transaction
from django.utils import timezone

from runs import events
from runs.models import DataStoreEntry, RunEvent, RunRecord, uuid7
from runs.status import ACTIVE, TERMINAL, Status
from tests.support.rows import make_run, make_worker, requested

NOW = timezone.now()
AN_ERROR = {"code": "x", "type": "X", "message": "x"}


CONTRADICTIONS: list[tuple[Status, dict[str, Any]]] = [
    (Status.SUCCESS, {"finished_at": None}),
    (Status.ERROR, {"finished_at": None}),
    (Status.STOPPED, {"finished_at": None}),
    (Status.QUEUED, {"finished_at": NOW}),
    (Status.RUNNING, {"finished_at": NOW}),
    (Status.STOPPED, {"stop_requested_at": None}),
    (Status.RUNNING, {"attempt": 0}),
    (Status.RUNNING, {"started_at": None}),
    (Status.SUCCESS, {"error": AN_ERROR}),
    (Status.ERROR, {"error": None}),
    (Status.RUNNING, {"stop_mode": "graceful"}),
    (Status.RUNNING, {"stop_acknowledged_at": NOW}),
    (Status.RUNNING, {"stop_observed_at": NOW}),
    (Status.SUCCESS, {"stop_finished_first": True}),
    (Status.QUEUED, {"depth": 1}),
]


@pytest.mark.usefixtures("on_both_databases")
def test_a_row_that_contradicts_itself_is_refused(alice: User) -> None:
    for status, wrong in CONTRADICTIONS:
        run = make_run(alice, status=status)  # which is valid
        row = RunRecord.objects.filter(pk=run.pk)
        assert _is_refused(partial(row.update, **wrong)), f"{status} with {wrong} was written"
        insert = partial(make_run, alice, status=status, **wrong)
        assert _is_refused(insert), f"{status} with {wrong} was inserted"


def _is_refused(write: Callable[[], Any]) -> bool:
    try:
        with transaction.atomic():
            write()
    except IntegrityError:
        return True
    return False


def test_an_unknown_status_is_refused(alice: User) -> None:
    run = make_run(alice)
    with pytest.raises(IntegrityError), transaction.atomic():
        RunRecord.objects.filter(pk=run.pk).update(status="paused")


def test_a_child_is_not_a_root_and_a_root_is_not_a_child(alice: User) -> None:
    root = make_run(alice)
    child = make_run(alice, parent=root)
    assert (child.root_id, child.depth) == (root.pk, 1)
    for wrong in ({"parent": None}, {"depth": 0}):
        with pytest.raises(IntegrityError), transaction.atomic():
            RunRecord.objects.filter(pk=child.pk).update(**wrong)


def test_an_idempotency_key_is_used_once_by_each_owner(alice: User, bob: User) -> None:
    make_run(alice, idempotency_key="k")
    make_run(bob, idempotency_key="k")
    make_run(alice, idempotency_key=None)
    make_run(alice, idempotency_key=None)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_run(alice, idempotency_key="k")


def _event(run: RunRecord, seq: int, type: str = "log") -> RunEvent:
    return RunEvent.objects.create(
        run=run, seq=seq, ts=NOW, type=type, agent="made", depth=0, source="system"
    )


def test_a_seq_is_unique_in_a_run_and_starts_with_one(alice: User) -> None:
    run, other = make_run(alice), make_run(alice)
    _event(run, 1)
    _event(other, 1)
    for seq in (1, 0):
        with pytest.raises(IntegrityError), transaction.atomic():
            _event(run, seq)


def test_a_run_ends_once(alice: User) -> None:
    run, other = make_run(alice), make_run(alice)
    _event(run, 1, "agent_end")
    _event(other, 1, "agent_end")
    _event(run, 2, "log")
    with pytest.raises(IntegrityError), transaction.atomic():
        _event(run, 3, "agent_end")


def test_an_entry_is_unique_per_owner_namespace_and_key(alice: User, bob: User) -> None:
    def make(owner: User, namespace: str, key: str) -> DataStoreEntry:
        return DataStoreEntry.objects.create(owner=owner, namespace=namespace, key=key, value=1)

    make(alice, "n", "k")
    make(alice, "n", "K")
    make(alice, "m", "k")
    make(bob, "n", "k")
    with pytest.raises(IntegrityError), transaction.atomic():
        make(alice, "n", "k")


def test_a_lost_worker_record_leaves_its_runs(alice: User) -> None:
    worker = make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=worker)
    worker.delete()
    run.refresh_from_db()
    assert (run.status, run.worker_id) == (Status.RUNNING, None)


def test_ids_sort_by_their_time() -> None:
    ids = [uuid7() for _ in range(1000)]
    assert ids == sorted(ids)
    assert {id.version for id in ids} == {7}


class TestShownStatus:
    @pytest.mark.parametrize("status", Status)
    def test_stopping_is_shown_but_never_stored(self, status: Status, alice: User) -> None:
        plain = make_run(alice, status=status)
        asked = make_run(alice, status=status, **requested())
        assert plain.shown_status == status
        assert asked.shown_status == ("stopping" if status in ACTIVE else status)
        for run in (plain, asked):
            shown = RunRecord.objects.with_shown_status([run.shown_status])
            assert run in shown
            others = {*Status.values, "stopping"} - {run.shown_status}
            assert run not in RunRecord.objects.with_shown_status(sorted(others))

    def test_a_status_is_active_or_terminal(self, alice: User) -> None:
        runs = {status: make_run(alice, status=status) for status in Status}
        assert set(RunRecord.objects.active()) == {runs[status] for status in ACTIVE}
        assert {s for s, run in runs.items() if run.is_terminal} == set(TERMINAL)


class TestPermission:
    def test_an_owner_sees_and_stops_own_runs_and_no_others(self, alice: User, bob: User) -> None:
        mine, theirs = make_run(alice), make_run(bob)
        assert list(RunRecord.objects.visible_to(alice)) == [mine]
        assert mine.may_be_stopped_by(alice)
        assert not theirs.may_be_stopped_by(alice)

    def test_an_operator_sees_and_stops_all(self, alice: User, operator: User) -> None:
        run = make_run(alice)
        assert list(RunRecord.objects.visible_to(operator)) == [run]
        assert run.may_be_stopped_by(operator)

    def test_an_inactive_or_unknown_user_sees_and_stops_nothing(self, alice: User) -> None:
        run = make_run(alice)
        alice.is_active = False
        for user in (alice, AnonymousUser()):
            assert not RunRecord.objects.visible_to(user).exists()
            assert not run.may_be_stopped_by(user)

    def test_a_viewer_may_not_stop(self, alice: User, bob: User) -> None:
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        run = make_run(alice)
        assert list(RunRecord.objects.visible_to(bob)) == [run]
        assert not run.may_be_stopped_by(bob)


def test_the_newest_run_comes_first(alice: User) -> None:
    old = make_run(alice, created_at=NOW - timedelta(days=1))
    new = make_run(alice, created_at=NOW)
    assert list(RunRecord.objects.all()) == [new, old]


def test_an_event_on_the_wire_equals_the_traced_one(alice: User) -> None:
    run = make_run(alice)
    event = events.system_event(run, 1, "log", {"level": "info", "message": "ä\u2028"})
    events.append([event])
    (stored,) = events.read(run.pk)
    assert stored.as_dict() == event.as_dict()
