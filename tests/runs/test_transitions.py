"""The state machine: what may follow what, and who may write it."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from runs import transitions
from runs.models import RunRecord
from runs.status import ACTIVE, STOPPING, TERMINAL, TRANSITIONS, Status
from runs.transitions import Change, claim_queued, note_progress
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import together

pytestmark = pytest.mark.django_db

ALLOWED = {
    ("queued", "running"),
    ("queued", "stopped"),
    ("queued", "error"),
    ("running", "success"),
    ("running", "error"),
    ("running", "stopped"),
    ("running", "queued"),
}


def _needs(to: str) -> dict[str, Any]:
    """What the database wants beside a status."""
    fields: dict[str, Any] = {}
    if to in TERMINAL:
        fields["finished_at"] = timezone.now()
    if to == Status.ERROR:
        fields["error"] = {"code": "x", "type": "X", "message": "x"}
    if to == Status.STOPPED:
        fields |= requested()
    if to == Status.RUNNING:
        fields |= {"attempt": 1, "started_at": timezone.now()}
    return fields


@pytest.mark.parametrize(("source", "target"), list(itertools.product(Status.values, repeat=2)))
def test_only_the_moves_of_the_design_take_place(source: str, target: str, alice: User) -> None:
    worker = make_worker()
    run = make_run(alice, status=Status(source), worker=worker)
    held_by = (worker.pk, run.attempt)
    done = transitions.apply([Change(run.pk, Status(target), held_by, _needs(target))])
    now = RunRecord.objects.get(pk=run.pk)
    assert bool(done) == ((source, target) in ALLOWED)
    assert now.status == (target if done else source)
    if not done:
        assert now.finished_at == run.finished_at


def test_terminal_states_have_no_way_out() -> None:
    assert set(ACTIVE) | set(TERMINAL) == set(Status)
    assert not set(ACTIVE) & set(TERMINAL)
    for sources in TRANSITIONS.values():
        assert not set(sources) & set(TERMINAL)
    assert STOPPING not in Status.values


def test_a_claim_that_is_not_good_any_more_writes_nothing(alice: User) -> None:
    mine, other = make_worker(), make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=mine, attempt=2)
    fields = {"result": 1, **_needs("success")}
    for held_by in [(other.pk, 2), (mine.pk, 1), (mine.pk, 3), (None, 2)]:
        assert transitions.apply([Change(run.pk, Status.SUCCESS, held_by, fields)]) == 0
        assert note_progress([(run.pk, (held_by[0] or other.pk, held_by[1]), {"last_seq": 9})]) == 0
    run.refresh_from_db()
    assert (run.status, run.result, run.last_seq) == (Status.RUNNING, None, 0)
    assert transitions.apply([Change(run.pk, Status.SUCCESS, (mine.pk, 2), fields)]) == 1


def test_what_is_over_has_nothing_in_flight(alice: User) -> None:
    worker = make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=worker, in_flight=[{"tool": "http"}])
    change = Change(run.pk, Status.SUCCESS, (worker.pk, 1), _needs("success"))
    assert transitions.apply([change]) == 1
    run.refresh_from_db()
    assert run.in_flight == []


def test_changes_of_all_kinds_are_made_together(alice: User) -> None:
    worker = make_worker()
    make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
    runs = {target: [make() for _ in range(3)] for target in ("success", "error", "stopped")}
    held_by = (worker.pk, 1)
    changes = [
        Change(run.pk, Status(target), held_by, {"last_seq": n, **_needs(target)})
        for n in range(3)
        for target, run in ((target, runs[target][n]) for target in runs)
    ]
    assert transitions.apply(changes) == 9
    for target, those in runs.items():
        for n, run in enumerate(those):
            run.refresh_from_db()
            assert (run.status, run.last_seq) == (target, n)


def test_progress_of_runs_with_and_without_a_receipt_is_written_together(alice: User) -> None:
    worker = make_worker()
    make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
    plain, stopping, last = make(), make(**requested()), make()
    now = timezone.now()
    by = (worker.pk, 1)
    rows = [
        (plain.pk, by, {"last_seq": 1}),
        (stopping.pk, by, {"last_seq": 2, "stop_acknowledged_at": now, "stop_observed_at": now}),
        (last.pk, by, {"last_seq": 3}),
    ]
    for order in itertools.permutations(rows):
        RunRecord.objects.update(last_seq=0, stop_acknowledged_at=None, stop_observed_at=None)
        assert note_progress(order) == 3
        for run, seq in ((plain, 1), (stopping, 2), (last, 3)):
            run.refresh_from_db()
            assert run.last_seq == seq
        assert stopping.stop_acknowledged_at == stopping.stop_observed_at == now
    assert note_progress([]) == transitions.apply([]) == 0


class TestClaims:
    def test_the_oldest_come_first_and_no_more_than_asked_for(self, alice: User) -> None:
        runs = [make_run(alice, created_at=timezone.now()) for _ in range(5)]
        worker = make_worker()
        now = timezone.now()
        assert set(claim_queued(worker.pk, 2, now)) == {run.pk for run in runs[:2]}
        assert set(claim_queued(worker.pk, 10, now)) == {run.pk for run in runs[2:]}
        assert list(claim_queued(worker.pk, 10, now)) == []
        claimed = RunRecord.objects.get(pk=runs[0].pk)
        assert (claimed.status, claimed.attempt, claimed.worker_id) == ("running", 1, worker.pk)
        assert claimed.started_at == now

    def test_only_queued_runs_are_claimed(self, alice: User) -> None:
        worker = make_worker()
        for status in Status:
            if status != Status.QUEUED:
                make_run(alice, status=status)
        assert list(claim_queued(worker.pk, 10, timezone.now())) == []

    @pytest.mark.parametrize("state", ["draining_at", "lost_at"])
    def test_a_worker_that_is_going_or_gone_gets_none(self, state: str, alice: User) -> None:
        make_run(alice)
        worker = make_worker(**{state: timezone.now()})
        assert list(claim_queued(worker.pk, 10, timezone.now())) == []


@pytest.mark.usefixtures("on_both_databases")
def test_claims_by_many_at_once_give_each_run_once(alice: User) -> None:
    ids = {make_run(alice).pk for _ in range(100)}
    workers = [make_worker() for _ in range(8)]

    def claim(worker: Any) -> list[Any]:
        mine: list[Any] = []
        while len(found := list(claim_queued(worker.pk, 3, timezone.now()))):
            assert len(found) <= 3
            mine += found
        return mine

    shares = together(*[partial(claim, worker) for worker in workers])
    claimed = list(itertools.chain.from_iterable(shares))
    assert len(claimed) == len(ids)
    assert set(claimed) == ids
    assert set(RunRecord.objects.values_list("attempt", flat=True)) == {1}
