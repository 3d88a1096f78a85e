"""Workers come and go; no run is executed twice at a time, and none is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from runs import processes
from runs.actions import leases, recovery
from runs.delivery import local_runs
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker.reaper import Reaper
from tests.support.consistency import assert_consistent
from tests.support.rows import make_dead_worker, make_run, make_worker, requested
from tests.support.running import in_thread, together


@pytest.fixture(autouse=True)
def forget_active_runs() -> Any:
    yield
    local_runs._runs.clear()


class TestLease:
    def test_renewing_prolongs_it(self, transactional_db: None) -> None:
        past = timezone.now() - timedelta(seconds=1)
        worker = make_worker(heartbeat_at=past, lease_until=past)
        assert leases.renew(worker.pk, 30)
        worker.refresh_from_db()
        left = (worker.lease_until - timezone.now()).total_seconds()
        assert 28 < left <= 30
        assert worker.heartbeat_at > past

    def test_a_lost_one_is_not_renewed(self, transactional_db: None) -> None:
        worker = make_worker(lost_at=timezone.now())
        assert not leases.renew(worker.pk, 30)

    def test_is_lost_once_it_is_over(self, transactional_db: None) -> None:
        now = timezone.now()
        late = make_worker(lease_until=now - timedelta(seconds=1))
        fine = make_worker(lease_until=now + timedelta(seconds=1))
        assert [w.pk for w in leases.mark_lost_leases()] == [late.pk]
        assert leases.mark_lost_leases() == []
        late.refresh_from_db()
        fine.refresh_from_db()
        assert late.lost_at is not None
        assert fine.lost_at is None

    @pytest.mark.usefixtures("on_both_databases")
    def test_has_one_finder(self, transactional_db: None) -> None:
        worker = make_worker(lease_until=timezone.now() - timedelta(seconds=1))
        found = together(*[leases.mark_lost_leases] * 8)
        assert sorted(len(workers) for workers in found) == [0] * 7 + [1]
        worker.refresh_from_db()
        assert worker.lost_at is not None

    @pytest.mark.usefixtures("on_both_databases")
    def test_is_renewed_or_lost_but_never_both(self, transactional_db: None) -> None:
        for _ in range(20):
            worker = make_worker(lease_until=timezone.now() - timedelta(seconds=1))
            renewed, lost = together(partial(leases.renew, worker.pk, 30), leases.mark_lost_leases)
            assert renewed != bool(lost)

    @pytest.mark.usefixtures("on_both_databases")
    @pytest.mark.parametrize("whose", ["the worker's", "the caretaker's"])
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_does_not_go_by_the_clocks_of_hosts(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch, whose: str, hours: int
    ) -> None:
        now = timezone.now

        def set_clock(of: str) -> None:
            wrong = timedelta(hours=hours if of == whose else 0)
            monkeypatch.setattr(timezone, "now", lambda: now() + wrong)

        set_clock("the worker's")
        worker = make_worker()
        set_clock("the caretaker's")
        assert leases.mark_lost_leases() == []
        set_clock("the worker's")
        assert leases.renew(worker.pk, 30)
        set_clock("the caretaker's")
        assert leases.mark_lost_leases() == []
        set_clock("the worker's")
        assert leases.renew(worker.pk, -1)
        set_clock("the caretaker's")
        assert [lost.pk for lost in leases.mark_lost_leases()] == [worker.pk]


class TestNeighbours:
    def test_a_process_that_is_gone_is_noticed(self, transactional_db: None) -> None:
        me, dead = make_worker(), make_dead_worker()
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [dead.pk]
        assert leases.mark_vanished_workers(me.pk) == []

    def test_a_process_id_that_was_given_anew_is_another_process(
        self, transactional_db: None
    ) -> None:
        me = make_worker()
        reused = make_worker(pid=os.getpid(), pid_started=me.pid_started - 1)
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [reused.pk]

    def test_a_process_that_lives_is_left_alone(self, transactional_db: None) -> None:
        me, other = make_worker(), make_worker()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            started = processes.process_started(process.pid)
            there = make_worker(pid=process.pid, pid_started=started)
            assert leases.mark_vanished_workers(me.pk) == []
            process.communicate(b"\n")
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [there.pk]
        other.refresh_from_db()
        assert other.lost_at is None

    def test_a_zombie_is_gone(self, transactional_db: None) -> None:
        me = make_worker()
        with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as process:
            started = processes.process_started(process.pid)
            zombie = make_worker(pid=process.pid, pid_started=started or 1)
            assert process.stdout is not None
            process.stdout.read()  # its end; nobody has waited for the process yet
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [zombie.pk]

    def test_a_process_that_is_hidden_is_left_alone(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with hidepid=: another user's are not in /proc, alive or not."""

        def kill(pid: int, signal: int) -> None:
            if pid == 1:
                raise PermissionError  # as for anybody but root
            real_kill(pid, signal)

        real_kill = os.kill
        monkeypatch.setattr(os, "kill", kill)
        monkeypatch.setattr(processes, "_stat", lambda pid: None)
        me, there, dead = make_worker(), make_worker(pid=1, pid_started=7), make_dead_worker()
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [dead.pk]
        there.refresh_from_db()
        assert there.lost_at is None

    def test_another_host_is_left_to_its_lease(self, transactional_db: None) -> None:
        me = make_worker()
        make_dead_worker(host_identity="elsewhere")
        assert leases.mark_vanished_workers(me.pk) == []

    def test_a_host_that_does_not_say_who_it_is_takes_nothing_over(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "host_identity", lambda: "")
        me = make_worker()
        make_dead_worker()
        assert leases.mark_vanished_workers(me.pk) == []


