"""A claimed run begins: by its claim, or by a write before its code is called."""

from __future__ import annotations

import statistics
import threading
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from agents import SyncTools, Tools, agent
from runs.actions import leases, recovery
from runs.models import RunRecord, WorkerRecord
from runs.status import Status
from runs.worker import heartbeat as heartbeat_module
from runs.worker.claim_loop import ClaimLoop
from runs.worker.watchdog import Watchdog
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal, eventually
from tests.support.running import Gate, Start


@pytest.fixture
def slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the agents' loop look as if an agent blocked it."""
    monkeypatch.setattr(Watchdog, "is_prompt", property(lambda _: False))


@pytest.fixture
def called() -> list[str]:
    calls: list[str] = []

    @agent("once", on_worker_loss="fail")
    async def once(tools: Tools) -> str:
        calls.append("once")
        return "done"

    return calls


@pytest.mark.usefixtures("slow_loop", "on_both_databases")
def test_it_is_written_before_the_code_is_called(
    worker: Worker, start: Start, log: Journal
) -> None:
    seen: list[bool] = []

    @agent("looks")
    def looks(tools: SyncTools) -> None:
        seen.append(RunRecord.objects.get(agent="looks").is_only_claimed)

    assert log.over(start("looks")).status == Status.SUCCESS
    assert seen == [False]


def test_a_run_that_begins_at_once_needs_no_write(
    worker: Worker, start: Start, log: Journal, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "begin", lambda _: pytest.fail("a start has become slower"))
    assert log.over(start("once")).status == Status.SUCCESS


@pytest.mark.usefixtures("slow_loop", "on_both_databases")
def test_a_run_whose_worker_is_lost_before_it_begins_is_never_called_here(
    options: Any, hire: Any, start: Start, log: Journal, called: list[str], monkeypatch: Any
) -> None:
    options(LEASE_SECONDS=1.5)
    gate, begin = Gate(), leases.begin
    answers: list[bool] = []

    def held(entry: Any) -> bool:
        gate.wait_here()
        answers.append(begin(entry))
        return answers[-1]

    monkeypatch.setattr(leases, "begin", held)
    lost = hire().id
    run = start("once")
    gate.until_arrived()
    WorkerRecord.objects.filter(pk=lost).update(lost_at=timezone.now())
    recovery.recover_runs()  # or the worker itself does it
    eventually(lambda: RunRecord.objects.get(pk=run.pk).worker_id != lost, "it is recovered")
    gate.open()
    record = log.over(run)  # the process continues as another worker
    assert (record.status, record.attempt, record.attempts_begun) == (Status.SUCCESS, 2, 1)
    assert answers == [False, True]
    assert called == ["once"]
    assert_consistent(record)


@pytest.mark.usefixtures("on_both_databases")
@pytest.mark.parametrize("is_prompt", [True, False])
def test_a_fenced_worker_gives_back_what_it_has_not_called(
    is_prompt: bool,
    options: Any,
    hire: Any,
    start: Start,
    log: Journal,
    called: list[str],
    monkeypatch: Any,
) -> None:
    options(LEASE_SECONDS=2)
    monkeypatch.setattr(Watchdog, "is_prompt", property(lambda _: is_prompt))
    gate = threading.Event()
    blocks = Gate()

    @agent("blocks", on_worker_loss="fail")
    async def blocks_the_loop(tools: Tools) -> None:
        blocks.arrive()
        gate.wait(10)

    worker = hire()
    start("blocks")
    blocks.until_arrived()
    waiting = start("once")
    eventually(lambda: RunRecord.objects.get(pk=waiting.pk).status == Status.RUNNING, "claimed")
    heartbeat_module._end(worker.heartbeat.lease, "the lease could not be renewed in time")
    gate.set()
    record = log.over(waiting)
    assert (record.status, record.attempt, record.attempts_begun) == (Status.SUCCESS, 2, 1)
    assert called == ["once"]


class TestAClaimLoop:
    def test_claims_nothing_while_a_renewal_is_overdue(
        self, options: Any, hire: Any, start: Start, log: Journal, called: Any, monkeypatch: Any
    ) -> None:
        options(LEASE_SECONDS=6)
        gate, claims = Gate(), list[bool]()
        renew, claim_some = leases.renew, ClaimLoop.claim_some

        def hang(*arguments: Any, **options: Any) -> bool:
            gate.wait_here()
            return renew(*arguments, **options)

        def note(self: ClaimLoop, *arguments: Any) -> bool:
            claims.append(self.has_capacity)
            return claim_some(self, *arguments)

        worker = hire()
        monkeypatch.setattr(leases, "renew", hang)
        monkeypatch.setattr(ClaimLoop, "claim_some", note)
        worker.heartbeat.next_renewal = 0
        worker.heartbeat.poll()
        gate.until_arrived()
        worker.heartbeat._claims_until = 0  # half of the lease is over
        run = start("once")
        claims.clear()
        worker.wake()
        eventually(lambda: len(claims) > 0, "it has polled the queue")
        assert not any(claims), "other workers get the message"
        assert RunRecord.objects.get(pk=run.pk).status == Status.QUEUED
        gate.open()
        assert log.over(run).status == Status.SUCCESS, "it claims as soon as it has renewed"

    def test_renews_before_it_is_overdue(self, options: Any, hire: Any) -> None:
        """However short the lease, and long the pause between two polls."""
        options(LEASE_SECONDS=1)
        worker = hire()
        renewals: list[float] = []
        heartbeat = worker.heartbeat
        first = heartbeat.next_renewal

        def has_renewed() -> bool:
            renewals.append(heartbeat.next_renewal)
            return renewals[-1] > first + 1

        eventually(has_renewed, "it has renewed three times")
        # A poll every half a second would be too late for a renewal every third of a second.
        assert statistics.median(b - a for a, b in pairwise(sorted(set(renewals)))) < 0.45
