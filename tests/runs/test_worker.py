"""A worker's end, with a database that is not there for it."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, InterfaceError

from runs import leases
from runs.worker import Worker

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
