"""Start, read and stop runs from Python: as the API does, in and out of transactions and loops."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Permission, User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.utils import timezone

import runs
from agents.exceptions import AgentNotFound, InvalidInput
from runs import client
from runs.delivery import local_runs
from runs.exceptions import (
    IdempotencyMismatch,
    LimitsNotPermitted,
    PriorityNotPermitted,
    QuotaExceeded,
    RunAlreadyFinished,
    StopNotPermitted,
)
from runs.identity.models import AuditEntry
from runs.models import RunRecord
from runs.status import Status
from tests.support.journal import Journal
from tests.support.rows import make_run, make_worker

from .conftest import Do

pytestmark = pytest.mark.usefixtures("echo", "on_both_databases")


class TestStart:
    @pytest.mark.usefixtures("worker")
    def test_queues_a_run_that_a_worker_executes(self, alice: User, log: Journal) -> None:
        run = runs.start("echo", {"text": "hello"}, owner=alice)

        assert (run.status, run.owner, run.input_record.value) == (
            "queued",
            alice,
            {"text": "hello"},
        )
        assert log.over(run).result == "hello"

    def test_may_leave_out_an_input_of_defaults(self, alice: User) -> None:
        assert runs.start("echo", owner=alice).input_record.value == {}

    def test_with_a_key_returns_the_run_that_there_is(self, alice: User) -> None:
        run = runs.start("echo", {"text": "x"}, owner=alice, idempotency_key="order 7")
        again = runs.start("echo", {"text": "x"}, owner=alice, idempotency_key="order 7")

        assert again == run
        assert RunRecord.objects.count() == 1
        with pytest.raises(IdempotencyMismatch):
            runs.start("echo", {"text": "y"}, owner=alice, idempotency_key="order 7")

    @pytest.mark.parametrize("key", ["", "ä", " x", "x\n", "x" * 256])
    def test_refuses_a_key_that_no_header_could_carry(self, alice: User, key: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            runs.start("echo", owner=alice, idempotency_key=key)
        assert list(refused.value.fields) == ["idempotency_key"]

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"agent": "unknown"}, AgentNotFound),
            ({"input": {"text": 1}}, InvalidInput),
            ({"input": {"text": b"x"}}, InvalidInput),
            ({"input": {"other": "x"}}, InvalidInput),
            ({"priority": 99_999}, InvalidInput),
            ({"priority": 1}, PriorityNotPermitted),
            ({"limits": {"deadline_seconds": -1}}, InvalidInput),
            ({"limits": {"deadline_seconds": 1000}}, LimitsNotPermitted),
        ],
    )
    def test_refuses_what_the_api_refuses(
        self, alice: User, given: dict[str, Any], error: type[Exception], options: Any
    ) -> None:
        options(DEADLINE_SECONDS=100)
        with pytest.raises(error):
            runs.start(**{"agent": "echo", "owner": alice, **given})
        assert not RunRecord.objects.exists()

    def test_refuses_what_the_owner_has_no_quota_for(self, alice: User, options: Any) -> None:
        options(MAX_QUEUED_PER_OWNER=1)
        runs.start("echo", owner=alice)
        with pytest.raises(QuotaExceeded):
            runs.start("echo", owner=alice)

    def test_takes_limits_and_a_priority(self, alice: User) -> None:
        run = runs.start("echo", owner=alice, priority=-5, limits={"idle_seconds": 7})

        run.refresh_from_db()
        assert (run.priority, run.idle_seconds, run.deadline_seconds) == (-5, 7, None)

    def test_in_a_transaction_wakes_workers_with_the_commit(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1) or True])
        with transaction.atomic():
            runs.start("echo", owner=alice)
            assert not woken
        assert woken == [1]

    def test_in_a_transaction_that_rolls_back_leaves_nothing(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[int] = []
        monkeypatch.setattr(local_runs, "_wakers", [lambda: woken.append(1) or True])
        with transaction.atomic():
            runs.start("echo", owner=alice)
            transaction.set_rollback(True)

        assert not RunRecord.objects.exists()
        assert not woken

    def test_that_is_refused_leaves_the_transaction_usable(self, alice: User) -> None:
        with transaction.atomic():
            with pytest.raises(InvalidInput):
                runs.start("echo", {"text": 1}, owner=alice)
            run = runs.start("echo", owner=alice, idempotency_key="k")
            with pytest.raises(IdempotencyMismatch):
                runs.start("echo", {"text": "y"}, owner=alice, idempotency_key="k")
        assert RunRecord.objects.get() == run

    def test_can_not_be_called_on_a_loop(self, alice: User, do: Do[Any]) -> None:
        async def work() -> None:
            with pytest.raises(SynchronousOnlyOperation):
                runs.start("echo", owner=alice)

        do(work())

    @pytest.mark.usefixtures("worker")
    def test_in_async_code_outlives_the_loop(
        self, alice: User, log: Journal, do: Do[RunRecord]
    ) -> None:
        run = do(runs.astart("echo", {"text": "hello"}, owner=alice))
        assert log.over(run).result == "hello"

        run = async_to_sync(runs.astart)("echo", {"text": "again"}, owner=alice)
        assert log.over(run).result == "again"


class TestStartMany:
    @pytest.mark.usefixtures("worker")
    @pytest.mark.parametrize("where", ["in a thread", "on a loop"])
    def test_starts_each_that_is_not_refused(
        self, where: str, alice: User, log: Journal, do: Do[Any]
    ) -> None:
        before = runs.start("echo", {"text": "before"}, owner=alice, idempotency_key="k")
        starts = [
            runs.Start("echo", {"text": "first"}),
            runs.Start("unknown", {}),
            runs.Start("echo", {"text": "before"}, idempotency_key="k"),
            runs.Start("echo", {"text": "last"}, priority=-1),
        ]
        if where == "in a thread":
            outcomes = runs.start_many(starts, owner=alice)
        else:
            outcomes = do(runs.astart_many(starts, owner=alice))
        first, refused, known, last = outcomes

        assert [one.is_new for one in (first, refused, known, last)] == [True, False, False, True]
        assert (refused.run, type(refused.error)) == (None, AgentNotFound)
        assert (known.run, known.error) == (before, None)
        assert [log.over(one.run).result for one in (first, last)] == ["first", "last"]

    def test_in_a_transaction_they_start_with_the_commit(self, alice: User) -> None:
        with transaction.atomic():
            runs.start_many([runs.Start("echo", {})] * 3, owner=alice)
            transaction.set_rollback(True)
        assert not RunRecord.objects.exists()


class TestStop:
    @pytest.fixture
    def running(self, alice: User) -> RunRecord:
        return make_run(alice, status=Status.RUNNING, worker=make_worker())

    def test_by_the_site_itself_has_no_requester(self, running: RunRecord) -> None:
        run = runs.stop(running, reason="sold out")

        assert (run.pk, run.shown_status) == (running.pk, "stopping")
        assert (run.stop_via, run.stop_requester, run.stop_reason) == ("api", None, "sold out")
        entry = AuditEntry.objects.get(act="stop")
        assert (entry.actor, entry.subject) == ("", str(running))

    def test_by_a_user_names_the_user(self, running: RunRecord, alice: User) -> None:
        run = runs.stop(running.pk, by=alice, mode="abort")

        assert (run.stop_requester, run.stop_mode) == ("alice", "abort")

    def test_by_a_user_needs_the_users_rights(
        self, running: RunRecord, bob: User, operator: User
    ) -> None:
        with pytest.raises(RunRecord.DoesNotExist):
            runs.stop(running, by=bob)
        bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
        with pytest.raises(StopNotPermitted):
            runs.stop(running, by=User.objects.get(pk=bob.pk))
        assert not RunRecord.objects.get().stop_requested

        assert runs.stop(running, by=operator).stop_requester == "operator"

    def test_of_a_queued_run_ends_it(self, alice: User) -> None:
        assert runs.stop(str(make_run(alice).pk)).status == "stopped"

    def test_of_a_run_that_is_over_is_refused(self, alice: User) -> None:
        run = make_run(alice, status=Status.SUCCESS)
        with pytest.raises(RunAlreadyFinished) as refused:
            runs.stop(run)
        assert refused.value.run == run

    @pytest.mark.parametrize(
        "given", [{"mode": "kill"}, {"reason": "x" * 501}, {"abort_after": -1}]
    )
    def test_refuses_what_is_no_stop(self, running: RunRecord, given: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            runs.stop(running, **given)

    def test_takes_a_plan(self, running: RunRecord) -> None:
        run = runs.stop(running, abort_after=10, abandon_after=60)

        assert run.stop_abort_at is not None
        assert run.stop_abandon_at is not None
        assert (run.stop_abandon_at - run.stop_abort_at).total_seconds() == 50

    def test_that_is_rolled_back_is_none(self, running: RunRecord) -> None:
        with transaction.atomic():
            runs.stop(running)
            transaction.set_rollback(True)
        assert not RunRecord.objects.get().stop_requested

    def test_in_async_code_says_who_asked(
        self, running: RunRecord, alice: User, operator: User, do: Do[Any]
    ) -> None:
        async def work() -> tuple[str | None, ...]:
            run = await runs.astop(running, by=operator)
            again = await runs.astop(running, by=alice, mode="abort")
            return run.stop_requester, again.stop_requester, again.stop_escalator

        assert do(work()) == ("operator", "operator", "alice")


class TestGet:
    def test_reads_a_run_as_it_is(self, alice: User) -> None:
        run = make_run(alice)
        RunRecord.objects.filter(pk=run.pk).update(
            status="success", started_at=timezone.now(), finished_at=timezone.now()
        )
        for given in (run, run.pk, str(run.pk)):
            assert runs.get(given).status == "success"

    def test_reads_what_a_user_may_see(self, alice: User, bob: User, operator: User) -> None:
        run = make_run(alice)
        assert runs.get(run, visible_to=alice) == runs.get(run, visible_to=operator) == run
        with pytest.raises(RunRecord.DoesNotExist):
            runs.get(run, visible_to=bob)

    @pytest.mark.parametrize("id", ["", "x", str(uuid.uuid4()), uuid.uuid4()])
    def test_of_no_run_says_so(self, transactional_db: None, id: Any) -> None:
        with pytest.raises(RunRecord.DoesNotExist):
            runs.get(id)

    def test_in_async_code_has_all_that_a_run_shows(self, alice: User, do: Do[Any]) -> None:
        run = make_run(alice)

        async def work() -> Any:
            found = await runs.aget(run.pk, visible_to=alice)
            return found.owner.get_username(), found.input_record.value, found.worker

        assert do(work()) == ("alice", {}, None)


class TestThePackage:
    def test_has_the_functions_of_the_client(self) -> None:
        assert set(runs.__all__) == set(client.__all__)
        assert set(client.__all__) <= set(dir(runs))
        assert runs.start is client.start
        with pytest.raises(AttributeError, match="no attribute 'begin'"):
            runs.begin  # type: ignore[attr-defined]  # noqa: B018

    def test_is_imported_without_models(self) -> None:
        package = runs.__name__  # the wheel's is below halting
        code = (
            f"import importlib, sys; runs = importlib.import_module({package!r}); "
            f"print('start' in dir(runs), '{package}.models' in sys.modules)"
        )
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.split() == ["True", "False"], done.stderr
