"""A worker that lost its lease may get a run again while its first attempt still unwinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone

from agents import Tools, agent
from runs.actions import recovery
from runs.models import WorkerRecord
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


@pytest.mark.parametrize("who_first", ["old", "new"])
def test_an_attempt_that_unwinds_late_does_not_touch_the_next_one(
    hire: Callable[..., Worker],
    options: Callable[..., None],
    start: Start,
    log: Journal,
    who_first: str,
) -> None:
    options(LEASE_SECONDS=1.5)
    gates = [Gate(), Gate()]
    attempts = iter((0, 1))

    @agent("again", on_worker_loss="requeue", max_attempts=3)
    async def again(tools: Tools) -> str:
        attempt = next(attempts)
        try:
            await gates[attempt].wait()
            tools.log(f"attempt {attempt}")
            await tools.data_store.set("attempt", attempt)
        except BaseException:  # as one must not
            pass
        return f"by attempt {attempt}"

    worker = hire()
    run = start("again")
    gates[0].until_arrived()
    WorkerRecord.objects.filter(pk=worker.id).update(lost_at=timezone.now())
    assert recovery.recover_runs() == 1
    gates[1].until_arrived()  # the same process, as another worker

    first, second = gates if who_first == "old" else reversed(gates)
    first.open()
    if who_first == "old":
        eventually(lambda: worker.executor.root_count == 1, "the first attempt is over")
    else:
        log.over(run)
    second.open()
    log.over(run)
    record = assert_consistent(run)
    assert (record.status, record.attempt) == ("success", 2)
    assert record.result == "by attempt 1"
