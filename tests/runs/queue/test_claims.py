"""The queue: which run starts next, on which worker, and how many at a time."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runs import transitions
from runs.db.statements import insert
from runs.models import RunRecord, WorkerRecord, uuid7
from runs.queue import claims, turns
from runs.status import Status
from runs.transitions import Change
from tests.support.rows import make_run, make_worker
from tests.support.running import together

pytestmark = pytest.mark.django_db


def enqueue(owner: User, priority: int = 0, **fields: Any) -> RunRecord:
    """Queue a run of an arbitrary agent, as ``starting.start_run`` does."""
    id = uuid7()
    run = RunRecord(id=id, root_id=id, owner=owner, agent="made", priority=priority, **fields)
    insert(run, turn=turns.next_turn(run))
    run.refresh_from_db()
    return run


def claim_one(worker: WorkerRecord) -> RunRecord | None:
    claimed = claims.claim(worker.pk, 1, timezone.now())
    return RunRecord.objects.get(pk=next(iter(claimed))) if claimed else None


def end(run: RunRecord) -> None:
    fields = {"finished_at": timezone.now()}
    held_by = (run.worker_id, run.attempt)
    assert transitions.apply([Change(run.pk, Status.SUCCESS, held_by, fields)])


@pytest.mark.usefixtures("on_both_databases")
class TestOrder:
    def test_the_highest_priority_comes_first_then_the_oldest(self, alice: User) -> None:
        low, first, high, second = (enqueue(alice, priority) for priority in (-5, 0, 7, 0))
        worker = make_worker()
        claimed = [claim_one(worker) for _ in range(5)]
        assert claimed == [high, first, second, low, None]

    def test_a_hundred_runs_of_one_owner_starve_no_other_owner(
        self, alice: User, bob: User
    ) -> None:
        for _ in range(100):
            enqueue(alice)
        worker = make_worker()
        earlier = claims.claim(worker.pk, 10, timezone.now())
        late = enqueue(bob)
        claimed = [claim_one(worker) for _ in range(2)]
        assert late in claimed
        assert len(earlier) == 10

    def test_a_requeued_run_is_in_front(self, alice: User, bob: User) -> None:
        runs = [enqueue(alice) for _ in range(4)]
        worker = make_worker()
        back = claim_one(worker)
        assert back == runs[0]
        change = Change(back.pk, Status.QUEUED, (worker.pk, 1), {"worker": None})
        assert transitions.apply([change])
        enqueue(bob)
        assert claim_one(worker) == back

    def test_a_run_that_waits_for_a_limit_does_not_reset_the_turns(
        self, alice: User, bob: User
    ) -> None:
        """A run that waits for a limit has an old turn; new owners have none."""
        left = enqueue(alice)
        RunRecord.objects.filter(pk=left.pk).update(turn=1)
        for _ in range(20):
            enqueue(alice)
        RunRecord.objects.filter(turn__lte=12).exclude(pk=left.pk).update(
            status="running", attempt=1, started_at=timezone.now()
        )
        assert enqueue(bob).turn == 12

    def test_turns_restart_when_the_queue_is_empty(self, alice: User) -> None:
        worker = make_worker()
        for _ in range(3):
            enqueue(alice)
        for _ in range(3):
            run = claim_one(worker)
            assert run is not None
            end(run)
        assert enqueue(alice).turn == 1

    def test_runs_that_are_queued_at_the_same_moment_all_get_a_turn(self, alice: User) -> None:
        runs = together(*[partial(enqueue, alice) for _ in range(8)])
        assert all(isinstance(run, RunRecord) and run.turn >= 1 for run in runs)


_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("queue"), st.integers(0, 2), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.just("claim"), st.integers(1, 3)),
        st.tuples(st.just("end"), st.integers(0, 9)),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("on_both_databases")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_ACTIONS)
def test_waiting_owners_are_served_equally(transactional_db: None, actions: list[Any]) -> None:
    """While two owners both wait, one gets at most two more runs than the other.

    That is the bound of start-time fair queueing for runs of equal weight. Each owner's own runs
    start in the order of their arrival, and no run starts before one with a higher priority.
    """
    RunRecord.objects.all().delete()
    owners = [User.objects.get_or_create(username=f"owner-{n}")[0] for n in range(3)]
    worker = make_worker()
    waiting: dict[tuple[int, int], list[uuid.UUID]] = defaultdict(list)  # owner, priority
    lead: Counter[tuple[int, int, int]] = Counter()  # priority, two owners
    bounds: dict[tuple[int, int, int], tuple[int, int]] = {}
    in_service: list[RunRecord] = []
    for kind, *numbers in actions:
        match kind:
            case "queue":
                owner, priority, count = numbers
                for _ in range(count):
                    waiting[owner, priority].append(enqueue(owners[owner], priority).pk)
            case "end" if in_service:
                end(in_service.pop(numbers[0] % len(in_service)))
            case "claim":
                for _ in range(numbers[0]):
                    run = claim_one(worker)
                    if run is None:
                        assert not any(waiting.values())
                        break
                    in_service.append(run)
                    owner, priority = owners.index(run.owner), run.priority
                    assert priority == max(p for (_, p), runs in waiting.items() if runs)
                    both = [
                        (priority, *pair)
                        for pair in itertools.combinations(range(3), 2)
                        if owner in pair and all(waiting[one, priority] for one in pair)
                    ]
                    assert waiting[owner, priority].pop(0) == run.pk
                    for key in both:
                        lead[key] += 1 if owner == key[1] else -1
                        least, most = bounds.get(key, (0, 0))
                        bounds[key] = min(least, lead[key]), max(most, lead[key])
                        assert bounds[key][1] - bounds[key][0] <= 2
        for key in list(bounds):  # an owner without queued runs has no claim to be served
            if not all(waiting[one, key[0]] for one in key[1:]):
                del bounds[key], lead[key]


class TestClaims:
    def test_the_oldest_runs_come_first_and_no_more_than_requested(self, alice: User) -> None:
        runs = [make_run(alice, created_at=timezone.now()) for _ in range(5)]
        worker = make_worker()
        now = timezone.now()
        assert set(claims.claim(worker.pk, 2, now)) == {run.pk for run in runs[:2]}
        assert set(claims.claim(worker.pk, 10, now)) == {run.pk for run in runs[2:]}
        assert list(claims.claim(worker.pk, 10, now)) == []
        claimed = RunRecord.objects.get(pk=runs[0].pk)
        assert (claimed.status, claimed.attempt, claimed.worker_id) == ("running", 1, worker.pk)
        assert claimed.started_at == now

    def test_only_queued_runs_are_claimed(self, alice: User) -> None:
        worker = make_worker()
        for status in Status:
            if status != Status.QUEUED:
                make_run(alice, status=status)
        assert list(claims.claim(worker.pk, 10, timezone.now())) == []

    @pytest.mark.parametrize("state", ["draining_at", "lost_at"])
    def test_a_draining_or_lost_worker_gets_none(self, state: str, alice: User) -> None:
        make_run(alice)
        worker = make_worker(**{state: timezone.now()})
        assert list(claims.claim(worker.pk, 10, timezone.now())) == []


@pytest.mark.usefixtures("on_both_databases")
def test_claims_by_many_at_once_give_each_run_once(alice: User) -> None:
    ids = {make_run(alice).pk for _ in range(100)}
    workers = [make_worker() for _ in range(8)]

    def claim(worker: Any) -> list[Any]:
        mine: list[Any] = []
        while len(found := list(claims.claim(worker.pk, 3, timezone.now()))):
            assert len(found) <= 3
            mine += found
        return mine

    shares = together(*[partial(claim, worker) for worker in workers])
    claimed = list(itertools.chain.from_iterable(shares))
    assert len(claimed) == len(ids)
    assert set(claimed) == ids
    assert set(RunRecord.objects.values_list("attempt", flat=True)) == {1}
