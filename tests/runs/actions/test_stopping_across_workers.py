"""A stop of a tree whose runs are on several workers: all of these workers receive it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from runs.actions import stopping
from runs.delivery import local_runs, notify
from runs.delivery.local_runs import ActiveRun
from runs.delivery.stop_message import StopDelivery
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from tests.support.consistency import assert_consistent
from tests.support.rows import make_run, make_worker, requested

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def far(alice: User) -> WorkerRecord:
    return make_worker(name="far")


@pytest.fixture
def farther(alice: User) -> WorkerRecord:
    return make_worker(name="farther")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[uuid.UUID, set[uuid.UUID]]:
    """The stop messages to each other worker."""
    sent: dict[uuid.UUID, set[uuid.UUID]] = {}

    def send_stops(deliveries: Iterable[StopDelivery]) -> None:
        for delivery in deliveries:
            if delivery.worker is not None:
                sent.setdefault(delivery.worker, set()).add(delivery.run)

    monkeypatch.setattr(notify, "send_stops", send_stops)
    return sent


@pytest.fixture
def here() -> Iterator[Any]:
    """Make a run one of this process."""
    added: list[uuid.UUID] = []

    def add(run: RunRecord) -> ActiveRun:
        assert run.worker_id is not None
        entry = ActiveRun(run.pk, run.worker_id)
        local_runs.add(entry)
        added.append(run.pk)
        return entry

    yield add
    for run in added:
        local_runs.remove(run)


def running(owner: User, worker: WorkerRecord, **fields: Any) -> RunRecord:
    return make_run(owner, status=Status.RUNNING, worker=worker, **fields)


def stop(run: RunRecord, by: User, **plan: float) -> stopping.StopResult:
    return stopping.request_stop(run.pk, via="api", by=by, reason="enough", **plan)  # type: ignore[arg-type]


def test_every_worker_receives_the_stops_of_its_runs(
    alice: User, far: WorkerRecord, farther: WorkerRecord, sent: Any
) -> None:
    root = running(alice, far)
    sibling = running(alice, far, parent=root)
    below = running(alice, farther, parent=root)
    deeper = running(alice, farther, parent=below)
    stop(root, alice)
    assert sent == {far.pk: {root.pk, sibling.pk}, farther.pk: {below.pk, deeper.pk}}


def test_a_child_in_this_process_is_tripped_though_its_caller_is_elsewhere(
    alice: User, far: WorkerRecord, farther: WorkerRecord, sent: Any, here: Any
) -> None:
    root = running(alice, far)
    below = running(alice, farther, parent=root)
    entry = here(below)
    stop(root, alice)
    assert entry.token.stopped
    assert (entry.stop.via, entry.stop.root_request) == ("parent", root.pk)
    assert sent == {far.pk: {root.pk}}


def test_a_second_stop_repeats_messages_that_may_be_lost(
    alice: User, far: WorkerRecord, farther: WorkerRecord, sent: Any
) -> None:
    root = running(alice, far, **requested(alice))
    below = running(alice, farther, parent=root, **requested(alice, stop_via="parent"))
    assert stop(root, alice).outcome == "already_stopping"
    assert sent == {far.pk: {root.pk}, farther.pk: {below.pk}}


def test_so_does_one_that_makes_only_a_plan(
    alice: User, far: WorkerRecord, sent: Any, here: Any
) -> None:
    afar = running(alice, far, **requested(alice))
    assert stop(afar, alice, abort_after=9).outcome == "accepted"
    assert sent == {far.pk: {afar.pk}}
    entry = here(running(alice, far, **requested(alice)))
    stop(RunRecord.objects.get(pk=entry.id), alice, abort_after=9)
    assert entry.token.stopped


def test_a_queued_child_ends_with_the_stop_of_its_root(
    alice: User, far: WorkerRecord, sent: Any
) -> None:
    root = running(alice, far)
    queued = [make_run(alice, parent=root) for _ in range(3)]
    stop(root, alice)
    for child in queued:
        record = assert_consistent(child)
        assert (record.status, record.stop_via) == (Status.STOPPED, "parent")
        assert (record.stop_reason, record.stop_root_request) == ("enough", root.pk)
    assert sent == {far.pk: {root.pk}}, "no message for a run that is over"


def test_a_stop_of_a_child_alone_leaves_its_caller_alone(
    alice: User, far: WorkerRecord, farther: WorkerRecord, sent: Any, here: Any
) -> None:
    root = running(alice, far)
    entry = here(root)
    below = running(alice, farther, parent=root)
    stop(below, alice)
    assert not entry.token.stopped
    assert sent == {farther.pk: {below.pk}}
