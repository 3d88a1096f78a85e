"""A thread waits for the end of a run: not busily, without a connection, and not for ever."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from django.contrib.auth.models import User
from django.db import connection

from runs.delivery import ends, local_runs
from runs.delivery.ends import wait_until_over
from runs.models import RunRecord
from runs.status import Status
from tests.support.journal import eventually
from tests.support.rows import make_run, make_worker
from tests.support.running import in_thread

pytestmark = pytest.mark.usefixtures("on_both_databases")


@pytest.fixture(autouse=True)
def nobody_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "_leaving", threading.Event())


@pytest.fixture
def run(alice: User) -> uuid.UUID:
    return make_run(alice, status=Status.RUNNING, worker=make_worker()).pk


def _until_watched(run: uuid.UUID) -> None:
    eventually(lambda: run in local_runs._waiting, "the wait has begun")


def test_an_end_in_this_process_is_heard_of_without_a_poll(
    run: uuid.UUID, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "FIRST_PAUSE_SECONDS", 60)
    with in_thread(wait_until_over, run) as is_over:
        _until_watched(run)
        RunRecord.objects.filter(pk=run).delete()
        local_runs.remove(run)
        assert is_over() is True


def test_a_run_that_is_handed_back_is_not_over(
    run: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is set then as well, which must not become a busy loop."""
    looks: list[float] = []
    monkeypatch.setattr(ends, "release_connection", lambda: looks.append(time.monotonic()))
    with in_thread(wait_until_over, run, 1.0) as is_over:
        _until_watched(run)
        local_runs.remove(run)
        assert is_over() is False
    assert len(looks) <= 7


def test_a_process_that_goes_away_lets_go(run: uuid.UUID) -> None:
    with in_thread(wait_until_over, run) as is_over:
        _until_watched(run)
        ends.let_go()
        assert is_over() is False
    assert wait_until_over(run, 60) is False, "who comes later does not wait at all"


def test_no_connection_is_held_meanwhile(run: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "FIRST_PAUSE_SECONDS", 60)
    open_ones: list[bool] = []
    release = ends.release_connection

    def releasing() -> None:
        release()
        open_ones.append(connection.connection is not None)

    monkeypatch.setattr(ends, "release_connection", releasing)
    with in_thread(wait_until_over, run, 20) as is_over:
        eventually(lambda: bool(open_ones), "the wait has begun")
        RunRecord.objects.filter(pk=run).delete()
        local_runs.remove(run)
        assert is_over() is True
    assert open_ones == [False]


def test_pauses_grow_to_a_bound() -> None:
    pauses = [ends.FIRST_PAUSE_SECONDS]
    for _ in range(10):
        pauses.append(ends.next_pause(pauses[-1]))
    assert pauses == sorted(pauses)
    assert pauses[-1] == ends.LONGEST_PAUSE_SECONDS
