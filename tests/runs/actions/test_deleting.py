"""Runs that are deleted by code, with their owner or by themselves: they stop at the commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import RequestFactory

from agents import Tools, agent, check_should_stop
from agents.cancellation import StopCause, StopMode
from runs.delivery import local_runs, notify, stops
from runs.identity import actors
from runs.identity.models import Act, AuditEntry
from runs.models import RunEvent, RunRecord
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.journal import Journal, eventually
from tests.support.rows import make_run, make_worker
from tests.support.running import Start

pytestmark = pytest.mark.usefixtures("on_both_databases")


class Witness:
    """Outside the books: when code of a run did its last step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.has_left = False

    def is_silent(self) -> bool:
        return self.has_left and time.monotonic() - self.steps[-1] > 0.2


@pytest.fixture
def witness() -> Witness:
    """Of the agent ``works``, which writes nothing: so its recorder does not find the deletion."""
    witness = Witness()

    @agent("works", on_worker_loss="requeue", max_attempts=3)
    async def works(tools: Tools, is_waiting: bool = False) -> None:
        try:
            while True:
                witness.steps.append(time.monotonic())
                await asyncio.sleep(0.01)
                if not is_waiting:
                    check_should_stop()
        finally:
            witness.has_left = True

    return witness


def by_user(user: User) -> None:
    user.delete()


def by_users(user: User) -> None:
    User.objects.filter(pk=user.pk).delete()


def by_run(user: User) -> None:
    user.runs.get().delete()


def by_runs(user: User) -> None:
    RunRecord.objects.filter(owner=user).delete()


def by_sql(user: User) -> None:
    """No code is told; a worker finds it."""
    with transaction.atomic(), connection.cursor() as cursor:
        runs = RunRecord.objects.select_for_update().filter(owner=user)
        ids = [run.pk for run in runs]  # locked: the recorder adds no event in between
        cursor.execute("DELETE FROM runs_runevent")
        cursor.execute("DELETE FROM runs_runinput")
        RunRecord.objects.filter(pk__in=ids)._raw_delete("default")


@pytest.mark.parametrize("delete", [by_user, by_users, by_run, by_runs, by_sql])
def test_code_of_a_deleted_run_stops_within_a_second(
    alice: User,
    worker: Worker,
    start: Start,
    log: Journal,
    witness: Witness,
    delete: Callable[[User], None],
) -> None:
    run = start("works")
    log.until_event(run, "agent_start")
    entry = local_runs.get(run.pk)
    assert entry is not None
    delete(alice)
    deleted_at = time.monotonic()
    eventually(witness.is_silent, "the code has left")
    assert witness.steps[-1] - deleted_at < 10, "the worker looks twice a second"
    is_told = delete is not by_sql
    assert entry.token.cause is (StopCause.REQUEST if is_told else StopCause.SHUTDOWN)
    assert AuditEntry.objects.filter(act=Act.STOP).count() == is_told
    assert not RunRecord.objects.exists()
    assert not RunEvent.objects.exists()
    eventually(lambda: local_runs.get(run.pk) is None, "the run has left the process")


@pytest.mark.parametrize("delete", [by_user, by_run])
def test_a_deletion_whose_message_was_lost_is_found_by_the_worker(
    alice: User,
    worker: Worker,
    start: Start,
    log: Journal,
    witness: Witness,
    delete: Callable[[User], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = start("works")
    log.until_event(run, "agent_start")
    entry = local_runs.get(run.pk)
    assert entry is not None
    monkeypatch.setattr(stops, "deliver", lambda deliveries: None)
    delete(alice)
    deleted_at = time.monotonic()
    eventually(witness.is_silent, "the code has left")
    assert witness.steps[-1] - deleted_at < 1
    assert (entry.token.mode, entry.token.reason) == (StopMode.ABORT, "the claim was lost")


def test_a_run_that_waits_is_stopped_harder_when_its_record_is_gone(
    alice: User, worker: Worker, start: Start, log: Journal, witness: Witness
) -> None:
    """No button is left that could do it."""
    run = start("works", is_waiting=True)
    log.until_event(run, "agent_start")
    entry = local_runs.get(run.pk)
    assert entry is not None
    modes: list[StopMode | None] = []
    entry.token.add_callback(lambda token: modes.append(token.mode))
    alice.delete()
    eventually(lambda: len(modes) == 2, "the worker has looked")
    assert modes == [StopMode.GRACEFUL, StopMode.ABORT]
    assert entry.token.cause is StopCause.REQUEST
    with local_runs.watching(run.pk) as gone:
        worker.executor.cancel_all()
        assert gone.wait(10)


def test_a_deletion_that_is_rolled_back_stops_nothing(
    alice: User, worker: Worker, start: Start, log: Journal, witness: Witness
) -> None:
    run = start("works")
    log.until_event(run, "agent_start")
    with transaction.atomic():
        User.objects.get(pk=alice.pk).delete()
        transaction.set_rollback(True)
    entry = local_runs.get(run.pk)
    assert entry is not None
    assert not entry.token.stopped
    assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None
    RunRecord.objects.get(pk=run.pk).delete()
    eventually(witness.is_silent, "the code has left")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, str]]:
    """The stops that are sent to other processes."""
    sent: list[tuple[object, str]] = []

    def note(deliveries: object) -> None:
        sent.extend((each.run, each.request.reason) for each in deliveries)  # type: ignore[attr-defined]

    monkeypatch.setattr(notify, "send_stops", note)
    return sent


