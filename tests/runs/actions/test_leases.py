"""Workers register and end: leases, dead processes on this host, draining, and claims."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.utils import timezone

from runs.actions import leases
from runs.delivery import local_runs
from runs.models import WorkerRecord
from runs.process import names
from runs.status import Status
from runs.worker.reaper import Reaper
from tests.support.rows import make_dead_worker, make_run, make_worker
from tests.support.running import together

pytestmark = pytest.mark.usefixtures("forget_local_runs")


class TestLease:
    def test_renewing_prolongs_it(self, transactional_db: None) -> None:
        past = timezone.now() - timedelta(seconds=1)
        worker = make_worker(heartbeat_at=past, lease_until=past)
        assert leases.renew(worker.pk, 30)
        worker.refresh_from_db()
        left = (worker.lease_until - timezone.now()).total_seconds()
        assert 28 < left <= 30
        assert worker.heartbeat_at > past

    def test_of_a_lost_worker_is_not_renewed(self, transactional_db: None) -> None:
        worker = make_worker(lost_at=timezone.now())
        assert not leases.renew(worker.pk, 30)

    def test_is_lost_after_its_end(self, transactional_db: None) -> None:
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
    def test_is_declared_lost_by_one_process(self, transactional_db: None) -> None:
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
    @pytest.mark.parametrize("whose", ["the worker's", "the reaper's"])
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_does_not_depend_on_the_clocks_of_hosts(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch, whose: str, hours: int
    ) -> None:
        now = timezone.now

        def set_clock(of: str) -> None:
            wrong = timedelta(hours=hours if of == whose else 0)
            monkeypatch.setattr(timezone, "now", lambda: now() + wrong)

        set_clock("the worker's")
        worker = make_worker()
        set_clock("the reaper's")
        assert leases.mark_lost_leases() == []
        set_clock("the worker's")
        assert leases.renew(worker.pk, 30)
        set_clock("the reaper's")
        assert leases.mark_lost_leases() == []
        set_clock("the worker's")
        assert leases.renew(worker.pk, -1)
        set_clock("the reaper's")
        assert [lost.pk for lost in leases.mark_lost_leases()] == [worker.pk]


class TestWorkersOnThisHost:
    def test_a_dead_process_is_detected(self, transactional_db: None) -> None:
        me, dead = make_worker(), make_dead_worker()
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [dead.pk]
        assert leases.mark_vanished_workers(me.pk) == []

    def test_a_reused_process_id_is_another_process(self, transactional_db: None) -> None:
        me = make_worker()
        reused = make_worker(pid=os.getpid(), pid_started=me.pid_started - 1)
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [reused.pk]

    def test_a_live_process_is_left_alone(self, transactional_db: None) -> None:
        me, other = make_worker(), make_worker()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            started = names.process_started(process.pid)
            there = make_worker(pid=process.pid, pid_started=started)
            assert leases.mark_vanished_workers(me.pk) == []
            process.communicate(b"\n")
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [there.pk]
        other.refresh_from_db()
        assert other.lost_at is None

    def test_a_zombie_is_dead(self, transactional_db: None) -> None:
        me = make_worker()
        with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as process:
            started = names.process_started(process.pid)
            zombie = make_worker(pid=process.pid, pid_started=started or 1)
            assert process.stdout is not None
            process.stdout.read()  # its end; its parent has not waited for it yet
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [zombie.pk]

    def test_a_hidden_process_is_left_alone(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with hidepid=: /proc doesn't show another user's processes, alive or not."""

        def kill(pid: int, signal: int) -> None:
            if pid == 1:
                raise PermissionError  # as for any user but root
            real_kill(pid, signal)

        real_kill = os.kill
        monkeypatch.setattr(os, "kill", kill)
        monkeypatch.setattr(names, "_stat", lambda pid: None)
        me, there, dead = make_worker(), make_worker(pid=1, pid_started=7), make_dead_worker()
        assert [w.pk for w in leases.mark_vanished_workers(me.pk)] == [dead.pk]
        there.refresh_from_db()
        assert there.lost_at is None

    def test_a_worker_on_another_host_keeps_its_lease(self, transactional_db: None) -> None:
        me = make_worker()
        make_dead_worker(host_identity="elsewhere")
        assert leases.mark_vanished_workers(me.pk) == []

    def test_a_host_without_an_identity_takes_over_nothing(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "host_identity", lambda: "")
        me = make_worker()
        make_dead_worker()
        assert leases.mark_vanished_workers(me.pk) == []


class TestForgetting:
    @pytest.mark.usefixtures("on_both_databases")
    def test_removes_workers_that_are_long_gone_and_have_no_runs(self, alice: User) -> None:
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

    def test_is_done_by_the_reaper_at_intervals(
        self, transactional_db: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reaper = Reaper(15)
        for _ in range(2):
            make_worker(lost_at=timezone.now() - timedelta(days=8))
            reaper.tick()
            reaper._next_poll = 0.0
        assert WorkerRecord.objects.count() == 1, "not at each poll"
        reaper._next_forgetting = 0.0
        reaper.tick()
        assert not WorkerRecord.objects.exists()


class TestDraining:
    @pytest.mark.usefixtures("on_both_databases")
    def test_ends_claiming_until_it_is_cancelled(self, transactional_db: None, alice: User) -> None:
        me = make_worker()
        first = make_run(alice, status=Status.RUNNING, worker=me)
        waiting = make_run(alice)
        assert leases.mark_draining(me.pk)
        assert leases.claim(me.pk, 10) == []
        first.refresh_from_db()
        assert (first.status, first.worker_id) == ("running", me.pk)

        assert leases.mark_taking(me.pk)
        assert [run.pk for run in leases.claim(me.pk, 10)] == [waiting.pk]

    def test_returns_whether_it_changed_anything(self, alice: User) -> None:
        me, gone = make_worker(), make_worker(lost_at=timezone.now())
        assert not leases.mark_taking(me.pk)
        assert leases.mark_draining(me.pk)
        assert not leases.mark_draining(me.pk)
        assert not leases.mark_draining(gone.pk)

    def test_of_a_lost_worker_cannot_be_cancelled(self, alice: User) -> None:
        lost = make_worker(lost_at=timezone.now(), draining_at=timezone.now())
        make_run(alice)
        assert not leases.mark_taking(lost.pk)
        assert leases.claim(lost.pk, 10) == []


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
    def test_whose_run_cannot_be_read_is_undone(
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


def test_a_worker_record_names_its_host_and_process(transactional_db: None) -> None:
    worker = leases.register_worker(7, 15)
    stored = WorkerRecord.objects.get(pk=worker.pk)
    assert stored.pid == os.getpid()
    assert stored.pid_started == names.process_started(os.getpid())
    assert stored.host_identity == names.host_identity() != ""
    assert (stored.capacity, stored.draining_at, stored.lost_at) == (7, None, None)
    leases.mark_draining(worker.pk)
    leases.retire(worker.pk)
    stored.refresh_from_db()
    assert stored.draining_at is not None
    assert stored.lost_at is not None
