"""A stop of one run: who may request it, what it writes, and how the run ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.utils import timezone

from agents import Tools, agent
from runs.actions.starting import start_run
from runs.actions.stopping import request_stop
from runs.delivery import local_runs, stops
from runs.exceptions import RunAlreadyFinished, StopNotPermitted
from runs.models import RunEvent, RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run
from tests.support.running import Gate, Start, together

pytestmark = pytest.mark.usefixtures("echo")


class TestStopOfAQueuedRun:
    def test_ends_the_run_before_it_returns(self, alice: User, log: Journal) -> None:
        run, _ = start_run("echo", {}, owner=alice)
        result = request_stop(run.pk, via="page", by=alice, reason="a slip")
        assert (result.outcome, result.run.status) == ("accepted", Status.STOPPED)
        record = assert_consistent(run)
        assert record.stop_acknowledged_at is None
        assert [e.type for e in record.events.all()] == ["stop_requested", "agent_end"]
        assert [e.type for e in log.of(run)] == ["stop_requested", "agent_end"]

    def test_prevents_every_later_execution(
        self, alice: User, hire: Any, start: Start, log: Journal
    ) -> None:
        runs = [start("echo") for _ in range(5)]
        for run in runs[:4]:
            request_stop(run.pk, via="api", by=alice)
        hire()
        assert log.over(runs[4]).status == Status.SUCCESS
        for run in runs[:4]:
            assert assert_consistent(run).attempt == 0

    @pytest.mark.usefixtures("on_both_databases")
    def test_races_its_claim(self, alice: User, worker: Worker, start: Start, log: Journal) -> None:
        runs = []
        for _ in range(60):
            run = start("echo")
            with contextlib.suppress(RunAlreadyFinished):
                request_stop(run.pk, via="api", by=alice)
            runs.append(run)
        log.until_over(*runs)
        assert_all_consistent()

    def test_continues_the_log_of_a_requeued_run(self, alice: User) -> None:
        run = make_run(alice, agent="echo", attempt=1, last_seq=0)
        RunEvent.objects.create(
            run=run, seq=1, ts=timezone.now(), type="log", agent="echo", depth=0, source="system"
        )
        RunRecord.objects.filter(pk=run.pk).update(last_seq=1)
        request_stop(run.pk, via="api", by=alice)
        assert assert_consistent(run).last_seq == 3


@pytest.mark.usefixtures("endless")
class TestStopOfARunningRun:
    def test_trips_the_token_before_it_returns(
        self, worker: Worker, start: Start, stop: Any, log: Journal
    ) -> None:
        run = start("endless")
        log.until_event(run, "log")
        entry = local_runs.get(run.pk)
        assert entry is not None
        assert not entry.token.stopped
        result = stop(run, reason="enough")
        assert entry.token.stopped
        assert result.outcome == "accepted"
        assert result.run.shown_status in ("stopping", "stopped")
        assert log.over(run).status == Status.STOPPED
        assert_consistent(run)

    def test_twice_changes_neither_requester_nor_reason(
        self, worker: Worker, alice: User, operator: User, log: Journal
    ) -> None:
        gate = Gate()

        @agent("waiting")
        async def waiting(tools: Tools) -> None:
            await gate.wait()
            await tools.data_store.get("x")

        run, _ = start_run("waiting", {}, owner=alice)
        gate.until_arrived()
        first = request_stop(run.pk, via="api", by=alice, reason="first")
        second = request_stop(run.pk, via="admin", by=operator, reason="second")
        assert [first.outcome, second.outcome] == ["accepted", "already_stopping"]
        gate.open()
        record = log.over(run)
        assert (record.stop_reason, record.stop_via) == ("first", "api")
        assert (record.stop_requested_by, record.stop_mode) == (alice, "graceful")
        assert record.stop_requested_at == first.run.stop_requested_at
        assert record.stop_escalated_at is None
        assert_consistent(run)

    def test_by_twenty_at_once_is_accepted_once(
        self, worker: Worker, start: Start, stop: Any, log: Journal
    ) -> None:
        gate = Gate()

        @agent("waiting")
        async def waiting(tools: Tools) -> None:
            await gate.wait()
            await tools.data_store.get("x")

        run = start("waiting")
        gate.until_arrived()
        answers = together(*[partial(stop, run, reason=str(n)) for n in range(20)])
        gate.open()
        outcomes = sorted(answer.outcome for answer in answers)
        assert outcomes == ["accepted"] + ["already_stopping"] * 19
        log.over(run)
        assert_consistent(run)

    def test_is_undone_with_the_transaction_around_it(
        self, worker: Worker, start: Start, stop: Any, log: Journal
    ) -> None:
        run = start("endless")
        log.until_event(run, "log")
        entry = local_runs.get(run.pk)
        assert entry is not None
        with transaction.atomic():
            stop(run)
            transaction.set_rollback(True)
        assert not entry.token.stopped
        run.refresh_from_db()
        assert not run.stop_requested
        stop(run)
        log.over(run)


class TestStopOfAFinishedRun:
    @pytest.mark.parametrize("status", [Status.SUCCESS, Status.ERROR, Status.STOPPED])
    def test_is_refused_and_changes_nothing(self, status: Status, alice: User) -> None:
        run = make_run(alice, status=status)
        before = list(RunRecord.objects.values())
        with pytest.raises(RunAlreadyFinished) as caught:
            request_stop(run.pk, via="api", by=alice, reason="late")
        assert caught.value.run.pk == run.pk
        assert caught.value.run.status == status
        assert list(RunRecord.objects.values()) == before


class TestPermission:
    def test_the_owner_and_an_operator_may_stop(self, alice: User, operator: User) -> None:
        for user in (alice, operator):
            run = make_run(alice)
            assert request_stop(run.pk, via="api", by=user).outcome == "accepted"

    def test_no_other_user_may_stop(self, alice: User, bob: User) -> None:
        run = make_run(alice)
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        for user in (bob, None):
            with pytest.raises(StopNotPermitted):
                request_stop(run.pk, via="api", by=user)
        run.refresh_from_db()
        assert not run.stop_requested

    @pytest.mark.parametrize("status", Status)
    def test_an_invisible_run_does_not_exist(self, alice: User, bob: User, status: Status) -> None:
        """Not even for users who may stop runs, or after the run's end; and nothing is written."""
        run = make_run(alice, status=status)
        gone = User.objects.create_user("gone", is_active=False)
        blind = User.objects.create_user("blind")
        blind.user_permissions.add(Permission.objects.get(codename="stop_runrecord"))
        for user in (bob, gone, blind):
            with pytest.raises(RunRecord.DoesNotExist):
                request_stop(run.pk, via="api", by=user)
        before = run.stop_requested_at
        run.refresh_from_db()
        assert (run.status, run.stop_requested_at) == (status, before)

    def test_the_system_needs_no_permission(self, alice: User) -> None:
        run = make_run(alice)
        request_stop(run.pk, via="budget", check_permission=False)
        assert assert_consistent(run).stop_requested_by is None


