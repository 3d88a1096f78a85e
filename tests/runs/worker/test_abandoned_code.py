"""Code of abandoned runs in a worker: it delays no other run, and its end is noted."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agents import SubAgentStopped, SyncTools, Tools, agent
from agents.cancellation import StopCause, StopMode
from runs.actions import stopping
from runs.delivery import local_runs, stops
from runs.models import RunRecord, WorkerRecord
from runs.ops import metrics_view
from runs.status import Status
from runs.worker import claim_loop
from runs.worker.claim_loop import BLOCKED
from runs.worker.worker import Worker
from tests.support.consistency import assert_consistent
from tests.support.journal import Journal
from tests.support.running import Start
from tests.support.server import eventually


class Stuck:
    """Code that does not come back until the test lets it."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.may_leave = threading.Event()

    def __call__(self) -> None:
        self.reached.release()
        self.may_leave.wait(60)

    def until_reached(self) -> None:
        assert self.reached.acquire(timeout=10), "the code was not reached"


@pytest.fixture
def stuck(hire: Any) -> Iterator[Stuck]:
    """Lets the code leave before the workers are stopped."""
    stuck = Stuck()
    yield stuck
    stuck.may_leave.set()


@pytest.fixture(autouse=True)
def agents_that_get_stuck(stuck: Stuck) -> None:
    @agent("thread")
    def thread(tools: SyncTools) -> str:
        """Gets stuck in its thread."""
        stuck()
        return "late"

    @agent("native")
    def native(tools: SyncTools) -> str:
        """Gets stuck in a C function, which lets other threads run."""
        end, other_end = os.pipe()
        leaving = threading.Thread(target=lambda: (stuck(), os.write(other_end, b"x")))
        leaving.start()
        ctypes.CDLL(None).read(end, ctypes.create_string_buffer(1), 1)
        leaving.join()
        os.close(end)
        os.close(other_end)
        tools.log("late")
        return "late"

    @agent("loop")
    async def loop(tools: Tools) -> str:
        """Gets stuck on the agents' loop."""
        stuck()
        return "late"

    @agent("caller")
    async def caller(tools: Tools) -> str:
        try:
            await tools.agents.call("thread")
        except SubAgentStopped as error:
            return f"without {error.agent}"
        return "with it"

    @agent("plain")
    async def plain(tools: Tools) -> str:
        return "done"


@pytest.fixture
def abandon(stuck: Stuck, stop: Any) -> Callable[[RunRecord], RunRecord]:
    def abandon(run: RunRecord) -> RunRecord:
        stuck.until_reached()
        assert stop(run, mode="abandon").run.status == Status.STOPPED
        return assert_consistent(run)

    return abandon


def left_behind(run: RunRecord) -> dict[str, Any]:
    [left] = RunRecord.objects.get(pk=run.pk).stop_left_behind or []
    return dict(left)


def has_ended(run: RunRecord) -> bool:
    return bool(left_behind(run)["ended_at"])


def row(worker: Worker) -> WorkerRecord:
    return WorkerRecord.objects.get(pk=worker.id)


