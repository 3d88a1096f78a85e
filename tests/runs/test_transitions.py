"""The state machine: which status may follow which, and which writer may set it."""

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
from runs.transitions import Change, note_progress
from tests.support.rows import make_run, make_worker, requested

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
    """Return the fields that the database requires with a status."""
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


def test_a_terminal_status_never_changes() -> None:
    assert set(ACTIVE) | set(TERMINAL) == set(Status)
    assert not set(ACTIVE) & set(TERMINAL)
    for sources in TRANSITIONS.values():
        assert not set(sources) & set(TERMINAL)
    assert STOPPING not in Status.values


def test_a_lost_claim_writes_nothing(alice: User) -> None:
    mine, other = make_worker(), make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=mine, attempt=2)
    fields = {"result": 1, **_needs("success")}
    for held_by in [(other.pk, 2), (mine.pk, 1), (mine.pk, 3), (None, 2)]:
        assert transitions.apply([Change(run.pk, Status.SUCCESS, held_by, fields)]) == 0
        assert note_progress([(run.pk, (held_by[0] or other.pk, held_by[1]), {"last_seq": 9})]) == 0
    run.refresh_from_db()
    assert (run.status, run.result, run.last_seq) == (Status.RUNNING, None, 0)
    assert transitions.apply([Change(run.pk, Status.SUCCESS, (mine.pk, 2), fields)]) == 1


def test_a_finished_run_has_nothing_in_flight(alice: User) -> None:
    worker = make_worker()
    run = make_run(alice, status=Status.RUNNING, worker=worker, in_flight=[{"tool": "http"}])
    change = Change(run.pk, Status.SUCCESS, (worker.pk, 1), _needs("success"))
    assert transitions.apply([change]) == 1
    run.refresh_from_db()
    assert run.in_flight == []


def test_all_kinds_of_changes_are_written_at_once(alice: User) -> None:
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


def test_progress_of_runs_with_and_without_a_receipt_is_written_at_once(alice: User) -> None:
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
