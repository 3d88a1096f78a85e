"""Limits of an agent and of an owner, over all processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from agents import Tools, agent
from runs.models import RunRecord, WorkerRecord
from runs.queue import claims
from runs.queue.claims import QueueIsBusy
from runs.queue.limits import Limits, Obstacle, limits, taken_slots
from runs.status import Status
from runs.worker.worker import Worker
from tests.support.consistency import assert_all_consistent
from tests.support.rows import make_run, make_worker
from tests.support.running import Gate, Start, in_thread, together
from tests.support.server import eventually

pytestmark = pytest.mark.usefixtures("on_both_databases", "transactional_db")

TWO_OF_MADE = Limits({"made": 2})


def claim(worker: WorkerRecord, count: int, allowed: Limits) -> set[Any]:
    """Claim as a worker with capacity for ``count`` runs does."""
    claimed: set[Any] = set()
    while count > len(claimed):
        try:
            some = claims.claim(worker.pk, count - len(claimed), timezone.now(), allowed)
        except QueueIsBusy:
            continue
        if not some:
            break
        claimed |= set(some)
    return claimed


def running(**fields: Any) -> int:
    return RunRecord.objects.filter(status=Status.RUNNING, holds_slot=True, **fields).count()


class TestClaims:
    def test_leave_out_an_agent_at_its_limit(self, alice: User) -> None:
        made = [make_run(alice, turn=n) for n in range(4)]
        other = make_run(alice, agent="other", turn=9)
        worker = make_worker()
        assert claim(worker, 10, TWO_OF_MADE) == {made[0].pk, made[1].pk, other.pk}
        assert claim(worker, 10, TWO_OF_MADE) == set()
        RunRecord.objects.filter(pk=made[0].pk).update(
            status=Status.SUCCESS, finished_at=timezone.now()
        )
        assert claim(worker, 10, TWO_OF_MADE) == {made[2].pk}

    def test_leave_out_an_owner_at_the_limit(self, alice: User, bob: User) -> None:
        for owner in (alice, alice, alice, bob):
            make_run(owner)
        assert len(claim(make_worker(), 10, Limits(per_owner=2))) == 3
        assert (running(owner=alice), running(owner=bob)) == (2, 1)

    def test_keep_the_order_of_the_runs_that_may_start(self, alice: User, bob: User) -> None:
        make_run(alice, status=Status.RUNNING)
        low = make_run(bob, turn=1)
        mine = make_run(alice, turn=2, priority=5)
        high = make_run(bob, turn=3, priority=1)
        worker, allowed = make_worker(), Limits(per_owner=1)
        assert claim(worker, 1, allowed) == {high.pk}
        assert claim(worker, 1, Limits(per_owner=2)) == {mine.pk}
        assert claim(worker, 5, Limits(per_owner=2)) == {low.pk}

    def test_do_not_count_a_run_in_its_callers_process(self, alice: User) -> None:
        parent = make_run(alice, status=Status.RUNNING, agent="caller")
        make = partial(make_run, alice, parent=parent, holds_slot=False)
        for _ in range(3):
            make(status=Status.RUNNING)
        mine = make_run(alice)
        assert claim(make_worker(), 10, Limits({"made": 1}, per_owner=2)) == {mine.pk}

    def test_are_not_limited_if_they_take_no_slot(self, alice: User) -> None:
        full = make_run(alice, status=Status.RUNNING)
        child = make_run(alice, parent=full, holds_slot=False)
        make_run(alice)
        assert claim(make_worker(), 10, Limits({"made": 1}, per_owner=1)) == {child.pk}

    def test_by_many_at_once_never_take_more(self, alice: User) -> None:
        workers = [make_worker() for _ in range(6)]
        for _ in range(8):
            RunRecord.objects.all().delete()
            for _ in range(20):
                make_run(alice)
                make_run(alice, agent="other")
            shares = together(
                *[partial(claim, worker, 3, Limits({"made": 4, "other": 3})) for worker in workers]
            )
            assert not [share for share in shares if isinstance(share, Exception)]
            assert (running(agent="made"), running(agent="other")) == (4, 3)

    def test_of_a_lost_worker_get_nothing(self, alice: User) -> None:
        make_run(alice)
        assert not claim(make_worker(lost_at=timezone.now()), 10, TWO_OF_MADE)


@contextmanager
def another_choosing() -> Iterator[None]:
    """Keep another claim open, in the middle of it."""
    chooses, is_done = threading.Event(), threading.Event()

    def choose() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(claims._ALONE, [claims._ALONE_KEY])
            assert cursor.fetchone()[-1]
            chooses.set()
            assert is_done.wait(10)

    with in_thread(choose):
        assert chooses.wait(10)
        try:
            yield
        finally:
            is_done.set()


@pytest.mark.postgres
class TestBusy:
    def test_is_the_answer_while_another_worker_chooses(self, alice: User) -> None:
        make_run(alice)
        worker = make_worker()
        with another_choosing(), pytest.raises(QueueIsBusy):
            claims.claim(worker.pk, 1, timezone.now(), TWO_OF_MADE)
        assert len(claim(worker, 1, TWO_OF_MADE)) == 1

    def test_is_not_the_answer_without_limits_or_queued_runs(self, alice: User) -> None:
        worker = make_worker()
        with another_choosing():
            assert claims.claim(worker.pk, 1, timezone.now(), TWO_OF_MADE) == {}
            make_run(alice)
            assert len(claims.claim(worker.pk, 1, timezone.now())) == 1

    def test_ends_soon_if_the_choosing_worker_is_frozen(self) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(claims._ALONE, [claims._ALONE_KEY])
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            assert cursor.fetchone() == ("5s",)

    def test_a_worker_retries(self, start: Start, hire: Callable[..., Worker]) -> None:
        @agent("alone", max_concurrent=1)
        async def alone(tools: Tools) -> None: ...

        with another_choosing():
            run = start("alone")
            hire()
        eventually(lambda: RunRecord.objects.get(pk=run.pk).status == Status.SUCCESS)


def test_limits_come_from_agents_and_settings(options: Callable[..., None]) -> None:
    assert not limits()

    @agent("narrow", max_concurrent=3)
    async def narrow(tools: Tools) -> None: ...

    assert limits() == Limits({"narrow": 3})
    options(MAX_PER_OWNER=2)
    assert limits() == Limits({"narrow": 3}, per_owner=2)


def test_an_obstacle_names_its_limit(alice: User, bob: User) -> None:
    for _ in range(2):
        make_run(alice, status=Status.RUNNING)
    slots = taken_slots(Limits({"made": 2}, per_owner=2))
    assert slots.obstacle("made", bob.pk) == Obstacle("agent", 2, 2)
    assert slots.obstacle("other", alice.pk) == Obstacle("owner", 2, 2)
    assert slots.obstacle("other", bob.pk) is None


def test_two_workers_keep_an_agents_limit_and_start_the_next_run_after_an_end(
    start: Start, hire: Callable[..., Worker]
) -> None:
    gate = Gate()
    going_on: list[int] = []
    count = 0

    @agent("narrow", max_concurrent=2)
    async def narrow(tools: Tools) -> str:
        nonlocal count
        count += 1
        going_on.append(count)
        await gate.wait()
        result = await tools.agents.call("narrow-inside")
        count -= 1
        return str(result)

    @agent("narrow-inside", max_concurrent=1)
    async def inside(tools: Tools) -> str:
        return "done"

    hire(), hire()
    runs = [start("narrow") for _ in range(6)]
    gate.until_arrived(2)
    assert running(agent="narrow") == 2
    gate.open()
    ids = [run.pk for run in runs]
    eventually(lambda: not RunRecord.objects.active().filter(pk__in=ids).exists())
    assert {record.status for record in assert_all_consistent()} == {Status.SUCCESS}
    assert max(going_on) == 2


def test_an_owner_leaves_some_capacity_to_others(
    start: Start, hire: Callable[..., Worker], options: Callable[..., None], bob: User
) -> None:
    gate = Gate()

    @agent("waits")
    async def waits(tools: Tools) -> None:
        await gate.wait()

    options(MAX_PER_OWNER=2)
    for _ in range(5):
        start("waits")
    theirs = start("waits", owner=bob)
    hire()
    gate.until_arrived(3)
    assert RunRecord.objects.get(pk=theirs.pk).status == Status.RUNNING
    assert RunRecord.objects.filter(status=Status.QUEUED).count() == 3
    gate.open()
    eventually(lambda: not RunRecord.objects.active().exists())
    assert_all_consistent()