class TestRefusals:
    def test_an_unknown_run_is_refused(self, alice: User) -> None:
        with pytest.raises(RunRecord.DoesNotExist):
            request_stop(uuid.uuid4(), via="api", by=alice)

    def test_an_unknown_mode_is_refused(self, alice: User) -> None:
        run = make_run(alice)
        with pytest.raises(ValueError, match="kill"):
            request_stop(run.pk, via="api", by=alice, mode="kill")

    def test_a_reason_beyond_500_characters_is_refused(self, alice: User) -> None:
        run = make_run(alice)
        with pytest.raises(ValueError, match="500"):
            request_stop(run.pk, via="api", by=alice, reason="x" * 501)
        assert request_stop(run.pk, via="api", by=alice, reason="ä" * 500).outcome == "accepted"


@pytest.mark.usefixtures("endless")
class TestStopByAnotherProcess:
    """Another process has committed the stop, and its message was lost."""

    def test_is_found_within_a_second(
        self, worker: Worker, start: Start, stop: Any, log: Journal, monkeypatch: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("endless") for _ in range(3)])

        run = start("caller")
        log.until(lambda: sum(e.type == "log" for e in log.events) == 3, "the children")
        monkeypatch.setattr(stops, "deliver", lambda *_: None)
        stop(run, reason="from afar")
        record = log.over(run)
        assert (record.finished_at - record.stop_requested_at).total_seconds() < 3
        assert {r.status for r in assert_all_consistent()} == {Status.STOPPED}

    def test_of_two_siblings_reaches_both(
        self, worker: Worker, start: Start, stop: Any, log: Journal, monkeypatch: Any
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> str:
            calls = [tools.agents.call("endless") for _ in range(3)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            return ", ".join(type(end).__name__ for end in ends)

        run = start("caller")
        log.until(lambda: sum(e.type == "log" for e in log.events) == 3, "the children")
        monkeypatch.setattr(stops, "deliver", lambda *_: None)
        for child in run.children.all():
            stop(child)
        assert log.over(run).result == ", ".join(["SubAgentStopped"] * 3)
        assert_consistent(run)

    def test_is_observed_by_the_start_of_a_child(
        self, worker: Worker, start: Start, stop: Any, log: Journal, monkeypatch: Any
    ) -> None:
        gate = Gate()

        @agent("caller")
        async def caller(tools: Tools) -> None:
            await gate.wait()
            await tools.agents.call("endless")

        run = start("caller")
        gate.until_arrived()
        monkeypatch.setattr(stops, "deliver", lambda *_: None)
        monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)
        stop(run)
        gate.open()
        assert log.over(run).status == Status.STOPPED
        assert not RunRecord.objects.filter(agent="endless").exists()
        assert_consistent(run)


@pytest.mark.usefixtures("on_both_databases")
def test_a_reason_that_no_database_holds_does_not_keep_a_run_from_being_stopped(
    alice: User,
) -> None:
    """An agent may give any text to its handle's stop(), and a terminal any bytes."""
    run = make_run(alice)
    request_stop(run.pk, by=alice, via="api", reason="enough\0\ud83d")  # type: ignore[arg-type]
    run.refresh_from_db()
    assert (run.status, run.stop_reason) == (Status.STOPPED, "enough\ufffd\ufffd")
