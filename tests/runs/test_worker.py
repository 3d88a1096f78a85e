"""A worker's end, with a database that is not there for it."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, InterfaceError

from runs import leases
from runs.models import RunRecord
from runs.status import Status
from runs.worker import Worker
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("error", [DatabaseError, InterfaceError])
def test_it_drains_and_stops_although_it_can_tell_nobody(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise error("gone")

    worker = Worker(claims=False)
    worker.start_threads()
    monkeypatch.setattr(leases, "mark_draining", refuse)
    monkeypatch.setattr(leases, "retire", refuse)
    worker.drain_threads()
    worker.stop_threads()
    assert not any(thread.is_alive() for thread in worker._threads)


def test_it_tells_the_truth_about_all_that_did_not_come_back(alice: User) -> None:
    worker = Worker(claims=False)
    worker.start_threads()
    # More than are ended in one go; nothing here executes them.
    for _ in range(205):
        make_run(alice, status=Status.RUNNING, worker=worker._record)
    worker.stop_threads()
    ended = set(RunRecord.objects.values_list("status", "error__code"))
    assert ended == {("error", "worker_shutdown")}
