"""A start: what it writes, what it refuses, and when it returns the same run again."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from agents import Tools, agent
from agents.exceptions import AgentCallTooDeep, AgentNotFound, InvalidInput
from runs.actions import starting
from runs.actions.starting import start_run
from runs.actions.stopping import request_stop
from runs.delivery import local_runs
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    ParentIsStopping,
)
from runs.models import RunInput, RunRecord
from runs.status import Status
from tests.support.rows import make_run, make_worker, requested
from tests.support.running import together

pytestmark = pytest.mark.usefixtures("echo")


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
            ("unknown", {}, AgentNotFound),
            ("echo", {"text": 1}, InvalidInput),
            ("echo", {"txet": "x"}, InvalidInput),
            ("echo", [], InvalidInput),
            ("echo", {"text": "a\0b"}, InvalidInput),
            ("echo", {"text": "x" * 2000}, InputTooLarge),
        ],
    )
    def test_with_invalid_arguments_writes_nothing(
        self, name: str, given: Any, error: type[Exception], alice: User, options: Any
    ) -> None:
        options(MAX_INPUT_BYTES=1000)
        with pytest.raises(error):
            start_run(name, given, owner=alice, idempotency_key="k")
        assert not RunRecord.objects.exists()
        assert not RunInput.objects.exists()

    def test_with_a_claim_leaves_nothing_when_it_is_refused(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        worker = make_worker()
        _refuse_commits(monkeypatch)
        with pytest.raises(OperationalError):
            start_run("echo", {}, owner=alice, worker=worker.pk)
        monkeypatch.undo()
        assert not RunRecord.objects.exists()
        assert not local_runs.all_runs()

    def test_waits_for_the_commit_before_it_wakes_a_worker(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1)])
        with transaction.atomic():
            start_run("echo", {}, owner=alice)
            assert not woken
        assert woken


class TestIdempotency:
    def test_the_same_request_returns_the_same_run(self, alice: User) -> None:
        run, _ = start_run("echo", {"text": "x", "n": 1}, owner=alice, idempotency_key="k")
        again, is_new = start_run("echo", {"n": 1, "text": "x"}, owner=alice, idempotency_key="k")
        assert (again.pk, is_new) == (run.pk, False)

    def test_a_key_lasts_as_long_as_its_run(self, alice: User) -> None:
        run, _ = start_run("echo", {}, owner=alice, idempotency_key="k")
        request_stop(run.pk, via="api", by=alice)
        again, is_new = start_run("echo", {}, owner=alice, idempotency_key="k")
        assert (again.status, is_new) == (Status.STOPPED, False)

    @pytest.mark.parametrize(("name", "given"), [("echo", {"text": "y"}), ("other", {"text": "x"})])
    def test_another_request_with_the_same_key_is_refused(
        self, name: str, given: Any, alice: User
    ) -> None:
        @agent("other")
        async def other(tools: Tools, text: str) -> str:
            return text

        start_run("echo", {"text": "x"}, owner=alice, idempotency_key="k")
        with pytest.raises(IdempotencyMismatch):
            start_run(name, given, owner=alice, idempotency_key="k")
        assert RunRecord.objects.count() == 1

    def test_each_owner_has_separate_keys(self, alice: User, bob: User) -> None:
        one, _ = start_run("echo", {}, owner=alice, idempotency_key="k")
        two, is_new = start_run("echo", {}, owner=bob, idempotency_key="k")
        assert is_new
        assert one.pk != two.pk

    def test_without_a_key_every_run_is_new(self, alice: User) -> None:
        assert len({start_run("echo", {}, owner=alice)[0].pk for _ in range(3)}) == 3

    @pytest.mark.usefixtures("on_both_databases")
    def test_twenty_requests_at_once_start_one_run(self, alice: User) -> None:
        one = partial(start_run, "echo", {"text": "x"}, owner=alice, idempotency_key="k")
        answers = together(*[one] * 20)
        assert {run.pk for run, _ in answers} == {RunRecord.objects.get().pk}
        assert sorted(is_new for _, is_new in answers) == [False] * 19 + [True]

    @pytest.mark.usefixtures("on_both_databases")
    def test_of_two_bodies_at_once_one_is_refused(self, alice: User) -> None:
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


class TestChildren:
    @pytest.fixture
    def parent(self, alice: User) -> Any:
        worker = make_worker()
        run = make_run(alice, status=Status.RUNNING, worker=worker)
        entry = local_runs.ActiveRun(run.pk, worker.pk)
        local_runs.add(entry)
        yield entry
        local_runs._runs.clear()

    def test_are_started_below_their_parent_and_under_its_claim(
        self, parent: Any, alice: User
    ) -> None:
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
    def test_are_not_started_below_a_run_that_should_end(
        self, change: dict[str, Any], parent: Any
    ) -> None:
        RunRecord.objects.filter(pk=parent.id).update(**change)
        with pytest.raises(ParentIsStopping):
            starting.start_child(parent, "echo", {})
        assert RunRecord.objects.count() == 1
        assert len(local_runs.all_runs()) == 1

    def test_are_not_registered_when_their_start_is_refused(
        self, parent: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _refuse_commits(monkeypatch)
        with pytest.raises(OperationalError):
            starting.start_child(parent, "echo", {})
        monkeypatch.undo()
        assert RunRecord.objects.count() == 1
        assert len(local_runs.all_runs()) == 1

    def test_are_no_deeper_than_the_limit(self, parent: Any) -> None:
        entry = parent
        for depth in range(1, starting.MAX_DEPTH):
            record, entry = starting.start_child(entry, "echo", {})
            assert record.depth == depth
        with pytest.raises(AgentCallTooDeep):
            starting.start_child(entry, "echo", {})


def _refuse(*_: Any) -> None:
    raise OperationalError("the database is away")


def _refuse_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", _refuse)