class TestForgetting:
    @pytest.mark.usefixtures("on_both_databases")
    def test_takes_those_that_are_long_gone_and_that_no_run_names(self, alice: User) -> None:
        now = timezone.now()
        old, young = now - timedelta(days=8), now - timedelta(days=6)
        make_worker(lost_at=old)
        kept = [make_worker(), make_worker(started_at=old), make_worker(lost_at=young)]
        named = make_worker(lost_at=old)
        run = make_run(alice, status=Status.SUCCESS, worker=named)
        assert leases.forget_workers() == 1
        assert set(WorkerRecord.objects.all()) == {*kept, named}
        run.refresh_from_db()
        assert run.worker == named
        run.delete()
        assert leases.forget_workers() == 1

    def test_is_done_by_the_caretaker_now_and_then(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reaper = Reaper(15)
        for _ in range(2):
            make_worker(lost_at=timezone.now() - timedelta(days=8))
            reaper.tick()
            reaper._next_poll = 0.0
        assert WorkerRecord.objects.count() == 1, "not at each look"
        reaper._next_forgetting = 0.0
        reaper.tick()
        assert not WorkerRecord.objects.exists()


class TestDraining:
    @pytest.mark.usefixtures("on_both_databases")
    def test_ends_claiming_until_it_is_taken_back(
        self, transactional_db: None, alice: User
    ) -> None:
        me = make_worker()
        first = make_run(alice, status=Status.RUNNING, worker=me)
        waiting = make_run(alice)
        assert leases.mark_draining(me.pk)
        assert leases.claim(me.pk, 10) == []
        first.refresh_from_db()
        assert (first.status, first.worker_id) == ("running", me.pk)

        assert leases.mark_taking(me.pk)
        assert [run.pk for run in leases.claim(me.pk, 10)] == [waiting.pk]

    def test_says_whether_it_changed_anything(self, alice: User) -> None:
        me, gone = make_worker(), make_worker(lost_at=timezone.now())
        assert not leases.mark_taking(me.pk)
        assert leases.mark_draining(me.pk)
        assert not leases.mark_draining(me.pk)
        assert not leases.mark_draining(gone.pk)

    def test_of_a_lost_worker_can_not_be_taken_back(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now(), draining_at=timezone.now())
        make_run(alice)
        assert not leases.mark_taking(lost.pk)
        assert leases.claim(lost.pk, 10) == []


class TestRecovery:
    def test_runs_of_a_lost_worker_end_or_go_back(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        fine = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING)
        fails = make(worker=lost)
        asked = make(worker=lost, **requested(alice))
        asked_too = make(worker=lost, requeue_on_loss=True, max_attempts=3, **requested())
        again = make(worker=lost, requeue_on_loss=True, max_attempts=3, last_seq=0)
        used_up = make(worker=lost, requeue_on_loss=True, max_attempts=3, attempt=3)
        nobodys = make(worker=None)
        untouched = make(worker=fine)
        for run in (asked, asked_too):
            RunRecord.objects.filter(pk=run.pk).update(stop_root_request=run.pk)
        assert recovery.recover_runs() == 6
        assert recovery.recover_runs() == 0
        for run in (fails, asked, asked_too, again, used_up, nobodys, untouched):
            run.refresh_from_db()
        assert (fails.status, fails.error["code"]) == ("error", "worker_lost")
        assert (asked.status, asked_too.status) == ("stopped", "stopped")
        assert (again.status, again.worker_id, again.attempt) == ("queued", None, 1)
        assert (used_up.status, used_up.error["code"]) == ("error", "worker_lost")
        assert (nobodys.status, nobodys.error["code"]) == ("error", "worker_lost")
        assert untouched.status == "running"
        for run in (fails, asked, asked_too, used_up, nobodys):
            assert_consistent(run)

    @pytest.mark.postgres
    def test_does_not_wait_for_what_others_have_locked(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        runs = [make_run(alice, status=Status.RUNNING, worker=lost) for _ in range(3)]
        is_locked, is_done = threading.Event(), threading.Event()

        def hold() -> None:  # as a process that froze in the middle of writing
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
    def test_locks_of_the_frozen_are_given_up(self, transactional_db: None) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone() == ("5s",)  # a third of a lease

    def test_children_end_before_their_root_which_starts_afresh(self, alice: User) -> None:
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

    def test_leaves_alone_what_another_worker_has_claimed_meanwhile(self, alice: User) -> None:
        run = make_run(alice, status=Status.RUNNING, worker=make_worker(), attempt=2)
        assert recovery._recover(run.pk, "worker_lost", Q()) is None
        run.refresh_from_db()
        assert run.status == "running"

    def test_limits_itself_and_begins_below(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now())
        root = make_run(alice, status=Status.RUNNING, worker=lost)
        child = make_run(alice, status=Status.RUNNING, worker=lost, parent=root)
        assert recovery.recover_runs(limit=1) == 1
        child.refresh_from_db()
        root.refresh_from_db()
        assert (child.status, root.status) == ("error", "running")

    def test_of_one_worker_touches_no_other(self, alice: User) -> None:
        one, two = make_worker(lost_at=timezone.now()), make_worker(lost_at=timezone.now())
        mine = make_run(alice, status=Status.RUNNING, worker=one)
        theirs = make_run(alice, status=Status.RUNNING, worker=two)
        assert recovery.recover_runs(code="worker_shutdown", worker=one.pk) == 1
        mine.refresh_from_db()
        theirs.refresh_from_db()
        assert (mine.error["code"], theirs.status) == ("worker_shutdown", "running")


class TestStrays:
    def test_what_a_worker_holds_and_does_not_execute_is_ended(self, alice: User) -> None:
        me = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=me)
        stray, again, at_work = make(), make(requeue_on_loss=True, max_attempts=2), make()
        local_runs.add(local_runs.ActiveRun(at_work.pk, me.pk))
        assert recovery.recover_orphans(me.pk) == 2
        assert recovery.recover_orphans(me.pk) == 0
        for run in (stray, again, at_work):
            run.refresh_from_db()
        assert (stray.status, stray.error["code"]) == ("error", "worker_lost")
        assert (again.status, at_work.status) == ("queued", "running")

    def test_a_run_that_was_claimed_anew_meanwhile_is_no_stray(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        me = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=me)

        def claimed_anew(id: Any) -> None:
            RunRecord.objects.filter(pk=id).update(attempt=2)

        monkeypatch.setattr(local_runs, "get", claimed_anew)
        assert recovery.recover_orphans(me.pk) == 0
        run.refresh_from_db()
        assert run.status == "running"


class TestClaim:
    def test_registers_what_it_claims(self, alice: User) -> None:
        me = make_worker()
        run = make_run(alice, attempt=2, requeue_on_loss=True, max_attempts=5)
        (record,) = leases.claim(me.pk, 10)
        entry = local_runs.get(run.pk)
        assert entry is not None
        assert (record.pk, record.attempt, entry.attempt) == (run.pk, 3, 3)
        assert entry.worker == me.pk
        assert record.input_record.value == {}

    @pytest.mark.usefixtures("on_both_databases")
    def test_of_which_nothing_can_be_read_is_none(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, me = make_run(alice), make_worker()

        def refuse(execute: Any, sql: str, *arguments: Any) -> Any:
            if "runs_runinput" in sql:
                raise OperationalError("the database is away")
            return execute(sql, *arguments)

        with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
            leases.claim(me.pk, 10)
        run.refresh_from_db()
        assert (run.status, run.attempt) == ("queued", 0)
        assert local_runs.get(run.pk) is None
        assert [record.pk for record in leases.claim(me.pk, 10)] == [run.pk]


def test_a_worker_says_where_it_is(transactional_db: None) -> None:
    worker = leases.register_worker(7, 15)
    stored = WorkerRecord.objects.get(pk=worker.pk)
    assert stored.pid == os.getpid()
    assert stored.pid_started == processes.process_started(os.getpid())
    assert stored.host_identity == processes.host_identity() != ""
    assert (stored.capacity, stored.draining_at, stored.lost_at) == (7, None, None)
    leases.mark_draining(worker.pk)
    leases.retire(worker.pk)
    stored.refresh_from_db()
    assert stored.draining_at is not None
    assert stored.lost_at is not None


@pytest.mark.postgres
def test_sessions_of_a_lost_worker_that_hold_its_runs_are_ended(alice: User) -> None:
    lost = make_worker(lost_at=timezone.now())
    run = make_run(alice, status=Status.RUNNING, worker=lost)
    is_locked = threading.Event()
    is_free = threading.Event()

    def hold() -> None:  # as this very process, frozen; in the middle of something, never idle
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
