"""Runs of a lost worker end or are requeued, once, and children before their callers."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from runs.actions import recovery
from runs.actions.refusals import Care
from runs.delivery import local_runs
from runs.models import RunRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import in_thread, together

pytestmark = pytest.mark.usefixtures("forget_local_runs")


class TestRecovery:
    def test_ends_or_requeues_the_runs_of_a_lost_worker(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        fine = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING)
        fails = make(worker=lost)
        asked = make(worker=lost, **requested(alice))
        asked_too = make(worker=lost, requeue_on_loss=True, max_attempts=3, **requested())
        again = make(worker=lost, requeue_on_loss=True, max_attempts=3, last_seq=0)
        used_up = make(worker=lost, requeue_on_loss=True, max_attempts=3, attempt=3)
        without_worker = make(worker=None)
        untouched = make(worker=fine)
        for run in (asked, asked_too):
            RunRecord.objects.filter(pk=run.pk).update(stop_root_request=run.pk)
        assert recovery.recover_runs() == 6
        assert recovery.recover_runs() == 0
        for run in (fails, asked, asked_too, again, used_up, without_worker, untouched):
            run.refresh_from_db()
        assert (fails.status, fails.error["code"]) == ("error", "worker_lost")
        assert (asked.status, asked_too.status) == ("stopped", "stopped")
        assert (again.status, again.worker_id, again.attempt) == ("queued", None, 1)
        assert (used_up.status, used_up.error["code"]) == ("error", "worker_lost")
        assert (without_worker.status, without_worker.error["code"]) == ("error", "worker_lost")
        assert untouched.status == "running"
        for run in (fails, asked, asked_too, used_up, without_worker):
            assert_consistent(run)

    @pytest.mark.postgres
    def test_does_not_wait_for_rows_that_others_have_locked(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        runs = [make_run(alice, status=Status.RUNNING, worker=lost) for _ in range(3)]
        is_locked, is_done = threading.Event(), threading.Event()

        def hold() -> None:  # a process that froze during a write
            with transaction.atomic():
                RunRecord.objects.select_for_update().get(pk=runs[1].pk)
                is_locked.set()
                assert is_done.wait(10)

        with in_thread(hold):
            assert is_locked.wait(10)
            try:
                assert recovery.recover_runs() == 2
            finally:
                is_done.set()
        assert recovery.recover_runs() == 1

    @pytest.mark.postgres
    def test_locks_of_frozen_processes_are_released(self, transactional_db: None) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone() == ("5s",)  # a third of a lease

    def test_ends_children_before_it_requeues_their_root(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        make = partial(make_run, alice, status=Status.RUNNING, worker=lost)
        root = make(requeue_on_loss=True, max_attempts=2)
        children = [make(parent=root) for _ in range(3)]
        grandchildren = [make(parent=child) for child in children]
        assert recovery.recover_runs() == 7
        ends = [RunRecord.objects.get(pk=run.pk).finished_at for run in (*grandchildren, *children)]
        assert ends == sorted(ends)  # type: ignore[type-var]
        for child in children:
            assert assert_consistent(child).error["code"] == "worker_lost"
        root.refresh_from_db()
        assert root.status == "queued"

    @pytest.mark.usefixtures("on_both_databases")
    def test_by_many_at_once_is_done_once(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        make = partial(make_run, alice, status=Status.RUNNING, worker=lost)
        roots = [make() for _ in range(10)]
        children = [make(parent=root) for root in roots]
        counts = together(*[recovery.recover_runs for _ in range(6)])
        assert sum(counts) == len(roots) + len(children)
        for run in roots:
            assert_consistent(run)

    def test_leaves_runs_alone_that_another_worker_has_claimed_meanwhile(self, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker(), attempt=2)
        assert recovery._recover(run.pk, "worker_lost", Q(), Care.WHOLE) is None
        run.refresh_from_db()
        assert run.status == "running"

    def test_is_limited_and_starts_with_children(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        root = make_run(alice, status=Status.RUNNING, worker=lost)
        child = make_run(alice, status=Status.RUNNING, worker=lost, parent=root)
        assert recovery.recover_runs(limit=1) == 1
        child.refresh_from_db()
        root.refresh_from_db()
        assert (child.status, root.status) == ("error", "running")

    def test_of_one_worker_leaves_other_workers_alone(self, alice: User) -> None:
        one, two = make_worker(lost_at=timezone.now()), make_worker(lost_at=timezone.now())
        mine = make_run(alice, status=Status.RUNNING, worker=one)
        theirs = make_run(alice, status=Status.RUNNING, worker=two)
        assert recovery.recover_runs(code="worker_shutdown", worker=one.pk) == 1
        mine.refresh_from_db()
        theirs.refresh_from_db()
        assert (mine.error["code"], theirs.status) == ("worker_shutdown", "running")


class TestOrphans:
    def test_are_ended(self, alice: User) -> None:
        me = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=me)
        orphan, again, at_work = make(), make(requeue_on_loss=True, max_attempts=2), make()
        local_runs.add(local_runs.ActiveRun(at_work.pk, me.pk))
        assert recovery.recover_orphans(me.pk) == 2
        assert recovery.recover_orphans(me.pk) == 0
        for run in (orphan, again, at_work):
            run.refresh_from_db()
        assert (orphan.status, orphan.error["code"]) == ("error", "worker_lost")
        assert (again.status, at_work.status) == ("queued", "running")

    def test_do_not_include_a_run_that_was_claimed_again_meanwhile(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        me = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=me)

        def claimed_again(id: Any) -> None:
            RunRecord.objects.filter(pk=id).update(attempt=2)

        monkeypatch.setattr(local_runs, "get", claimed_again)
        assert recovery.recover_orphans(me.pk) == 0
        run.refresh_from_db()
        assert run.status == "running"


@pytest.mark.postgres
def test_sessions_of_a_lost_worker_that_hold_its_runs_are_ended(alice: User) -> None:
    lost = make_worker(lost_at=timezone.now())
    run = make_run(alice, status=Status.RUNNING, worker=lost)
    is_locked = threading.Event()
    is_free = threading.Event()

    def hold() -> None:  # this process, as if frozen in the middle of a statement
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                RunRecord.objects.select_for_update().get(pk=run.pk)
                is_locked.set()
                cursor.execute("SELECT pg_sleep(30)")
        except OperationalError:
            is_free.set()

    with in_thread(hold):
        assert is_locked.wait(10)
        assert recovery.recover_runs() == 0
        assert recovery.free_runs(stuck_seconds=60) == 0, "it may just be slow"
        assert recovery.free_runs(stuck_seconds=0) == 1
        assert is_free.wait(10)
    assert recovery.recover_runs() == 1
    assert recovery.free_runs(stuck_seconds=0) == 0