@pytest.mark.parametrize("agent", ["thread", "native"])
def test_a_run_is_over_and_its_end_is_noted_when_the_code_has_left(
    worker: Worker, start: Start, stuck: Stuck, abandon: Any, agent: str
) -> None:
    run = start(agent)
    before = abandon(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    assert (entry.token.mode, entry.token.cause) == (StopMode.ABANDON, StopCause.REQUEST)
    assert not has_ended(run)
    stuck.may_leave.set()
    eventually(lambda: has_ended(run), "the end of the code")
    record = assert_consistent(run)
    assert (record.result, record.finished_at) == (None, before.finished_at)
    assert record.last_seq == before.last_seq
    eventually(lambda: local_runs.get(run.pk) is None)


def test_a_caller_in_its_process_gets_its_end_at_once(
    worker: Worker, start: Start, stuck: Stuck, abandon: Any, log: Journal
) -> None:
    run = start("caller")
    stuck.until_reached()
    stuck.reached.release()
    child = RunRecord.objects.get(parent=run)
    abandon(child)
    assert log.over(run).result == "without thread"
    assert_consistent(run)
    assert not has_ended(child)
    # Its caller has left, and its own code still takes room.
    eventually(lambda: worker.executor.root_count == 0)
    assert worker.executor.taken_count == 1
    stuck.may_leave.set()
    eventually(lambda: has_ended(child) and worker.executor.taken_count == 0)


def test_a_worker_that_hears_nothing_finds_it_by_polling(
    worker: Worker,
    start: Start,
    stuck: Stuck,
    abandon: Any,
    log: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stops, "deliver", lambda due: None)
    run = start("thread")
    log.until_event(run, "agent_start")  # its worker has nothing more to write
    abandon(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    eventually(lambda: entry.token.mode is StopMode.ABANDON, "the poll")
    assert entry.token.cause is StopCause.REQUEST
    stuck.may_leave.set()
    eventually(lambda: has_ended(run))


def test_its_code_keeps_its_place_in_the_worker_and_all_say_so(
    options: Any, hire: Any, start: Start, stuck: Stuck, abandon: Any, log: Journal
) -> None:
    options(MAX_CONCURRENT=2)
    worker = hire()
    run = start("thread")
    abandon(run)
    eventually(lambda: worker.abandoned_count == 1)
    worker.wake()
    eventually(lambda: row(worker).capacity == 1, "the record")
    assert "abandoned" in row(worker).limited_by
    gauges = {metric.name: metric.samples[0].value for metric in metrics_view._Process().collect()}
    assert gauges["halting_runs_abandoned_here"] == 1
    other = start("thread")
    stuck.until_reached()
    waiting = start("plain")
    assert not worker.has_capacity
    assert RunRecord.objects.get(pk=waiting.pk).status == Status.QUEUED
    stuck.may_leave.set()
    log.until_over(other, waiting)
    eventually(lambda: (row(worker).capacity, row(worker).limited_by) == (2, ""))
    assert worker.abandoned_count == 0


def test_a_drain_does_not_wait_for_it_and_notes_its_end(
    options: Any, hire: Any, start: Start, stuck: Stuck, abandon: Any
) -> None:
    options(DRAIN_SECONDS=600)
    worker = hire()
    run = start("thread")
    abandon(run)
    drained = threading.Thread(target=worker.drain_threads)
    drained.start()
    drained.join(10)
    assert not drained.is_alive()
    worker._retire()
    assert has_ended(run), "its process is about to end"


class TestABlockedLoop:
    """By code that was abandoned."""

    @pytest.fixture
    def blocked(self, worker: Worker, start: Start, abandon: Any) -> RunRecord:
        run = start("loop")
        abandon(run)
        eventually(lambda: worker.executor.is_blocked_by_abandoned, "the watchdog")
        return run

    def test_lets_the_worker_claim_nothing_and_say_why(
        self, worker: Worker, blocked: RunRecord, start: Start, stuck: Stuck, log: Journal
    ) -> None:
        run = start("plain")
        assert not worker.has_capacity
        eventually(lambda: (row(worker).capacity, row(worker).limited_by) == (0, BLOCKED))
        assert RunRecord.objects.get(pk=run.pk).status == Status.QUEUED
        stuck.may_leave.set()
        assert log.over(run).result == "done"
        eventually(lambda: has_ended(blocked))
        eventually(lambda: row(worker).limited_by == "")

    def test_by_a_run_that_is_not_abandoned_changes_nothing(
        self, worker: Worker, start: Start, stop: Any, stuck: Stuck
    ) -> None:
        run = start("loop")
        stuck.until_reached()
        stop(run, mode="abort")
        eventually(lambda: worker.blocked_seconds > 0)
        assert not worker.executor.is_blocked_by_abandoned
        assert worker.has_capacity

    def test_ends_the_process_once_if_it_is_to_be_replaced(
        self, options: Any, worker: Worker, blocked: RunRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[int] = []
        monkeypatch.setattr(claim_loop.os, "kill", lambda pid, number: sent.append(number))
        eventually(lambda: row(worker).limited_by == BLOCKED)
        assert sent == [], "by default it is not"
        options(REPLACE_WHEN_BLOCKED_SECONDS=0.1)
        eventually(lambda: sent == [signal.SIGTERM])
        assert worker.claim_loop is not None
        worker.claim_loop.claim_some()
        assert sent == [signal.SIGTERM]


def test_a_planned_one_is_carried_out_by_the_worker(
    worker: Worker, start: Start, stuck: Stuck, stop: Any, log: Journal
) -> None:
    run = start("thread")
    stuck.until_reached()
    stop(run, abort_after=0, abandon_after=0.3)
    record = log.over(run)
    assert (record.status, record.stop_abandoned) == (Status.STOPPED, True)
    assert record.stop_escalated_by is None
    assert_consistent(run)


def test_the_poll_finds_an_escalation_that_no_message_brought(
    worker: Worker, start: Start, stuck: Stuck, stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("thread")
    stuck.until_reached()
    stop(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    eventually(lambda: RunRecord.objects.get(pk=run.pk).stop_acknowledged_at is not None)
    monkeypatch.setattr(stops, "deliver", lambda due: None)
    assert (
        stopping.request_stop(run.pk, via="api", mode="abort", check_permission=False).outcome
        == "accepted"
    )
    eventually(lambda: entry.token.mode is StopMode.ABORT, "the poll")
    stuck.may_leave.set()
    eventually(lambda: RunRecord.objects.get(pk=run.pk).is_terminal)
    record = assert_consistent(run)
    log = record.events.filter(type="stop_requested").order_by("seq")
    assert [event.data["mode"] for event in log] == ["graceful", "abort"]


def test_a_worker_whose_write_is_refused_learns_why(
    worker: Worker,
    start: Start,
    stuck: Stuck,
    abandon: Any,
    log: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stops, "deliver", lambda due: None)
    monkeypatch.setattr(stops, "deliver_missed", lambda worker: None)
    run = start("thread")
    log.until_event(run, "agent_start")  # its worker has nothing more to write
    before = abandon(run)
    entry = local_runs.get(run.pk)
    assert entry is not None
    assert entry.guard is not None
    assert not entry.token.stopped
    entry.guard.trace.emit("log", {"message": "late"})
    eventually(lambda: entry.token.mode is StopMode.ABANDON, "the recorder")
    assert entry.token.cause is StopCause.REQUEST
    assert RunRecord.objects.get(pk=run.pk).last_seq == before.last_seq
    stuck.may_leave.set()
    eventually(lambda: has_ended(run))


def test_the_receipt_counts_the_calls_that_were_cut(
    worker: Worker, start: Start, stuck: Stuck, stop: Any, log: Journal
) -> None:
    run = start("thread")
    stuck.until_reached()
    entry = local_runs.get(run.pk)
    assert entry is not None
    stop(run, mode="abort")
    entry.guard.calls_cut = 2  # type: ignore[union-attr]
    stuck.may_leave.set()
    assert log.over(run).stop_calls_cut == 2