def test_runs_elsewhere_get_a_message_and_queued_ones_just_go(
    alice: User, sent: list[tuple[object, str]]
) -> None:
    worker = make_worker()
    root = make_run(alice, status=Status.RUNNING, worker=worker)
    below = make_run(alice, status=Status.RUNNING, worker=worker, parent=root)
    queued, over = make_run(alice), make_run(alice, status=Status.SUCCESS)
    alice.delete()
    reason = "the owner's account was deleted"
    assert set(sent) >= {(root.pk, reason), (below.pk, reason)}
    assert over.pk not in {run for run, _ in sent}
    assert not RunRecord.objects.exists()
    subjects = set(AuditEntry.objects.filter(act=Act.STOP).values_list("subject", flat=True))
    assert {str(root), str(queued)} <= subjects
    assert str(over) not in subjects


def test_a_run_above_goes_on_when_one_below_is_deleted(
    alice: User, sent: list[tuple[object, str]]
) -> None:
    worker = make_worker()
    root = make_run(alice, status=Status.RUNNING, worker=worker)
    middle = make_run(alice, status=Status.RUNNING, worker=worker, parent=root)
    lowest = make_run(alice, status=Status.RUNNING, worker=worker, parent=middle)
    ids = {middle.pk, lowest.pk}
    middle.delete()
    assert {run for run, _ in sent} == ids
    assert {reason for _, reason in sent} == {"the run was deleted"}
    root.refresh_from_db()
    assert root.stop_requested_at is None


def test_a_run_that_is_claimed_while_it_is_deleted_is_stopped_as_well(
    alice: User, sent: list[tuple[object, str]]
) -> None:
    """The copy of the record that is deleted still says that it is queued."""
    copy = make_run(alice)
    now = RunRecord.objects.filter(pk=copy.pk)
    worker = make_worker()
    now.update(status=Status.RUNNING, worker=worker, attempt=1, started_at=copy.created_at)
    id = copy.pk
    copy.delete()
    assert [run for run, _ in sent] == [id]


def test_a_run_that_ended_while_it_is_deleted_just_goes(
    alice: User, sent: list[tuple[object, str]]
) -> None:
    copy = make_run(alice)
    now = RunRecord.objects.filter(pk=copy.pk)
    now.update(
        status=Status.STOPPED, stop_requested_at=copy.created_at, finished_at=copy.created_at
    )
    copy.delete()
    assert sent == []
    assert not AuditEntry.objects.filter(act=Act.STOP).exists()


def test_the_audit_log_names_who_deletes(alice: User, bob: User) -> None:
    make_run(alice)
    request = RequestFactory().get("/")
    request.user = bob
    reset = actors._request.set(request)
    try:
        alice.delete()
    finally:
        actors._request.reset(reset)
    entry = AuditEntry.objects.get(act=Act.STOP)
    assert (entry.actor, "Via: admin." in entry.detail) == ("bob", True)


def test_a_user_may_delete_the_own_account(alice: User) -> None:
    """Nothing that the stop writes may point to who is deleted."""
    make_run(alice)
    request = RequestFactory().get("/")
    request.user = alice
    reset = actors._request.set(request)
    try:
        User.objects.get(pk=alice.pk).delete()
    finally:
        actors._request.reset(reset)
    assert AuditEntry.objects.get(act=Act.STOP).actor == "alice"
    assert not RunRecord.objects.exists()
