"""Whatever happens to the workers of a tree: no caller ends before its children."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.runtime import Outcome
from agents.trace import Usage
from runs.actions import leases, recovery, starting, stopping
from runs.actions.finishing import Ending
from runs.actions.progress import Updates, record_updates
from runs.delivery import local_runs
from runs.delivery.local_runs import ActiveRun
from runs.exceptions import ParentIsStopping, RunAlreadyFinished
from runs.models import RunRecord, WorkerRecord
from runs.status import ACTIVE, TERMINAL, Status
from tests.support.rows import make_run, make_worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("agents")]

STEPS = ("start_child", "queue", "claim", "adopt", "stop", "end", "lose", "recover")


@pytest.fixture
def agents() -> None:
    from agents import Tools, agent

    @agent("again", on_worker_loss="requeue", max_attempts=3)
    async def again(tools: Tools) -> None:
        """Never executed here."""


class World:
    """A tree, three workers that are only records, and possible events."""

    def __init__(self, owner: User, seed: int) -> None:
        self.random = random.Random(seed)
        self.owner = owner
        self.workers = [make_worker().pk for _ in range(3)]
        options = {"agent": "again", "requeue_on_loss": True, "max_attempts": 3}
        self.root = make_run(owner, **options)

    def some(self, **condition: Any) -> RunRecord | None:
        found = list(RunRecord.objects.filter(root=self.root.pk, **condition).order_by("pk"))
        return self.random.choice(found) if found else None

    def held(self) -> ActiveRun | None:
        """Return a running run as its worker's process has it; the claim may be lost by now."""
        run = self.some(status=Status.RUNNING)
        if run is None or run.worker_id is None:
            return None
        return local_runs.get(run.pk) or ActiveRun(run.pk, run.worker_id, run.attempt)

    def start_child(self) -> None:
        self._add_child(starting.start_child)

    def queue(self) -> None:
        self._add_child(starting.queue_child)

    def _add_child(self, add: Callable[[ActiveRun, str, object], Any]) -> None:
        if (caller := self.held()) is None or RunRecord.objects.count() > 12:
            return
        try:
            add(caller, "again", {})
        except ParentIsStopping:
            return

    def claim(self) -> None:
        leases.claim(self.random.choice(self.workers), 2)

    def adopt(self) -> None:
        queued = self.some(status=Status.QUEUED, parent__isnull=False)
        if queued is not None and queued.parent is not None and queued.parent.worker_id:
            caller = ActiveRun(queued.parent.pk, queued.parent.worker_id, queued.parent.attempt)
            leases.adopt(caller, queued.pk)

    def stop(self) -> None:
        run = self.some(status__in=ACTIVE)
        if run is not None and self.random.random() < 0.3:
            stopping.request_stop(run.pk, via="api", by=self.owner)  # type: ignore[arg-type]

    def end(self) -> None:
        """End a run's code, whether or not it has active children."""
        if (entry := self.held()) is None:
            return
        record = RunRecord.objects.get(pk=entry.id)
        kinds: list[Any] = ["success", "error", "interrupted"]
        kind = "stopped" if record.stop_requested else self.random.choice(kinds)
        error: Any = {"code": "x", "type": "X", "message": "x"} if kind == "error" else None
        ending = Ending(Outcome(kind, error=error), None, 0, 0)
        at = record.stop_requested_at
        updates = Updates(
            entry.id, entry.worker, entry.attempt,
            usage=Usage(), acknowledged_at=at, observed_at=at, ending=ending,
        )  # fmt: skip
        record_updates([updates])
        local_runs.remove(entry.id)

    def lose(self) -> None:
        if self.random.random() < 0.5:
            return
        lost = self.workers.pop(self.random.randrange(len(self.workers)))
        WorkerRecord.objects.filter(pk=lost).update(lost_at=timezone.now())
        self.workers.append(make_worker().pk)

    def recover(self) -> None:
        recovery.recover_runs(limit=self.random.choice([1, 2, 200]))
        for worker in self.workers:
            recovery.recover_orphans(worker)

    def check(self) -> None:
        records = {record.pk: record for record in RunRecord.objects.all()}
        for record in records.values():
            above = records.get(record.parent_id) if record.parent_id else None
            if above is not None and record.status not in TERMINAL:
                assert above.status == Status.RUNNING, f"{above.status} above {record.status}"
            if above is not None and record.status in TERMINAL and above.status in TERMINAL:
                assert record.finished_at <= above.finished_at  # type: ignore[operator]

    def finish(self) -> None:
        """Let all runs end: none may be stuck."""
        for _ in range(200):
            if not RunRecord.objects.filter(status__in=ACTIVE).exists():
                return
            self.claim()
            self.end()
            self.recover()
            self.check()
        left = list(RunRecord.objects.filter(status__in=ACTIVE).values_list("depth", "status"))
        raise AssertionError(f"stuck: {left}")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=40), seed=st.integers(0, 10**6))
def test_children_end_before_their_callers(alice: User, steps: list[str], seed: int) -> None:
    world = World(alice, seed)
    try:
        world.claim()
        for step in steps:
            try:
                getattr(world, step)()
            except RunAlreadyFinished:
                continue
            world.check()
        world.finish()
    finally:
        local_runs._runs.clear()
        RunRecord.objects.all().delete()
        WorkerRecord.objects.all().delete()
