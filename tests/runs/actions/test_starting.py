"""What the doors call: starting, stopping, who may, and what is never half done."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from agents import Tools, agent
from agents.exceptions import AgentCallTooDeep, AgentNotFound, InvalidInput
from runs.actions import starting, stopping
from runs.actions.starting import start_run
from runs.actions.stopping import BulkOutcome, request_stop, stop_many
from runs.delivery import local_runs, stops
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    ModeNotAvailable,
    ParentIsStopping,
    RunAlreadyFinished,
    StopNotPermitted,
)
from runs.models import RunEvent, RunInput, RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent, assert_consistent
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import Gate, Start, in_thread, together


@pytest.fixture(autouse=True)
def echo() -> None:
    @agent("echo", on_worker_loss="requeue", max_attempts=5)
    async def echo(tools: Tools, text: str = "", n: int = 0) -> str:
        return text


@pytest.fixture
def endless() -> None:
    @agent("endless")
    async def endless(tools: Tools) -> None:
        tools.log("at work")
        while True:
            await tools.data_store.get("x")
            await asyncio.sleep(0.001)


class TestStart:
    def test_queues_a_run_with_its_input(self, alice: User) -> None:
        run, is_new = start_run("echo", {"text": "ä"}, owner=alice)
        assert is_new
        stored = RunRecord.objects.get()
        assert (stored.pk, stored.status, stored.attempt) == (run.pk, Status.QUEUED, 0)
        assert (stored.root_id, stored.depth, stored.parent) == (run.pk, 0, None)
        assert (stored.requeue_on_loss, stored.max_attempts) == (True, 5)
        assert stored.input_record.value == {"text": "ä"}
        assert stored.input_record.size_bytes == len('{"text":"ä"}'.encode())

    @pytest.mark.parametrize(
        ("name", "given", "error"),
        [
            ("nobody", {}, AgentNotFound),
            ("echo", {"text": 1}, InvalidInput),
            ("echo", {"txet": "x"}, InvalidInput),
            ("echo", [], InvalidInput),
            ("echo", {"text": "a\0b"}, InvalidInput),
            ("echo", {"text": "x" * 2000}, InputTooLarge),
        ],
    )
    def test_of_nonsense_writes_nothing(
        self, name: str, given: Any, error: type[Exception], alice: User, options: Any
    ) -> None:
        options(MAX_INPUT_BYTES=1000)
        with pytest.raises(error):
            start_run(name, given, owner=alice, idempotency_key="k")
        assert not RunRecord.objects.exists()
        assert not RunInput.objects.exists()

    def test_of_a_run_that_is_claimed_at_birth_leaves_nothing_when_it_is_refused(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = make_worker()
        _refuse_commits(monkeypatch)
        with pytest.raises(OperationalError):
            start_run("echo", {}, owner=alice, worker=worker.pk)
        monkeypatch.undo()
        assert not RunRecord.objects.exists()
        assert not local_runs.all_runs()

    def test_waits_for_the_commit_before_it_wakes_anybody(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1)])
        with transaction.atomic():
            start_run("echo", {}, owner=alice)
            assert not woken
        assert woken


class TestIdempotency:
    def test_the_same_again_is_the_same_run(self, alice: User) -> None:
        run, _ = start_run("echo", {"text": "x", "n": 1}, owner=alice, idempotency_key="k")
        again, is_new = start_run("echo", {"n": 1, "text": "x"}, owner=alice, idempotency_key="k")
        assert (again.pk, is_new) == (run.pk, False)

    def test_lives_as_long_as_the_run(self, alice: User) -> None:
        run, _ = start_run("echo", {}, owner=alice, idempotency_key="k")
        request_stop(run.pk, via="api", by=alice)
        again, is_new = start_run("echo", {}, owner=alice, idempotency_key="k")
        assert (again.status, is_new) == (Status.STOPPED, False)

    @pytest.mark.parametrize(("name", "given"), [("echo", {"text": "y"}), ("other", {"text": "x"})])
    def test_something_else_is_refused(self, name: str, given: Any, alice: User) -> None:
        @agent("other")
        async def other(tools: Tools, text: str) -> str:
            return text

        start_run("echo", {"text": "x"}, owner=alice, idempotency_key="k")
        with pytest.raises(IdempotencyMismatch):
            start_run(name, given, owner=alice, idempotency_key="k")
        assert RunRecord.objects.count() == 1

    def test_keys_are_each_owners_own(self, alice: User, bob: User) -> None:
        one, _ = start_run("echo", {}, owner=alice, idempotency_key="k")
        two, is_new = start_run("echo", {}, owner=bob, idempotency_key="k")
        assert is_new
        assert one.pk != two.pk

    def test_without_a_key_every_run_is_new(self, alice: User) -> None:
        assert len({start_run("echo", {}, owner=alice)[0].pk for _ in range(3)}) == 3

    @pytest.mark.usefixtures("on_both_databases")
    def test_twenty_at_once_are_one_run(self, alice: User) -> None:
        one = partial(start_run, "echo", {"text": "x"}, owner=alice, idempotency_key="k")
        answers = together(*[one] * 20)
        assert {run.pk for run, _ in answers} == {RunRecord.objects.get().pk}
        assert sorted(is_new for _, is_new in answers) == [False] * 19 + [True]

    @pytest.mark.usefixtures("on_both_databases")
    def test_two_bodies_at_once_are_one_run_and_a_refusal(self, alice: User) -> None:
        for n in range(10):
            answers = together(
                *[
                    partial(start_run, "echo", {"n": body}, owner=alice, idempotency_key=f"k{n}")
                    for body in range(4)
                ]
            )
            refusals = [a for a in answers if isinstance(a, IdempotencyMismatch)]
            assert len(refusals) == 3
        assert RunRecord.objects.count() == 10


class TestStopOfAQueuedRun:
    def test_has_stopped_it_when_it_returns(self, alice: User, log: Journal) -> None:
        run, _ = start_run("echo", {}, owner=alice)
        result = request_stop(run.pk, via="page", by=alice, reason="a slip")
        assert (result.outcome, result.run.status) == ("accepted", Status.STOPPED)
        record = assert_consistent(run)
        assert record.stop_acknowledged_at is None
        assert [e.type for e in record.events.all()] == ["stop_requested", "agent_end"]
        assert [e.type for e in log.of(run)] == ["stop_requested", "agent_end"]

    def test_is_never_run_afterwards(
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

    def test_that_was_handed_back_counts_its_log_on(self, alice: User) -> None:
        run = make_run(alice, agent="echo", attempt=1, last_seq=0)
        RunEvent.objects.create(
            run=run, seq=1, ts=timezone.now(), type="log", agent="echo", depth=0, source="system"
        )
        RunRecord.objects.filter(pk=run.pk).update(last_seq=1)
        request_stop(run.pk, via="api", by=alice)
        assert assert_consistent(run).last_seq == 3


@pytest.mark.usefixtures("endless")
class TestStopOfARunningRun:
    def test_has_tripped_the_token_when_it_returns(
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
        for mode in ("abort", "abandon"):  # an escalation has to wait for its rungs
            with pytest.raises(ModeNotAvailable):
                request_stop(run.pk, via="api", by=alice, mode=mode)
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

    def test_is_undone_with_the_transaction_that_it_was_in(
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


class TestStopOfARunThatIsOver:
    @pytest.mark.parametrize("status", [Status.SUCCESS, Status.ERROR, Status.STOPPED])
    def test_is_refused_and_changes_nothing(self, status: Status, alice: User) -> None:
        run = make_run(alice, status=status)
        before = list(RunRecord.objects.values())
        with pytest.raises(RunAlreadyFinished) as caught:
            request_stop(run.pk, via="api", by=alice, reason="late")
        assert caught.value.run.pk == run.pk
        assert caught.value.run.status == status
        assert list(RunRecord.objects.values()) == before


class TestWhoMayStop:
    def test_the_owner_and_who_has_the_right(self, alice: User, operator: User) -> None:
        for user in (alice, operator):
            run = make_run(alice)
            assert request_stop(run.pk, via="api", by=user).outcome == "accepted"

    def test_nobody_else(self, alice: User, bob: User) -> None:
        run = make_run(alice)
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        for user in (bob, None):
            with pytest.raises(StopNotPermitted):
                request_stop(run.pk, via="api", by=user)
        run.refresh_from_db()
        assert not run.stop_requested

    @pytest.mark.parametrize("status", Status)
    def test_what_may_not_be_seen_does_not_exist(
        self, alice: User, bob: User, status: Status
    ) -> None:
        """Not even for who may stop, or when it is over; and nothing was written."""
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

    def test_the_system_asks_nobody(self, alice: User) -> None:
        run = make_run(alice)
        request_stop(run.pk, via="budget", check_permission=False)
        assert assert_consistent(run).stop_requested_by is None


class TestRefusals:
    def test_a_run_that_is_not_there(self, alice: User) -> None:
        with pytest.raises(RunRecord.DoesNotExist):
            request_stop(uuid.uuid4(), via="api", by=alice)

    @pytest.mark.parametrize("status", Status)
    @pytest.mark.parametrize("mode", ["abort", "abandon"])
    def test_a_rung_that_does_not_exist_yet(self, mode: str, status: Status, alice: User) -> None:
        run = make_run(alice, status=status)
        with pytest.raises(ModeNotAvailable):
            request_stop(run.pk, via="api", by=alice, mode=mode)
        with pytest.raises(ModeNotAvailable):
            stop_many([run.pk], via="api", by=alice, mode=mode)
        run.refresh_from_db()
        assert run.status == status

    def test_a_mode_that_never_will(self, alice: User) -> None:
        run = make_run(alice)
        with pytest.raises(ValueError, match="kill"):
            request_stop(run.pk, via="api", by=alice, mode="kill")

    def test_a_reason_of_500_characters_is_the_longest(self, alice: User) -> None:
        run = make_run(alice)
        with pytest.raises(ValueError, match="500"):
            request_stop(run.pk, via="api", by=alice, reason="x" * 501)
        assert request_stop(run.pk, via="api", by=alice, reason="ä" * 500).outcome == "accepted"


def _refuse(*_: Any) -> None:
    raise OperationalError("the database is away")


def _refuse_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", _refuse)


@pytest.mark.usefixtures("endless", "on_both_databases")
class TestADatabaseThatRefuses:
    """Whatever statement fails: the answer is an error, and nothing is half done."""

    @pytest.fixture
    def running(self, worker: Worker, start: Start, log: Journal) -> RunRecord:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await tools.agents.call("endless")

        run = start("caller")
        log.until_event_of_agent("endless", "log")
        return run

    def _is_untouched(self, run: RunRecord) -> None:
        assert not RunRecord.objects.filter(stop_requested_at__isnull=False).exists()
        assert not RunEvent.objects.filter(type="stop_requested").exists()
        for entry in local_runs.all_runs():
            assert not entry.token.stopped

    def test_each_statement_of_a_stop(self, running: RunRecord, stop: Any, log: Journal) -> None:
        failures = 0
        for failing in range(30):
            seen = 0

            def refuse(execute: Any, *arguments: Any, failing: int = failing) -> Any:
                nonlocal seen
                seen += 1
                if seen > failing:
                    raise OperationalError("the database is away")
                return execute(*arguments)

            with connection.execute_wrapper(refuse):
                try:
                    stop(running)
                    break
                except OperationalError:
                    failures += 1
            if RunRecord.objects.get(pk=running.pk).stop_requested:
                break  # committed; only the reading of the answer has failed
            self._is_untouched(running)
        else:
            pytest.fail("it never came through")
        assert failures >= 3
        record = log.over(running)
        assert record.status == Status.STOPPED
        assert_consistent(running)

    def test_the_commit_of_a_stop(
        self, running: RunRecord, stop: Any, log: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here = connections["default"]  # the worker's threads have connections of their own
        with monkeypatch.context() as patch:
            patch.setitem(here.__dict__, "_commit", partial(_refuse, here))
            with pytest.raises(OperationalError):
                stop(running)
        self._is_untouched(running)
        stop(running)
        assert log.over(running).status == Status.STOPPED

    def test_a_stop_of_a_queued_run(self, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_run(alice)
        for failing in ("UPDATE", "INSERT"):

            def refuse(execute: Any, sql: str, *arguments: Any, failing: str = failing) -> Any:
                if sql.startswith(failing):
                    raise OperationalError("the database is away")
                return execute(sql, *arguments)

            with connection.execute_wrapper(refuse), pytest.raises(OperationalError):
                request_stop(run.pk, via="api", by=alice)
            run.refresh_from_db()
            assert (run.status, run.stop_requested) == (Status.QUEUED, False)
            assert not RunEvent.objects.exists()


def test_a_database_that_may_only_be_read_stops_nothing(
    endless: None, worker: Worker, start: Start, stop: Any, log: Journal
) -> None:
    switch = "PRAGMA query_only = {}"
    if connection.vendor == "postgresql":
        switch = "SET default_transaction_read_only = {}"
    run = start("endless")
    log.until_event(run, "log")
    with connection.cursor() as cursor:
        cursor.execute(switch.format("on"))
    try:
        with pytest.raises(Exception, match=r"read-?only"):
            stop(run)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(switch.format("off"))
    assert not local_runs.get(run.pk).token.stopped  # type: ignore[union-attr]
    assert not RunRecord.objects.get(pk=run.pk).stop_requested
    stop(run)
    assert log.over(run).status == Status.STOPPED


class TestStopOfMany:
    def test_has_one_outcome_each_in_the_order_given(
        self, alice: User, bob: User, operator: User
    ) -> None:
        worker = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
        queued, running, stopping = make_run(alice), make(), make(**requested(alice))
        over, hidden = make_run(alice, status=Status.SUCCESS), make_run(bob)
        missing = uuid.uuid4()
        ids = [over.pk, missing, running.pk, hidden.pk, queued.pk, stopping.pk, running.pk]
        outcomes = stop_many(ids, by=alice, via="api", reason="all of it")
        assert outcomes == [
            BulkOutcome(str(over.pk), "already_finished"),
            BulkOutcome(str(missing), "not_found"),
            BulkOutcome(str(running.pk), "accepted"),
            BulkOutcome(str(hidden.pk), "not_found"),
            BulkOutcome(str(queued.pk), "accepted"),
            BulkOutcome(str(stopping.pk), "already_stopping"),
        ]
        assert assert_consistent(queued).stop_reason == "all of it"
        running.refresh_from_db()
        assert running.shown_status == "stopping"
        hidden.refresh_from_db()
        assert not hidden.stop_requested

    def test_who_may_see_but_not_stop_is_told(self, alice: User, bob: User) -> None:
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        mine, theirs = make_run(bob), make_run(alice)
        outcomes = stop_many([mine.pk, theirs.pk], by=bob, via="api")
        assert [o.outcome for o in outcomes] == ["accepted", "not_permitted"]
        theirs.refresh_from_db()
        assert not theirs.stop_requested

    def test_of_nothing_is_nothing(self, alice: User) -> None:
        assert stop_many([], by=alice, via="api") == []

    @pytest.mark.usefixtures("on_both_databases")
    def test_does_not_grow_with_the_number_of_runs(
        self, alice: User, django_assert_max_num_queries: Any
    ) -> None:
        worker = make_worker()
        for count in (3, 40):
            make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
            roots = [make() for _ in range(count)]
            for root in roots:
                make(parent=make(parent=root))
            with django_assert_max_num_queries(count + 15):  # one UPDATE per root of a tree
                outcomes = stop_many([r.pk for r in roots], by=alice, via="api")
            assert {o.outcome for o in outcomes} == {"accepted"}
        assert not RunRecord.objects.filter(stop_requested_at=None).exists()
        assert set(RunRecord.objects.filter(depth=2).values_list("stop_via", flat=True)) == {
            "parent"
        }

    def test_takes_more_than_one_transaction_holds(self, alice: User) -> None:
        runs = [make_run(alice) for _ in range(12)]
        stopping._CHUNK, chunk = 5, stopping._CHUNK
        try:
            outcomes = stop_many([r.pk for r in runs], by=alice, via="api")
        finally:
            stopping._CHUNK = chunk
        assert [o.outcome for o in outcomes] == ["accepted"] * 12
        assert_all_consistent()

    def test_of_a_run_and_what_is_below_it(self, alice: User) -> None:
        worker = make_worker()
        make = partial(make_run, alice, status=Status.RUNNING, worker=worker)
        root = make()
        child = make(parent=root)
        leaf = make(parent=child)
        by_itself = make(parent=root, **requested(alice, stop_reason="mine"))
        RunRecord.objects.filter(pk=by_itself.pk).update(stop_root_request=by_itself.pk)
        outcomes = stop_many([leaf.pk, root.pk], by=alice, via="api", reason="all")
        assert {o.outcome for o in outcomes} == {"accepted"}
        for run in (root, child, leaf, by_itself):
            run.refresh_from_db()
        assert (child.stop_via, child.stop_root_request) == ("parent", root.pk)
        assert (leaf.stop_via, leaf.stop_root_request) == ("api", leaf.pk)
        assert (by_itself.stop_reason, by_itself.stop_root_request) == ("mine", by_itself.pk)

    @pytest.mark.usefixtures("on_both_databases")
    def test_trips_all_tokens_before_it_returns(
        self, endless: None, worker: Worker, alice: User, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("endless") for _ in range(3)])

        runs = [start("caller") for _ in range(5)]
        log.until(lambda: sum(e.type == "log" for e in log.events) == 15, "the children")
        entries = local_runs.all_runs()
        assert len(entries) == 20
        stop_many([run.pk for run in runs], by=alice, via="admin", reason="all")
        assert all(entry.token.stopped for entry in entries)
        log.until_over(*runs)
        assert {r.status for r in assert_all_consistent()} == {Status.STOPPED}

    @pytest.mark.usefixtures("on_both_databases")
    def test_crosses_others_without_a_deadlock(
        self, endless: None, worker: Worker, alice: User, start: Start, log: Journal
    ) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> None:
            await asyncio.gather(*[tools.agents.call("endless") for _ in range(4)])

        runs = [start("caller") for _ in range(12)]
        log.until(lambda: sum(e.type == "log" for e in log.events) >= 24, "half of the children")
        ids = [run.pk for run in runs]
        many = partial(stop_many, by=alice, via="api")
        answers = together(
            partial(many, ids),
            partial(many, ids[::-1]),
            partial(many, ids[::2]),
            *[partial(request_stop, id, by=alice, via="page") for id in ids[::3]],
        )
        errors = [a for a in answers if isinstance(a, Exception)]
        assert not [e for e in errors if not isinstance(e, RunAlreadyFinished)]
        log.until_over(*runs)
        assert_all_consistent()


class TestChildren:
    @pytest.fixture
    def parent(self, alice: User) -> Any:
        worker = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=worker)
        entry = local_runs.ActiveRun(run.pk, worker.pk)
        local_runs.add(entry)
        yield entry
        local_runs._runs.clear()

    def test_is_born_below_its_parent_and_under_its_claim(self, parent: Any, alice: User) -> None:
        record, entry = starting.start_child(parent, "echo", {"text": "x"})
        assert (record.parent_id, record.root_id, record.depth) == (parent.id, parent.id, 1)
        assert (record.worker_id, record.attempt, record.status) == (parent.worker, 1, "running")
        assert (record.owner_id, record.requeue_on_loss) == (alice.pk, False)
        assert entry.token.parent is parent.token
        assert local_runs.get(record.pk) is entry

    @pytest.mark.parametrize(
        "change",
        [
            {"attempt": 2},
            {"worker": None},
            requested(),
            {"status": "success", "finished_at": timezone.now()},
        ],
        ids=["another attempt", "another worker", "asked to stop", "over"],
    )
    def test_is_not_born_below_what_should_end(self, change: dict[str, Any], parent: Any) -> None:
        RunRecord.objects.filter(pk=parent.id).update(**change)
        with pytest.raises(ParentIsStopping):
            starting.start_child(parent, "echo", {})
        assert RunRecord.objects.count() == 1
        assert len(local_runs.all_runs()) == 1

    def test_is_not_registered_when_its_birth_is_refused(
        self, parent: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _refuse_commits(monkeypatch)
        with pytest.raises(OperationalError):
            starting.start_child(parent, "echo", {})
        monkeypatch.undo()
        assert RunRecord.objects.count() == 1
        assert len(local_runs.all_runs()) == 1

    def test_goes_no_deeper_than_the_limit(self, parent: Any) -> None:
        entry = parent
        for depth in range(1, starting.MAX_DEPTH):
            record, entry = starting.start_child(entry, "echo", {})
            assert record.depth == depth
        with pytest.raises(AgentCallTooDeep):
            starting.start_child(entry, "echo", {})


@pytest.mark.usefixtures("endless")
class TestAStopFromElsewhere:
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

    def test_of_two_siblings_is_found_for_both(
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

    def test_is_met_by_the_birth_of_a_child(
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


def test_a_run_may_end_while_a_claim_waits_for_the_database(
    worker: Worker, start: Start, log: Journal
) -> None:
    """The agent loop does not wait with it."""
    claim_waits, agent_waits = Gate(), Gate()

    @agent("waiting")
    async def waiting(tools: Tools) -> str:
        await agent_waits.wait()
        return "done"

    def hold_claims() -> None:
        with local_runs.claiming():
            claim_waits.wait_here()

    runs = [start("waiting") for _ in range(2)]
    agent_waits.until_arrived(2)
    with in_thread(hold_claims):
        claim_waits.until_arrived()
        try:
            with (
                local_runs.watching(runs[0].pk) as first,
                local_runs.watching(runs[1].pk) as second,
            ):
                agent_waits.open()
                assert first.wait(5)
                assert second.wait(5)
        finally:
            claim_waits.open()
    assert [r.result for r in log.until_over(*runs)] == ["done", "done"]
